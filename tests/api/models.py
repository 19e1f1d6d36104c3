"""Small models for the tests of the public functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Small(nn.Module):
    """Convolution, batch norm, dropout and linear: parameters, buffers, and layers that follow the mode."""

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(rate)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(F.relu(self.norm(self.conv(x)))).mean((2, 3)))


class Affine(nn.Module):
    """Keyword arguments, defaults and a number: `scale * (x @ w) + shift`."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor, shift: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
        y = scale * (x @ self.weight)
        return y if shift is None else y + shift


class Counter(nn.Module):
    """A buffer that each call updates."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.total += x.sum(0)
        return self.total * self.calls


class Branch(nn.Module):
    """Control flow that depends on data."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x + 1
        return x - 1


class Nested(nn.Module):
    """Containers in, containers out; a result that repeats, an input passed through, a number and None."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, batch: dict[str, Any], pair: tuple[Tensor, Tensor]) -> dict[str, Any]:
        left, right = pair
        y = self.fc(batch["x"] + left) * right.sum()
        return {"y": y, "again": [y, (batch["x"],)], "none": None, "count": 3}


def small(seed: int = 0) -> tuple[Small, Tensor]:
    """A model in eval mode whose statistics are not trivial, and a batch for it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, x = Small(), torch.randn(5, 1, 6, 6)
        with torch.no_grad():
            for _ in range(3):
                model(x * 2 + 1)
        return model.eval(), x


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that compiling must not change: tensors (values and identity), flags, attributes."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {
        "tensors": {name: (id(t), t._version, t.requires_grad, t.detach().clone()) for name, t in tensors},
        "training": {name: module.training for name, module in model.named_modules()},
        "attributes": {name: sorted(module.__dict__) for name, module in model.named_modules()},
        "random": torch.get_rng_state(),
    }


def assert_untouched(model: nn.Module, before: dict[str, Any]) -> None:
    """Hold a model to a snapshot of it."""
    after = snapshot(model)
    assert after["training"] == before["training"]
    assert after["attributes"] == before["attributes"]
    assert torch.equal(after["random"], before["random"])
    assert after["tensors"].keys() == before["tensors"].keys()
    for name, (identity, version, flag, values) in before["tensors"].items():
        new = after["tensors"][name]
        assert new[:3] == (identity, version, flag), name
        assert torch.equal(new[3].nan_to_num(), values.nan_to_num()), name
