"""Which engine a machine gets."""

import os

import pytest

from common.errors import SettingsError
from services.attention_worker import native_library
from services.attention_worker.config import AttentionWorkerSettings
from services.attention_worker.machine import find_machine
from tests.support.paged_attention import KERNELS


@pytest.mark.skipif(not KERNELS, reason="the kernels are not built")
def test_the_fastest_instructions_are_taken() -> None:
    assert find_machine(AttentionWorkerSettings()).kernel_path == f"cpu-{KERNELS[-1]}"


def test_without_the_kernels_attention_runs_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "load", lambda: None)

    assert find_machine(AttentionWorkerSettings()).instruction_set == "torch"


def test_instructions_that_cannot_run_here_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "load", lambda: None)

    with pytest.raises(SettingsError, match="avx2 cannot run here, only gather, torch can"):
        find_machine(AttentionWorkerSettings(kernel="avx2"))


def test_pinned_threads_leave_a_cpu_for_messages() -> None:
    cpus = sorted(os.sched_getaffinity(0))

    machine = find_machine(AttentionWorkerSettings(pin_threads=True))

    assert machine.cpus == tuple(cpus[:-1] or cpus)
    assert machine.num_threads == len(machine.cpus)


@pytest.mark.parametrize(("can_compile", "kernel"), [(True, "triton"), (False, "gather")])
def test_a_gpu_looks_at_pages_where_they_are_if_kernels_can_be_compiled(
    monkeypatch: pytest.MonkeyPatch, can_compile: bool, kernel: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("services.attention_worker.machine.can_compile", lambda: can_compile)

    machine = find_machine(AttentionWorkerSettings(device="cuda:0"))

    assert machine.kernel_path == f"cuda-{kernel}"
