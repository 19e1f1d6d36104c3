"""Grouped convolutions in float64 against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.analysis.wide_kernels import FEW_GROUPS, WIDE_KERNELS


@st.composite
def calls(draw: st.DrawFn, transposed: bool) -> tuple[str, list]:
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(FEW_GROUPS + 1, FEW_GROUPS + 3))
    per_in, per_out = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 3)) for _ in range(dims)]
    stride, dilation = ([draw(st.integers(1, 2)) for _ in range(dims)] for _ in range(2))
    padding = [draw(st.integers(0, 1)) for _ in range(dims)]
    size = [draw(st.integers(5, 7)) for _ in range(dims)]
    batch = draw(st.sampled_from([[], [1], [2]]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x = random(*batch, groups * per_in, *size)
    bias = random(groups * per_out) if draw(st.booleans()) else None
    if transposed:
        weight = random(groups * per_in, per_out, *kernel)
        extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation)]
        name = "aten.conv_transpose1d" if dims == 1 else f"aten.conv_transpose{dims}d.input"
        return name, [x, weight, bias, stride, padding, extra, groups, dilation]
    if draw(st.booleans()):
        words = ["valid", "same"] if set(stride) == {1} else ["valid"]
        weight = random(groups * per_out, per_in, *kernel)
        return f"aten.conv{dims}d.padding", [x, weight, bias, stride, draw(st.sampled_from(words)), dilation, groups]
    return f"aten.conv{dims}d", [x, random(groups * per_out, per_in, *kernel), bias, stride, padding, dilation, groups]


def check(name: str, args: list) -> None:
    packet = getattr(torch.ops.aten, name.split(".")[1])
    if name.endswith(".padding"):
        packet = packet.padding
    want = packet(*args)
    got = WIDE_KERNELS[name](*args)
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(calls(transposed=False))
def test_convolutions(call: tuple[str, list]) -> None:
    check(*call)


@settings(deadline=None, max_examples=60)
@given(calls(transposed=True))
def test_transposed_convolutions(call: tuple[str, list]) -> None:
    check(*call)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_defaults_and_single_numbers(groups: int) -> None:
    x, w = torch.randn(2, 8, 6, 6).double(), torch.randn(8, 8 // groups, 3, 3).double()
    check("aten.conv2d", [x, w, None, [1], [1], [1], groups])
    assert WIDE_KERNELS["aten.conv2d"](x[:, : 8 // groups], w).shape == (2, 8, 4, 4)
    single = WIDE_KERNELS["aten.conv2d"](x.float(), w.float(), groups=groups)
    torch.testing.assert_close(single, torch.nn.functional.conv2d(x.float(), w.float(), groups=groups))
