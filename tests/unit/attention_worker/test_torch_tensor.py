"""The border between the wire's tensors and torch's."""

import pytest
import torch

from common.messages.tensor import Tensor
from services.attention_worker.torch_tensor import from_torch, to_torch


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(3, 5), (0, 5), (1,)])
def test_a_tensor_comes_back_as_it_went(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape).to(dtype)

    returned = to_torch(from_torch(tensor))

    assert returned.dtype == dtype
    assert torch.equal(returned, tensor)


def test_contiguous_tensors_cross_without_a_copy() -> None:
    tensor = torch.randn(3, 5).bfloat16()

    returned = to_torch(from_torch(tensor))

    assert returned.data_ptr() == tensor.data_ptr()


def test_a_column_of_a_tensor_crosses_by_copy() -> None:
    tensor = torch.randn(3, 5)

    assert torch.equal(to_torch(from_torch(tensor[:, 1:2])), tensor[:, 1:2])


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_memory_at_odd_addresses_is_read(offset: int) -> None:
    numbers = torch.tensor([1.0, -2.0, 3.5])
    buffer = bytearray(offset) + bytearray(from_torch(numbers).memory)

    tensor = Tensor(dtype="fp32", shape=(3,), memory=memoryview(buffer)[offset:])

    assert torch.equal(to_torch(tensor), numbers)


def test_read_only_memory_is_copied() -> None:
    memory = memoryview(bytes(from_torch(torch.ones(4)).memory))

    assert torch.equal(to_torch(Tensor(dtype="fp32", shape=(4,), memory=memory)), torch.ones(4))
