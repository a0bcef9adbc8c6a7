"""Twenty JSON schemas as jobs of extraction and labelling use them; every answer has an end."""

from typing import Any, Final

Schema = dict[str, Any]


def record(**properties: Schema) -> Schema:
    """An object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def text(max_length: int = 16) -> Schema:
    """A short text."""
    return {"type": "string", "maxLength": max_length}


def one_of(*values: str) -> Schema:
    """A label."""
    return {"enum": list(values)}


def whole(low: int, high: int) -> Schema:
    """A number in a range."""
    return {"type": "integer", "minimum": low, "maximum": high}


def several(items: Schema, low: int, high: int) -> Schema:
    """A short list."""
    return {"type": "array", "items": items, "minItems": low, "maxItems": high}


_YES_OR_NO: Final[Schema] = {"type": "boolean"}
_ADDRESS: Final = record(street=text(), zip={"type": "string", "pattern": "^[0-9]{5}$"})

SCHEMAS: Final[tuple[Schema, ...]] = (
    record(sentiment=one_of("positive", "neutral", "negative")),
    record(sentiment=one_of("positive", "negative"), confidence=whole(0, 100)),
    record(name=text(), age=whole(0, 120), email=text(24)),
    record(spam=_YES_OR_NO, reason=text(32)),
    record(labels=several(one_of("bug", "feature", "question", "docs"), 1, 3)),
    record(entities=several(record(text=text(), kind=one_of("person", "place")), 1, 3)),
    record(date={"type": "string", "format": "date"}, amount=whole(1, 99999)),
    record(title=text(32), tags=several(text(8), 0, 4)),
    record(address=_ADDRESS),
    record(billing=_ADDRESS, shipping=_ADDRESS),
    record(answer=one_of("A", "B", "C", "D"), why=text(40)),
    record(score=whole(1, 5)),
    record(product=text(), price=whole(1, 9999), currency=one_of("EUR", "USD"), stock=_YES_OR_NO),
    record(value={"anyOf": [whole(0, 999), text(8), {"type": "null"}]}),
    record(matrix=several(several(whole(0, 9), 2, 3), 2, 3)),
    record(phone={"type": "string", "pattern": "^\\+[0-9]{2} [0-9]{6,9}$"}, verified=_YES_OR_NO),
    {
        "type": "object",
        "properties": {"id": whole(1, 10**6), "note": text(24)},
        "required": ["id"],
        "additionalProperties": False,
    },
    {
        "$defs": {"point": record(x=whole(-99, 99), y=whole(-99, 99))},
        **record(start={"$ref": "#/$defs/point"}, end={"$ref": "#/$defs/point"}),
    },
    several(record(word=text(10), count=whole(1, 50)), 1, 4),
    record(kind={"const": "event"}, name=text(), days=several(one_of("mon", "tue", "wed"), 1, 2)),
)
