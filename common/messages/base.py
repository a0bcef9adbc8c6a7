"""How a message is declared: a frozen dataclass with a tag, known to the codec by that tag."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar, dataclass_transform


class Message:
    """What one service says to another. Fields are scalars, tuples, records and tensors."""

    __slots__ = ()
    TAG: ClassVar[str]


class Record:
    """A part of a message that has fields of its own; declared with `@record`."""

    __slots__ = ()


M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Record)

MESSAGES: dict[str, type[Message]] = {}
"""Every message by its tag. Filled by the declarations and read-only after import."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def message(tag: str) -> Callable[[type[M]], type[M]]:
    """Declare a message: make the class a frozen dataclass and give it its tag.

    A decorator and not `__init_subclass__`, because `slots=True` builds the class a second time.
    """

    def declare(cls: type[M]) -> type[M]:
        declared = dataclass(frozen=True, slots=True, kw_only=True)(cls)
        declared.TAG = tag
        assert tag not in MESSAGES, f"two messages are tagged {tag}"
        MESSAGES[tag] = declared
        return declared

    return declare


@dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: type[R]) -> type[R]:
    """Declare a record: make the class a frozen dataclass."""
    return dataclass(frozen=True, slots=True, kw_only=True)(cls)
