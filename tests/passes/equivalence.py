"""Whether two graphs compute the same, within a declared contract, by interpreting both."""

from __future__ import annotations

import warnings

import torch

from graphopt.analysis.interpreter import Interpreter
from graphopt.ir import Graph
from graphopt.rewrite import Contract
from tests.passes.sampling import SIZES, sample_inputs


def assert_equivalent(before: Graph, after: Graph, contract: Contract, *, special: bool = True, seed: int = 0) -> None:
    """Run both graphs on ordinary and on special inputs, at two sizes, and hold the results to the contract."""
    for index, sizes in enumerate(SIZES):
        for with_special in (False, True) if special else (False,):
            inputs = sample_inputs(before, seed + index, special=with_special, sizes=sizes)
            _compare(before, after, inputs, contract, with_special)


def _compare(before: Graph, after: Graph, inputs: list, contract: Contract, special: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = Interpreter(before, contiguous=True).run(*inputs)
        new = Interpreter(after, contiguous=True).run(*inputs)
    for a, b in zip(old, new, strict=True):
        _hold(a, b, contract, 2e-4, special)
    if contract is Contract.REASSOCIATING:
        old = Interpreter(before, float64=True).run(*inputs)
        new = Interpreter(after, float64=True).run(*inputs)
        for a, b in zip(old, new, strict=True):
            _hold(a, b, contract, 2e-6, special)


def _hold(a: torch.Tensor, b: torch.Tensor, contract: Contract, tolerance: float, special: bool) -> None:
    if not isinstance(a, torch.Tensor):
        assert a == b
        return
    assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, a.shape, b.dtype, b.shape)
    if not a.numel():
        return
    if contract is Contract.BITWISE:
        assert torch.equal(_bits(a), _bits(b)), f"bits differ: {a} and {b}"
    elif contract is Contract.VALUE_EXACT or not a.is_floating_point():
        assert torch.allclose(a, b, rtol=0, atol=0, equal_nan=True), f"values differ: {a} and {b}"
    else:
        _close(a.double(), b.double(), tolerance, special)


def _close(a: torch.Tensor, b: torch.Tensor, tolerance: float, special: bool) -> None:
    finite = a.isfinite()
    assert special or torch.equal(finite, b.isfinite()), f"NaN or infinity in other places: {a} and {b}"
    if finite.any():
        scale = a[finite].abs().max().item() + 1e-30
        error = (a[finite] - b[finite]).abs().max().item()
        assert error <= tolerance * scale, f"error {error} at scale {scale}: {a} and {b}"


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.contiguous().reshape(-1)
    return (torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat).view(torch.uint8)
