"""Small models each of which does one thing that compilers get wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiOutput(nn.Module):
    """A nested result that repeats a tensor, returns an input as it is, and holds a number and None."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.low = nn.Linear(8, 4)
        self.high = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> dict[str, Any]:
        features = F.relu(self.norm(self.stem(x)))
        pooled = features.mean((2, 3))
        low, high = self.low(pooled), self.high(pooled)
        return {
            "heads": {"low": low, "high": [high, low]},
            "input": x,
            "pair": (pooled, features),
            "scale": 2,
            "none": None,
        }


class NestedInput(nn.Module):
    """Tensors in a dict and a list, a keyword-only number, an optional argument left out."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(6, 4)
        self.right = nn.Linear(3, 4)

    def forward(self, batch: dict[str, Any], bias: Tensor | None = None, *, gain: float = 1.0) -> tuple[Tensor, ...]:
        first, second = batch["right"]
        mixed = self.left(batch["left"]) + gain * self.right(first * second)
        return (mixed if bias is None else mixed + bias, first)


class TiedWeights(nn.Module):
    """One embedding that is also the output projection, one layer used twice, one module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.shared = nn.Linear(16, 16)
        self.alias = self.shared
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = self.norm(x + torch.tanh(self.shared(x)))
        return self.head(x + torch.tanh(self.alias(x)))


class InPlace(nn.Module):
    """Writes through views of intermediates, in-place activations, buffers that every call updates."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("average", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        y[:, 0] = 1.0
        y[:, 2:4] += x[:, :2]
        y.view(-1, 2, 4)[:, 1].mul_(2.0)
        tail = y[:, 6:]
        tail.relu_()
        y.add_(x, alpha=0.5).clamp_(-3.0, 3.0)
        y.t()[1].zero_()
        self.calls += 1
        self.average.mul_(0.9).add_(y.mean(0), alpha=0.1)
        return y * self.calls + self.average


class InputMutation(nn.Module):
    """Changes one of its arguments in place, as caches do."""

    def forward(self, x: Tensor, cache: Tensor) -> Tensor:
        cache[:, 0] = x[:, 0]
        cache.mul_(0.5)
        return x + cache.sum(1, keepdim=True)


class Cond(nn.Module):
    """torch.cond on a computed predicate, its branches using captured weights."""

    def __init__(self) -> None:
        super().__init__()
        self.positive = nn.Linear(6, 6)
        self.negative = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        def yes(value: Tensor) -> Tensor:
            return torch.relu(self.positive(value))

        def no(value: Tensor) -> Tensor:
            return torch.sin(self.negative(value)) - 1.0

        return torch.cond(x.sum() > 0, yes, no, (x,)) * 2.0


class WhileLoop(nn.Module):
    """Newton's iteration for square roots in a while_loop with a data-dependent trip count."""

    def forward(self, x: Tensor) -> Tensor:
        from torch._higher_order_ops import while_loop

        target = x.abs() + 0.5

        def unfinished(step: Tensor, guess: Tensor) -> Tensor:
            return (step < 20) & ((guess * guess - target).abs().amax() > 1e-3)

        def improve(step: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
            return step + 1, 0.5 * (guess + target / guess)

        _, root = while_loop(unfinished, improve, (torch.zeros((), dtype=torch.int64), target))
        return root


class DataDependentShape(nn.Module):
    """An output whose first size is the number of positive rows."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.nonzero(x[:, 0] > 0).squeeze(-1)
        return torch.relu(self.fc(x[rows])) + 1.0


class Noise(nn.Module):
    """Draws random numbers at inference; two calls of the same draw may not be merged."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + torch.randn_like(x) - torch.randn_like(x) + torch.rand(6)


@torch.library.custom_op("graphopt_zoo::soft_clip", mutates_args=())
def soft_clip(x: Tensor, limit: float) -> Tensor:
    """limit * tanh(x / limit), as an operator that no compiler knows."""
    return limit * torch.tanh(x / limit)


@soft_clip.register_fake
def _(x: Tensor, limit: float) -> Tensor:
    return torch.empty_like(x)


class CustomOperator(nn.Module):
    """A third party's operator between ordinary ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(soft_clip(self.first(x) + 0, 2.0) * 1)


class Redundant(nn.Module):
    """Work that a compiler removes: identities, cancelling transposes, repeats, constants, dead code."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.register_buffer("table", torch.linspace(0.0, 1.0, 6))
        self.register_buffer("copy", torch.linspace(0.0, 1.0, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = (x + 0) * 1
        x = x.transpose(0, 1).transpose(0, 1).reshape(-1, 2, 3).reshape(-1, 6)
        once, again = self.fc(x), self.fc(x)
        _unused = torch.exp(once).sum()
        scale = torch.sin(self.table) + torch.sin(self.copy) + torch.arange(6) * 2
        both = once.float().to(torch.float32) + again
        return both.clamp(-1.0, 6.0).clamp(min=0.0).relu() * scale


class MixedTypes(nn.Module):
    """Integer, boolean, float16 and float64 values, casts, divisions and a scalar output."""

    def forward(self, x: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        half = (x.to(torch.float16) * 2).to(torch.float32)
        parity = (counts % 3 == 1) | (counts < 0)
        quotient = torch.div(counts, 4, rounding_mode="floor") - counts // -3
        weighted = (x.double() * counts.unsqueeze(-1)).sum()
        return half, parity, quotient, weighted


class Activations(nn.Module):
    """The elementwise functions, each on its own slice."""

    FUNCTIONS = (
        F.relu, F.relu6, F.elu, F.selu, F.celu, F.leaky_relu, F.gelu, F.silu, F.mish, F.softplus, F.softsign,
        F.hardswish, F.hardsigmoid, F.hardtanh, F.logsigmoid, F.tanhshrink, F.softshrink, F.hardshrink,
        torch.sigmoid, torch.tanh, torch.sin, torch.cos, torch.exp, torch.erf, torch.abs, torch.neg,
        torch.floor, torch.ceil, torch.round, torch.sign, torch.square, torch.expm1, torch.atan, torch.sinh,
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.PReLU(4)

    def forward(self, x: Tensor) -> Tensor:
        parts = [function(x) for function in self.FUNCTIONS]
        positive = x.abs() + 0.5
        parts += [
            torch.log(positive),
            torch.sqrt(positive),
            torch.rsqrt(positive),
            torch.reciprocal(positive),
        ]
        parts += [positive**1.7, torch.log1p(positive), F.gelu(x, approximate="tanh"), self.slope(x)]
        return torch.stack(parts, dim=1)


class Empty(nn.Module):
    """No operator at all: the input is the output."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class ConstantOutput(nn.Module):
    """A result that does not depend on the input, beside one that does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.softmax(self.weight, dim=-1), self.weight, x.sum()
