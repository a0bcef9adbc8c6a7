"""Read a checkpoint's JSON settings with the types that are needed, or refuse the checkpoint."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from common.errors import ModelRefused


@dataclass(frozen=True, slots=True)
class ConfigJson:
    """One JSON object of a checkpoint; `null` counts as absent, as transformers writes it."""

    name: str
    """What a refusal calls it, for example the file's path."""

    fields: Mapping[str, object]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that holds one JSON object.

        Raises:
            ModelRefused: There is no such file, or it is not a JSON object.
        """
        try:
            fields = json.loads(path.read_bytes())
        except OSError as error:
            message = f"{path} cannot be read ({error.strerror}): a Hugging Face checkpoint has it"
            raise ModelRefused(message) from error
        except ValueError as error:
            message = f"{path} is not JSON ({error}): download it again"
            raise ModelRefused(message) from error
        if not isinstance(fields, dict):
            message = f"{path} is not a JSON object: download it again"
            raise ModelRefused(message)
        return cls(str(path), fields)

    def section(self, *keys: str) -> Self:
        """Give the first of these nested objects that is present; an empty one if none is."""
        for key in keys:
            section = self.fields.get(key) or {}
            if not isinstance(section, dict):
                raise self._wrong(key, "an object")
            if section:
                return type(self)(f"{self.name}: {key}", section)
        return type(self)(f"{self.name}: {keys[0]}", {})

    def integer(self, key: str, default: int | None = None) -> int:
        """Read a count: an integer of at least 1."""
        match self._value(key, default):
            case int(value) if value > 0 and not isinstance(value, bool):
                return value
        raise self._wrong(key, "an integer of at least 1")

    def number(self, key: str, default: float | None = None) -> float:
        """Read a positive, finite number."""
        match self._value(key, default):
            case int(value) | float(value) if not isinstance(value, bool):
                if math.isfinite(value) and value > 0:
                    return float(value)
        raise self._wrong(key, "a positive number")

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Read a truth value."""
        match self._value(key, default):
            case bool(value):
                return value
        raise self._wrong(key, "true or false")

    def text(self, key: str, default: str | None = None) -> str:
        """Read a word."""
        match self._value(key, default):
            case str(value):
                return value
        raise self._wrong(key, "a string")

    def token_ids(self, key: str) -> tuple[int, ...]:
        """Read one token id, or a list of them, or none."""
        value = self.fields.get(key)
        token_ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(type(token_id) is not int or token_id < 0 for token_id in token_ids):
            raise self._wrong(key, "a token id or a list of them")
        return tuple(token_ids)

    def _value(self, key: str, default: object) -> object:
        value = self.fields.get(key)
        return default if value is None else value

    def _wrong(self, key: str, needed: str) -> ModelRefused:
        found = json.dumps(self.fields[key])[:60] if key in self.fields else "missing"
        return ModelRefused(f"{self.name}: {key} is {found}, it must be {needed}")
