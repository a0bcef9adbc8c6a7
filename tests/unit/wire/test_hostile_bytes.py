"""Whatever the bytes are: a message or a `WireError`."""

from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import WireError
from common.ids import Epoch, Term, WorkerId
from common.messages import ForwardMicrobatch, Message
from common.wire.codec import Header, decode, encode
from common.wire.limits import WireLimits
from tests.support.messages import all_messages, attention_request, forward_microbatch

LIMITS = WireLimits()
HEADER = Header(term=Term(1), sender=WorkerId("w"), sender_epoch=Epoch(2), receiver_epoch=Epoch(3))
FUZZ = settings(max_examples=60, deadline=None, derandomize=True, database=None)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)

ENTRIES = ["int32", [1, 6]]
PAGES = ["int32", [1]]


def decoded(frames: list[Any]) -> Message | None:
    """Decode; None is a rejection, and any other exception is the bug these tests look for."""
    try:
        return decode(frames, LIMITS)[1]
    except WireError:
        return None


def heartbeat_with(**changes: Any) -> list[bytes]:
    """Give a heartbeat's frame with changed envelope items or fields."""
    fields = {
        "worker_id": "w",
        "epoch": 1,
        "progress": 1,
        "busy": True,
        "busy_s": 1.0,
        "tokens_per_s": 0.0,
        "links": [["w", 1]],
        "waiting_for": [],
    }
    envelope = {
        "version": 1,
        "term": 1,
        "tag": "member.heartbeat",
        "sender": "w",
        "sender_epoch": 1,
        "receiver_epoch": 1,
        "fields": [changes.get(name, value) for name, value in fields.items()],
        "tensors": [],
    }
    return [msgpack.packb([changes.get(name, value) for name, value in envelope.items()])]


def attend_with(descriptions: Any, frames: list[bytes], numbers: Any = (0, 1, 2)) -> list[bytes]:
    """Give the frames of an attention request with these tensors."""
    hop = ["w", "tcp://127.0.0.1:1", 1]
    fields = [5, 3, 1, 0, hop, *numbers]
    return [msgpack.packb([1, 1, "step.attend", "w", 1, 1, fields, descriptions]), *frames]


def test_the_corpus_starts_from_messages_that_are_fine() -> None:
    request = attention_request([1], [1], 1)
    memory = [bytes(frame) for frame in encode(request, HEADER)[1:]]

    assert decoded(heartbeat_with()) is not None
    assert decoded(attend_with([ENTRIES, PAGES, ["fp16", [1, 12]]], memory)) is not None


@FUZZ
@given(frames=st.lists(st.binary(max_size=80), max_size=5))
def test_random_bytes_are_rejected(frames: list[bytes]) -> None:
    assert decoded(frames) is None


@FUZZ
@given(envelope=ANYTHING, frames=st.lists(st.binary(max_size=8), max_size=2))
def test_random_objects_are_rejected(envelope: Any, frames: list[bytes]) -> None:
    assert decoded([msgpack.packb(envelope), *frames]) is None


@FUZZ
@given(message=all_messages(), data=st.data())
def test_a_changed_byte_never_escapes_as_another_error(
    message: Message, data: st.DataObject
) -> None:
    frames = [bytearray(frame) for frame in encode(message, HEADER)]
    for _ in range(data.draw(st.integers(1, 4))):
        frame = data.draw(st.sampled_from([frame for frame in frames if frame]))
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))

    decoded([memoryview(frame) for frame in frames])


@FUZZ
@given(message=all_messages(), data=st.data())
def test_a_changed_item_never_escapes_as_another_error(
    message: Message, data: st.DataObject
) -> None:
    envelope, *frames = encode(message, HEADER)
    items = msgpack.unpackb(envelope)
    place = items
    while isinstance(place, list) and place:
        index = data.draw(st.integers(0, len(place) - 1))
        if not isinstance(place[index], list) or not place[index] or data.draw(st.booleans()):
            place[index] = data.draw(ANYTHING)
            break
        place = place[index]

    decoded([msgpack.packb(items), *frames])


@FUZZ
@given(message=all_messages(), data=st.data())
def test_missing_bytes_are_rejected(message: Message, data: st.DataObject) -> None:
    frames = encode(message, HEADER)
    index = data.draw(st.sampled_from([i for i, frame in enumerate(frames) if len(frame)]))
    frames[index] = frames[index][: data.draw(st.integers(0, len(frames[index]) - 1))]

    assert decoded(frames) is None


