"""Weights allocated on huge pages are ordinary tensors."""

from __future__ import annotations

import pytest
import torch

from graphopt.ir.storage import ALIGNMENT, LARGE, copied, empty_tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.float64, torch.bool])
@pytest.mark.parametrize("elements", [0, 3, LARGE])
def test_allocation_is_contiguous_aligned_and_writable(dtype: torch.dtype, elements: int) -> None:
    tensor = empty_tensor((elements, 2), dtype)
    assert tensor.shape == (elements, 2) and tensor.dtype is dtype and tensor.is_contiguous()
    assert tensor.data_ptr() % ALIGNMENT == 0 or not elements
    assert not tensor.zero_().any()


@pytest.mark.parametrize("elements", [5, LARGE])
def test_a_copy_is_equal_and_independent(elements: int) -> None:
    original = torch.arange(elements, dtype=torch.float32).requires_grad_()
    copy = copied(original)
    assert torch.equal(copy, original) and not copy.requires_grad
    copy.zero_()
    assert original[-1] == elements - 1


def test_a_copy_keeps_its_strides() -> None:
    channels_last = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert copied(channels_last).stride() == channels_last.stride()
