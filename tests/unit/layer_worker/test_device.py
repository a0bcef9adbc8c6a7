"""A GPU's streams wait for each other where they must, and nothing waits for an earlier launch."""

import pytest
import torch

from common.errors import SettingsError
from services.layer_worker.cuda_device import CudaDevice
from services.layer_worker.device import CpuDevice, Finished, open_device
from tests.support.device import RecordedCuda

CPU = torch.device("cpu")


@pytest.fixture
def cuda() -> RecordedCuda:
    return RecordedCuda()


def add(inputs):
    left, right = inputs
    return left, [left + right]


def as_it_is(finished: Finished) -> Finished:
    return finished


@pytest.mark.parametrize("make", [lambda cuda: CpuDevice(), lambda cuda: CudaDevice(CPU, cuda)])
def test_parts_are_joined_and_what_stays_and_what_comes_back_are_told_apart(make, cuda):
    device = make(cuda)
    parts = [torch.ones(1, 2), torch.full((2, 2), 2.0)]

    finished = device.launch([parts, [torch.ones(3, 2)]], add, as_it_is).finish()

    assert finished.kept.tolist() == [[1, 1], [2, 2], [2, 2]]
    assert [each.tolist() for each in finished.taken] == [[[2, 2], [3, 3], [3, 3]]]


def test_computing_waits_for_what_comes_in_and_the_host_for_what_goes_out(cuda):
    device = CudaDevice(CPU, cuda)

    launched = device.launch([[torch.ones(1)], [torch.ones(1)]], add, as_it_is)
    before = list(cuda.record)
    launched.finish()

    assert before == [
        ("computing", "waits for", "incoming"),
        ("outgoing", "waits for", "computing"),
    ]
    assert cuda.record[2:] == [("host", "waits for", "outgoing")]


def test_the_seconds_of_a_launch_are_those_of_the_device(cuda):
    launched = CudaDevice(CPU, cuda).launch([[torch.ones(1)], [torch.ones(1)]], add, as_it_is)

    assert launched.finish().seconds == pytest.approx(0.003)


def test_a_second_launch_waits_for_nothing_of_the_first(cuda):
    device = CudaDevice(CPU, cuda)
    rows = torch.ones(1)
    first = device.launch([[rows], [rows]], add, as_it_is)

    rows.fill_(5.0)  # the sender may use its memory again
    second = device.launch([[rows], [rows]], add, as_it_is)

    assert ("host", "waits for", "outgoing") not in cuda.record
    assert [each.finish().taken[0].item() for each in (second, first)] == [10.0, 2.0]


def test_what_two_streams_use_lives_until_the_end(cuda):
    launched = CudaDevice(CPU, cuda).launch([[torch.ones(1)], [torch.ones(1)]], add, as_it_is)

    staged, inputs, outputs, compute = launched.holds

    assert (len(staged), len(inputs), len(outputs), compute) == (2, 2, 1, add)


def test_a_capture_is_made_alone_after_warming_up_and_then_replayed(cuda):
    device = CudaDevice(CPU, cuda)
    calls = []

    replay = device.capture(lambda: calls.append(cuda.now_on()))
    replay()

    assert calls == ["computing", "computing", "everybody's stream"]
    assert cuda.record == [
        ("all", "waited for"),
        ("all", "waited for"),
        ("computing", "captures into", "pool"),
        ("everybody's stream", "replays"),
    ]


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_without_a_gpu_the_processor_computes(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert isinstance(open_device(name, None), CpuDevice)


@pytest.mark.parametrize(("name", "found"), [("cuda", 0), ("cuda:2", 2)])
def test_a_gpu_that_is_not_there_is_refused_in_one_line(name, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)

    with pytest.raises(SettingsError, match=f"--device {name}: torch finds {found or 'no'} GPUs"):
        open_device(name, None)