@FUZZ
@given(message=all_messages(), extra=st.binary(max_size=4))
def test_extra_and_missing_frames_are_rejected(message: Message, extra: bytes) -> None:
    frames = encode(message, HEADER)

    assert decoded([*frames, extra]) is None
    assert decoded(frames[:-1]) is None


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\x80",
        msgpack.packb({}),
        msgpack.packb([]),
        msgpack.packb([1]),
        msgpack.packb([1] * 9),
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdd\x00\x01\x00\x00" * 1000,
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\x98" + b"\x80" * 8,
        b"\x9f" + b"\xd6\xff\0\0\0\0" * 15,
        msgpack.packb([{}] * 100_000),
        bytes(LIMITS.max_envelope_bytes + 1),
    ],
    ids=repr,
)
def test_a_hostile_envelope_is_rejected(frame: bytes) -> None:
    assert decoded([frame]) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"version": True},
        {"version": None},
        {"tag": "step.unknown"},
        {"tag": ["member.heartbeat"]},
        {"tag": b"member.heartbeat"},
        {"term": -1},
        {"term": 2**63},
        {"term": 1.0},
        {"sender": 7},
        {"sender_epoch": None},
        {"receiver_epoch": True},
        {"fields": []},
        {"fields": None},
        {"fields": ["w", 1, 1, 1.0, [], [], 1]},
        {"tensors": None},
        {"tensors": [["fp32", [1]]]},
        {"worker_id": b"w"},
        {"worker_id": "w" * (LIMITS.max_text_bytes + 1)},
        {"epoch": True},
        {"epoch": -1},
        {"epoch": 2**64 - 1},
        {"progress": 1.5},
        {"progress": None},
        {"busy_s": "1"},
        {"busy_s": False},
        {"links": "ab"},
        {"links": {}},
        {"links": [["w"]]},
        {"links": [["w", 1, 1]]},
        {"links": [None]},
        {"waiting_for": [1]},
        {"waiting_for": ["w"] * (LIMITS.max_items + 1)},
    ],
    ids=lambda changes: repr(changes)[:40],
)
def test_a_wrong_item_is_rejected(changes: dict[str, Any]) -> None:
    assert decoded(heartbeat_with(**changes)) is None


@pytest.mark.parametrize(
    ("dtype", "shape", "frame"),
    [
        ("fp16", [1, -12], bytes(24)),
        ("fp16", [-1, -12], bytes(24)),
        ("fp16", [1, 2**62], bytes(24)),
        ("fp16", [2**62, 2**62], bytes(24)),
        ("fp16", [0, 2**62], b""),
        ("fp16", [1, True], bytes(2)),
        ("fp16", [1, 12.0], bytes(24)),
        ("fp16", [1] * 9, bytes(2)),
        ("fp16", [1, 13], bytes(24)),
        ("fp16", 12, bytes(24)),
        ("fp16", None, bytes(24)),
        ("float16", [1, 12], bytes(24)),
        (b"fp16", [1, 12], bytes(24)),
        (["fp16"], [1, 12], bytes(24)),
        ("object", [1, 3], bytes(24)),
        ("int64", [1, 3], bytes(24)),
        ("fp16", [12], bytes(24)),
        ("fp16", [2, 6], bytes(24)),
    ],
)
def test_a_wrong_tensor_is_rejected(dtype: Any, shape: Any, frame: bytes) -> None:
    memory = [bytes(frame) for frame in encode(attention_request([1], [1], 1), HEADER)[1:]]

    assert decoded(attend_with([ENTRIES, PAGES, [dtype, shape]], [*memory[:2], frame])) is None


@pytest.mark.parametrize("numbers", [(0, 1, 1), (0, 1, 3), (0, 1, -1), (0, 1, None), (0, 1, True)])
def test_a_tensor_that_is_not_there_is_rejected(numbers: tuple[Any, ...]) -> None:
    memory = [bytes(frame) for frame in encode(attention_request([1], [1], 1), HEADER)[1:]]

    assert decoded(attend_with([ENTRIES, PAGES, ["fp16", [1, 12]]], memory, numbers)) is None


def test_a_message_over_the_total_is_rejected() -> None:
    frames = encode(forward_microbatch([1], [1]), HEADER)
    size_bytes = sum(len(frame) for frame in frames)

    with pytest.raises(WireError, match=f"{size_bytes} bytes, {size_bytes - 1} are allowed"):
        decode(frames, WireLimits(max_message_bytes=size_bytes - 1))


@pytest.mark.parametrize(
    "break_it",
    [
        lambda frames: frames[:3],
        lambda frames: [frames[0][:-1], *frames[1:]],
        lambda frames: [frames[0], frames[1][:-1], *frames[2:]],
    ],
)
def test_a_rejection_is_one_line(break_it: Callable[[list[Any]], list[Any]]) -> None:
    frames = break_it(encode(forward_microbatch([1], [1]), HEADER))

    with pytest.raises(WireError) as rejected:
        decode(frames, LIMITS)

    assert "\n" not in str(rejected.value)
    assert len(str(rejected.value)) < 300


def test_a_rejection_names_tag_sender_and_field() -> None:
    with pytest.raises(WireError, match=r"member.heartbeat from w: links: sent_bytes: expected an"):
        decode(heartbeat_with(links=[["w", "many"]]), LIMITS)


def test_a_forward_microbatch_has_fewer_frames_than_allowed() -> None:
    message: ForwardMicrobatch = forward_microbatch([1], [1])

    assert len(encode(message, HEADER)) < LIMITS.max_frames
