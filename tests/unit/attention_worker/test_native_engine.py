"""What the compiled kernels promise beyond what every engine does: precision, and odd memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.messages import Tensor
from services.attention_worker.native_engine import NativeEngine
from services.attention_worker.torch_tensor import TO_TORCH, from_torch, to_torch
from tests.support.paged_attention import (
    KERNELS,
    PagedRequest,
    advance,
    dense_attention,
    make_engine,
    random_qkv,
    run_alone,
)

WIDTH = (4 + 2 * 2) * 16
MAX_ERROR = {"fp32": 1e-6, "fp16": 1e-6, "bf16": 2e-3, "int8": 1e-2}
"""Of the output's norm, for queries, keys and values that the dtype holds exactly; int8 holds none."""

pytestmark = pytest.mark.skipif(not KERNELS, reason="the kernels are not built")


@pytest.fixture(scope="module", params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    """Name an instruction set."""
    return str(request.param)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", MAX_ERROR)
@given(data=st.data())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_rounding_stays_within_what_a_dtype_allows(
    kernel: str, dtype: str, data: st.DataObject
) -> None:
    num_kv_heads, group = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 9))
    head_size = data.draw(st.sampled_from([64, 80, 96, 128, 256]))
    page_size = data.draw(st.sampled_from([1, 16, 24, 64, 128]))
    length = data.draw(st.integers(1, 200))
    num_heads = num_kv_heads * group
    qkv = random_qkv(length, (num_heads + 2 * num_kv_heads) * head_size, seed=length)
    if dtype in TO_TORCH:
        qkv = qkv.to(TO_TORCH[dtype]).float()
    engine = make_engine(
        kernel=kernel,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=head_size,
        page_size=page_size,
        num_pages=200,
        dtype=dtype,
    )
    request = PagedRequest(qkv, data.draw(st.integers(0, length)), range(-(-length // page_size)))
    first = data.draw(st.integers(0, length - 1))

    output = run_alone(engine, request, [first, length - first] if first else [length])

    expected = dense_attention(qkv, num_heads, num_kv_heads)
    assert (output.double() - expected).norm() <= MAX_ERROR[dtype] * expected.norm()


@pytest.mark.parametrize("dtype", MAX_ERROR)
@pytest.mark.parametrize("page_size", [16, 64, 24])
def test_no_bit_depends_on_company_chunks_threads_or_pages(
    kernel: str, dtype: str, page_size: int
) -> None:
    qkv, company = (random_qkv(90, WIDTH, seed=seed) for seed in (1, 2))
    alone = run_alone(
        make_engine(kernel=kernel, dtype=dtype), PagedRequest(qkv, 50, range(6)), [50, *[1] * 40]
    )
    engine = make_engine(kernel=kernel, dtype=dtype, page_size=page_size, num_threads=2)
    pages_each = -(-90 // page_size)
    request = PagedRequest(qkv, 50, range(pages_each)[::-1])
    other = PagedRequest(company, 20, range(pages_each, 2 * pages_each))

    outputs = [advance(engine, [(other, 30), (request, rows)])[1] for rows in (7, 63, 20)]

    assert torch.equal(torch.cat(outputs), alone)


def test_a_long_context_is_shared_by_threads_and_no_bit_shows_it(kernel: str) -> None:
    qkv = random_qkv(2100, WIDTH)
    outputs = []

    for num_threads in (1, 2):
        engine = make_engine(kernel=kernel, num_pages=132, dtype="bf16", num_threads=num_threads)
        outputs.append(run_alone(engine, PagedRequest(qkv, 2090, range(132)), [2090, 1, 9]))

    assert torch.equal(*outputs)
    expected = dense_attention(qkv.bfloat16().float(), 4, 2)[-10:]
    assert (outputs[0][-10:].double() - expected).norm() <= 3e-3 * expected.norm()


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_received_memory_may_begin_at_an_odd_address(kernel: str, dtype: str) -> None:
    qkv = from_torch(random_qkv(20, WIDTH).to(TO_TORCH[dtype]))
    odd = bytearray(1) + bytearray(qkv.memory)
    moved = Tensor(dtype=dtype, shape=qkv.shape, memory=memoryview(odd)[1:])
    entries, page_table = np.array([(0, 0, 20, 2, 20, 0)], np.int32), np.arange(2, dtype=np.int32)
    odd_entries = np.frombuffer(b"\0" + entries.tobytes(), np.int32, offset=1).reshape(1, 6)
    engine = make_engine(kernel=kernel)
    expected = to_torch(engine.attend(0, entries, page_table, qkv))

    output = to_torch(engine.attend(0, odd_entries, page_table, moved))

    assert torch.equal(output, expected)


@pytest.mark.parametrize("dtype", MAX_ERROR)
@pytest.mark.parametrize("part", [0, 4 * 16, 6 * 16])
@pytest.mark.parametrize("what", [torch.nan, torch.inf])
def test_what_is_not_finite_shows_in_the_output(
    kernel: str, dtype: str, part: int, what: float
) -> None:
    qkv = random_qkv(20, WIDTH)
    qkv[10, part] = what

    output = run_alone(make_engine(kernel=kernel, dtype=dtype), PagedRequest(qkv, 10, [0, 1]), [20])

    assert not output[10].isfinite().all()


@pytest.mark.parametrize("dtype", MAX_ERROR)
def test_values_too_small_to_scale_come_out_finite(kernel: str, dtype: str) -> None:
    qkv = random_qkv(20, WIDTH)
    qkv[:, 6 * 16 :] *= 1e-40
    qkv[3, 6 * 16 :] = 0

    output = run_alone(make_engine(kernel=kernel, dtype=dtype), PagedRequest(qkv, 10, [0, 1]), [20])

    assert output.abs().max() < 1e-30


def test_log_sums_are_those_of_the_scores(kernel: str) -> None:
    engine = make_engine(kernel=kernel)
    assert isinstance(engine, NativeEngine)
    qkv = random_qkv(20, WIDTH)
    entries, page_table = np.array([(0, 0, 20, 2, 12, 0)], np.int32), np.arange(2, dtype=np.int32)
    log_sums = np.empty((20, 4), np.float32)

    engine.attend(0, entries, page_table, from_torch(qkv), log_sums)

    heads = qkv.view(20, 8, 16).transpose(0, 1)  # [H + 2 G, T, D]
    scores = heads[:4] @ heads[4:6].repeat_interleave(2, 0).mT / 4
    hidden = torch.ones(20, 20).triu(1).bool()
    expected = scores.masked_fill(hidden, -torch.inf).logsumexp(-1).T
    torch.testing.assert_close(torch.from_numpy(log_sums), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_with_the_kernels_a_worker_never_loads_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"  # importing it raises
        "from services.attention_worker import service\n"
        "from services.attention_worker.compute import Compute\n"
        "from services.attention_worker.config import AttentionWorkerSettings\n"
        "settings = AttentionWorkerSettings()\n"
        "Compute(settings, service.find_machine(settings))\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
