"""Messages to frames and back: whatever the bytes are, a message or a `WireError`.

A message is `[envelope, tensor, tensor, …]`. The envelope is the msgpack array

    [version, term, tag, sender, sender's epoch, receiver's epoch, fields, [[dtype, shape], …]]

where `fields` are the message's fields in the order of their declaration, a record is an array of
its fields, and a tensor is its number. Each tensor is one raw frame, little-endian and row-major.
Nothing is copied: a decoded tensor is a view of its frame.
"""

import reprlib
from collections.abc import Sequence
from typing import Any

import msgpack  # type: ignore[import-untyped]

from common.errors import WireError
from common.ids import Epoch, Term, WorkerId
from common.messages import MESSAGES, Message, Tensor
from common.messages.base import Record, record
from common.messages.checks import check
from common.messages.tensor import DTYPE_BYTES
from common.wire.fields import form_of
from common.wire.limits import WireLimits

PROTOCOL_VERSION = 1
"""Raised by every change that makes old and new processes misunderstand each other."""

MAX_DIMENSIONS = 8
"""Dimensions of a tensor."""

ENVELOPE_ITEMS = 8

Frame = bytes | memoryview


@record
class Header(Record):
    """Who speaks, and to which lives of router and receiver."""

    version: int = PROTOCOL_VERSION
    term: Term
    """The life of the router that the sender belongs to; 0 before it knows."""
    sender: WorkerId
    sender_epoch: Epoch
    receiver_epoch: Epoch
    """The life of the receiver that is meant; 0 where any is (the router's inbox)."""


def encode(message: Message, header: Header) -> list[Frame]:
    """Give the frames of a message: the envelope, then the memory of its tensors as it is."""
    tensors: list[Tensor] = []
    declared: Any = type(message)
    write = form_of(declared).write
    assert write is not None
    fields = write(message, tensors)
    envelope = msgpack.packb(
        (
            header.version,
            header.term,
            message.TAG,
            header.sender,
            header.sender_epoch,
            header.receiver_epoch,
            fields,
            [(tensor.dtype, tensor.shape) for tensor in tensors],
        ),
        # A reason may quote what is no text; a message about it must go out all the same.
        unicode_errors="backslashreplace",
    )
    return [envelope, *(tensor.memory for tensor in tensors)]


def decode(frames: Sequence[Frame], limits: WireLimits) -> tuple[Header, Message]:
    """Read a message; its tensors are views of the frames.

    Raises:
        WireError: The frames are no message, or one that exceeds the limits.
    """
    views = [memoryview(frame) for frame in frames]
    envelope = _unpack(views, limits)
    version, term, tag, sender, sender_epoch, receiver_epoch, fields, descriptions = envelope
    header: Header = form_of(Header).read((version, term, sender, sender_epoch, receiver_epoch), {})
    declared: Any = MESSAGES.get(tag) if type(tag) is str else None
    if declared is None:
        raise WireError(f"no message is tagged {reprlib.repr(tag)}", kind="tag")
    try:
        tensors = _tensors(descriptions, views[1:], limits)
        message: Message = form_of(declared).read(fields, tensors)
        if tensors:
            raise WireError(f"{len(tensors)} tensors belong to no field", kind="tensors")
        check(message)
    except WireError as error:
        raise WireError(f"{tag} from {sender}: {error}", kind=error.kind) from None
    return header, message


def _unpack(frames: Sequence[memoryview], limits: WireLimits) -> tuple[Any, ...]:
    if not 1 <= len(frames) <= limits.max_frames:
        raise WireError(f"{len(frames)} frames, 1 to {limits.max_frames} are allowed", kind="size")
    size_bytes = sum([frame.nbytes for frame in frames])
    if size_bytes > limits.max_message_bytes:
        raise WireError(f"{size_bytes} bytes, {limits.max_message_bytes} are allowed", kind="size")
    if frames[0].nbytes > limits.max_envelope_bytes:
        raise WireError(
            f"an envelope of {frames[0].nbytes} bytes, {limits.max_envelope_bytes} are allowed",
            kind="size",
        )
    try:
        envelope = msgpack.unpackb(
            frames[0],
            use_list=False,
            object_hook=_refuse_map,
            max_map_len=0,
            max_ext_len=0,
            max_array_len=limits.max_items,
            max_str_len=limits.max_text_bytes,
        )
    except ValueError as error:  # the root of all that msgpack raises
        raise WireError(f"the envelope is not msgpack: {error!r}", kind="envelope") from None
    if type(envelope) is not tuple or not envelope:
        raise WireError("the envelope is not an array", kind="envelope")
    if type(envelope[0]) is not int or envelope[0] != PROTOCOL_VERSION:
        raise WireError(
            f"protocol version {reprlib.repr(envelope[0])}, this process speaks"
            f" {PROTOCOL_VERSION}: run the same release everywhere",
            kind="version",
        )
    if len(envelope) != ENVELOPE_ITEMS:
        raise WireError(
            f"an envelope of {len(envelope)} items, expected {ENVELOPE_ITEMS}", kind="envelope"
        )
    return envelope


def _refuse_map(_: Any) -> None:
    # No message has a map, and a megabyte of empty ones would become a hundred of objects.
    raise WireError("the envelope holds a map", kind="envelope")


def _tensors(
    descriptions: Any, frames: Sequence[memoryview], limits: WireLimits
) -> dict[int, Tensor]:
    if type(descriptions) is not tuple or len(descriptions) != len(frames):
        raise WireError(
            f"{len(frames)} tensor frames, described are {reprlib.repr(descriptions)}",
            kind="tensors",
        )
    return {
        number: _tensor(description, frame, limits)
        for number, (description, frame) in enumerate(zip(descriptions, frames, strict=True))
    }


def _tensor(description: Any, frame: memoryview, limits: WireLimits) -> Tensor:
    if not _describes_a_tensor(description):
        raise WireError(f"{reprlib.repr(description)} describes no tensor", kind="tensors")
    dtype, shape = description
    size_bytes = widest = DTYPE_BYTES[dtype]
    for size in shape:
        size_bytes *= size
        widest *= size or 1  # a dimension of 0 must not hide others that no library could hold
    if widest > limits.max_message_bytes or size_bytes != frame.nbytes:
        raise WireError(
            f"{dtype} {reprlib.repr(shape)} in a frame of {frame.nbytes} bytes", kind="tensors"
        )
    return Tensor(dtype=dtype, shape=shape, memory=frame)


def _describes_a_tensor(description: Any) -> bool:
    if type(description) is not tuple or len(description) != 2:
        return False
    dtype, shape = description
    if type(dtype) is not str or dtype not in DTYPE_BYTES:
        return False
    if type(shape) is not tuple or len(shape) > MAX_DIMENSIONS:
        return False
    for size in shape:  # noqa: SIM110 - `all` takes three times as long
        if type(size) is not int or size < 0:
            return False
    return True
