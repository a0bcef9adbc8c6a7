"""What a declared type looks like in the envelope: compiled once per type, from the type hint."""

import dataclasses
import reprlib
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, NewType, Union

from common.errors import WireError
from common.ids import PageId, RequestId
from common.messages.base import Message, Record
from common.messages.tensor import Tensor

INT64_MAX = 2**63 - 1
INT32_MAX = 2**31 - 1

MAX_INTEGER: dict[Any, int] = {RequestId: INT32_MAX, PageId: INT32_MAX}
"""Largest value of the ids that also travel in int32 arrays; other integers reach `INT64_MAX`."""


@dataclass(frozen=True, slots=True)
class Form:
    """How values of one type cross the wire."""

    write: Callable[[Any, list[Tensor]], Any] | None
    """Turn a value into what msgpack packs, and append its tensors; None: it goes as it is."""
    read: Callable[[Any, dict[int, Tensor]], Any]
    """Turn what msgpack unpacked into a value, and take its tensors out by number.

    Raises:
        WireError: It is no value of this type.
    """


@cache
def form_of(hint: Any) -> Form:
    """Compile the form of a declared type.

    Raises:
        TypeError: Values of this type cannot cross the wire; the declaration is wrong.
    """
    if isinstance(hint, NewType):
        if hint.__supertype__ is int:
            return _integer(MAX_INTEGER.get(hint, INT64_MAX))
        return form_of(hint.__supertype__)
    if hint in _SIMPLE:
        return _SIMPLE[hint]()
    if isinstance(hint, type) and issubclass(hint, Message | Record):
        return _record(hint)
    compose = _COMPOSED.get(typing.get_origin(hint))
    if compose is None:
        raise TypeError(f"{hint} cannot cross the wire")
    return compose(typing.get_args(hint))


def _wrong(expected: str, value: Any) -> WireError:
    return WireError(f"expected {expected}, got {reprlib.repr(value)}")


def _integer(maximum: int = INT64_MAX) -> Form:
    def read(value: Any, _: dict[int, Tensor]) -> int:
        # Not isinstance: a bool is an int to Python.
        if type(value) is int and 0 <= value <= maximum:
            return value
        raise _wrong(f"an integer in [0, {maximum}]", value)

    return Form(None, read)


def _float() -> Form:
    def read(value: Any, _: dict[int, Tensor]) -> float:
        if type(value) is float:
            return value
        if type(value) is int:  # what was written as 1 and not as 1.0
            return float(value)
        raise _wrong("a float", value)

    return Form(None, read)


def _exactly(kind: type) -> Callable[[], Form]:
    def compile_it() -> Form:
        def read(value: Any, _: dict[int, Tensor]) -> Any:
            if type(value) is kind:
                return value
            raise _wrong(f"a {kind.__name__}", value)

        return Form(None, read)

    return compile_it


def _tensor() -> Form:
    def write(tensor: Tensor, tensors: list[Tensor]) -> int:
        tensors.append(tensor)
        return len(tensors) - 1

    def read(value: Any, tensors: dict[int, Tensor]) -> Tensor:
        tensor = tensors.pop(value, None) if type(value) is int else None
        if tensor is None:
            raise _wrong("the number of a tensor that is left", value)
        return tensor

    return Form(write, read)


def _literal(choices: tuple[Any, ...]) -> Form:
    def read(value: Any, _: dict[int, Tensor]) -> str:
        if type(value) is str and value in choices:
            return value
        raise _wrong(f"one of {', '.join(choices)}", value)

    return Form(None, read)


def _optional(choices: tuple[Any, ...]) -> Form:
    present = [choice for choice in choices if choice is not NoneType]
    if len(present) != 1 or len(choices) != 2:
        raise TypeError(f"{choices} cannot cross the wire: only `X | None` can")
    form = form_of(present[0])

    def read(value: Any, tensors: dict[int, Tensor]) -> Any:
        return None if value is None else form.read(value, tensors)

    def write(value: Any, tensors: list[Tensor]) -> Any:
        assert form.write is not None
        return None if value is None else form.write(value, tensors)

    return Form(form.write and write, read)


def _tuple(arguments: tuple[Any, ...]) -> Form:
    if len(arguments) != 2 or arguments[1] is not Ellipsis:
        raise TypeError(f"tuple[{arguments}] cannot cross the wire: only `tuple[X, ...]` can")
    form = form_of(arguments[0])

    def read(value: Any, tensors: dict[int, Tensor]) -> tuple[Any, ...]:
        if type(value) is not tuple:
            raise _wrong("an array", value)
        return tuple([form.read(item, tensors) for item in value])

    def write(value: tuple[Any, ...], tensors: list[Tensor]) -> list[Any]:
        assert form.write is not None
        return [form.write(item, tensors) for item in value]

    return Form(form.write and write, read)


def _record(declared: Any) -> Form:
    hints = typing.get_type_hints(declared)
    forms = [(field.name, form_of(hints[field.name])) for field in dataclasses.fields(declared)]
    readers = [(name, form.read) for name, form in forms]

    def read(value: Any, tensors: dict[int, Tensor]) -> Any:
        if type(value) is not tuple or len(value) != len(forms):
            raise _wrong(f"an array of {len(forms)} fields", value)
        fields = {}
        name = ""
        try:
            for (name, read_field), item in zip(readers, value, strict=True):
                fields[name] = read_field(item, tensors)
        except WireError as error:
            raise WireError(f"{name}: {error}") from None
        return declared(**fields)

    def write(value: Any, tensors: list[Tensor]) -> list[Any]:
        return [
            getattr(value, name)
            if form.write is None
            else form.write(getattr(value, name), tensors)
            for name, form in forms
        ]

    return Form(write, read)


_SIMPLE: dict[Any, Callable[[], Form]] = {
    int: _integer,
    float: _float,
    bool: _exactly(bool),
    str: _exactly(str),
    bytes: _exactly(bytes),
    Tensor: _tensor,
}

_COMPOSED: dict[Any, Callable[[tuple[Any, ...]], Form]] = {
    Literal: _literal,
    Union: _optional,
    UnionType: _optional,
    tuple: _tuple,
}
