"""Half precision, to which what is folded is rounded, and complex numbers, of which only zero folds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphopt


class Residual(nn.Module):
    """A convolution whose removed channels are worth sigmoid(0) to the next layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((x + torch.sigmoid(self.conv(x))).mean((2, 3)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_constants_fold_within_rounding(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net, x = Residual().to(dtype), torch.randn(2, 3, 4, 4, dtype=dtype)
    small = graphopt.prune(net, (x,), ratio=0.5)
    assert small.report.pruning.masked_error <= 8 * torch.finfo(dtype).eps
    masked = Residual().double()
    masked.load_state_dict(net.state_dict())
    gone = torch.ones(16, dtype=torch.bool)
    gone[small.state_map.kept["stem.weight"][0]] = False
    with torch.no_grad():
        for tensor in (masked.stem.weight, masked.stem.bias, masked.conv.weight, masked.conv.bias):
            tensor[gone] = 0
        want = masked(x.double())
    assert (small(x) - want).abs().max() <= 8 * torch.finfo(dtype).eps * want.abs().max()


class Shifted(nn.Module):
    """Two complex layers, with a number added between them."""

    def __init__(self, shift: complex) -> None:
        super().__init__()
        self.first, self.last = (nn.Linear(*sizes, dtype=torch.complex64) for sizes in ((3, 8), (8, 2)))
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) + self.shift)


@pytest.mark.parametrize(("shift", "width"), [(0, 4), (1, 8), (1j, 8)])
def test_complex_constants_stay_unless_they_are_zero(shift: complex, width: int) -> None:
    net, x = Shifted(shift), torch.randn(2, 3, dtype=torch.complex64)
    small = graphopt.prune(net, (x,), ratio=0.5)
    assert small.state_map.shapes["first.weight"] == (width, 3)
    assert small.report.pruning.masked_error < 1e-5
