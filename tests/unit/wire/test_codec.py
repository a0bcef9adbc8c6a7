"""Messages to frames and back."""

from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import WireError
from common.ids import Epoch, MicrobatchId, Term, WorkerId
from common.messages import MESSAGES, Heartbeat, Message, Registered, StepFailed
from common.wire.codec import PROTOCOL_VERSION, Header, decode, encode
from common.wire.fields import form_of
from common.wire.limits import WireLimits
from tests.support.messages import all_messages, attention_request, messages

LIMITS = WireLimits()
HEADER = Header(
    term=Term(3), sender=WorkerId("layer-0"), sender_epoch=Epoch(2**60), receiver_epoch=Epoch(0)
)


def failed(reason: str) -> StepFailed:
    return StepFailed(
        microbatch_id=MicrobatchId(1), worker_id=WorkerId("layer-0"), reason=reason, blames=None
    )


def received(frames: list[Any]) -> Any:
    return decode(frames, LIMITS)[1]


@pytest.mark.parametrize("tag", sorted(MESSAGES))
def test_every_message_comes_back_as_it_was(tag: str) -> None:
    @settings(max_examples=15, deadline=None, derandomize=True, database=None)
    @given(message=messages(MESSAGES[tag]))
    def comes_back(message: Message) -> None:
        assert decode(encode(message, HEADER), LIMITS) == (HEADER, message)

    comes_back()


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(message=all_messages(), header=messages(Header))
def test_every_header_of_this_version_comes_back(message: Message, header: Header) -> None:
    frames = encode(message, header)

    if header.version == PROTOCOL_VERSION:
        assert decode(frames, LIMITS) == (header, message)
    else:
        with pytest.raises(WireError, match="protocol version"):
            decode(frames, LIMITS)


def test_a_sent_tensor_is_its_own_memory() -> None:
    request = attention_request([1, 2], [1, 1])

    frames = encode(request, HEADER)

    assert frames[1:] == [request.entries.memory, request.page_table.memory, request.qkv.memory]
    assert frames[3] is request.qkv.memory


def test_a_received_tensor_is_a_view_of_its_frame() -> None:
    frames = [bytearray(frame) for frame in encode(attention_request([1], [1]), HEADER)]

    message = received([memoryview(frame) for frame in frames])
    frames[3][0] ^= 0xFF

    assert message.qkv.memory[0] == frames[3][0]


def test_a_tensor_at_an_odd_address_reads_the_same() -> None:
    frames = encode(attention_request([1, 3], [1, 1]), HEADER)
    shifted = [memoryview(b"x" + bytes(frame))[1:] for frame in frames]

    message = received(shifted)

    assert np.array_equal(message.page_table.numpy(), np.arange(3))


def test_a_reason_that_is_no_text_still_goes_out() -> None:
    message = received(encode(failed("bad \udcff name"), HEADER))

    assert message.reason == r"bad \udcff name"


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 0.5, 1e300])
def test_floats_come_back_exactly(value: float) -> None:
    heartbeat = Heartbeat(
        worker_id=WorkerId("w"),
        epoch=Epoch(1),
        progress=0,
        busy=True,
        busy_s=value,
        tokens_per_s=0.0,
        links=(),
        waiting_for=(),
    )

    assert received(encode(heartbeat, HEADER)) == heartbeat


def test_a_float_may_be_written_as_an_integer() -> None:
    registered = Registered(layers=None, attention=None, heartbeat_s=1)

    message = received(encode(registered, HEADER))

    assert type(message.heartbeat_s) is float


def test_the_envelope_is_what_the_protocol_says() -> None:
    request = attention_request([1], [1])

    envelope = msgpack.unpackb(encode(request, HEADER)[0])

    assert envelope[:6] == [PROTOCOL_VERSION, 3, "step.attend", "layer-0", 2**60, 0]
    assert envelope[6] == [5, 3, 1, 1, ["worker", "tcp://127.0.0.1:5555", 7], 0, 1, 2]
    assert envelope[7] == [["int32", [1, 6]], ["int32", [1]], ["fp16", [1, 12]]]


@pytest.mark.parametrize("hint", [dict[str, int], list[int], tuple[int, int], int | str, object])
def test_a_type_without_a_form_is_refused_at_once(hint: object) -> None:
    with pytest.raises(TypeError, match="cannot cross the wire"):
        form_of(hint)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(text=st.text())
def test_every_text_comes_back(text: str) -> None:
    assert received(encode(failed(text), HEADER)).reason == text
