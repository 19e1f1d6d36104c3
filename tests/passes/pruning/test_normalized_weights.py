"""Norms over weights, and norms without weights: pruned as the masked model is, in which what is contracted after them
is zero, too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import graphopt
from graphopt.analysis.channels import ChannelAnalysis, Role
from tests.passes.pruning.image_blocks import StandardizedConv
from tests.passes.pruning.oracle import prune, settle, worst_error

BATCH = {0: torch.export.Dim("N", min=1, max=64)}


class WeightNormalized(nn.Module):
    """Gated and residual, as in audio models; the norm of each filter, of each place of the kernel, or of the whole."""

    def __init__(self, dim: int | None) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 12, 3, padding=1)
        self.a = weight_norm(nn.Conv1d(12, 24, 3, padding=1), dim=dim)
        self.b = weight_norm(nn.Conv1d(12, 12, 3, padding=1, groups=3), dim=dim)
        self.up = weight_norm(nn.ConvTranspose1d(12, 10, 3), dim=dim)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        value, gate = self.a(x).chunk(2, 1)
        x = x + torch.tanh(value) * torch.sigmoid(gate)
        return self.head(F.relu(self.up(F.relu(self.b(x)))).mean(-1))


class NormalizedLinear(nn.Module):
    """Linear layers that read constants which are not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = weight_norm(nn.Linear(6, 16)), weight_norm(nn.Linear(16, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cos(self.b(torch.sigmoid(self.a(x)))))


class Spectral(nn.Module):
    """Weights over their spectral norms, u · (W v) of stored u and v."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = spectral_norm(nn.Conv2d(3, 12, 3, padding=1)), spectral_norm(nn.Conv2d(12, 8, 3, padding=1))
        self.head = spectral_norm(nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


class Cosines(nn.Module):
    """Rows of length 1, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Parameter(torch.randn(12, 16))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.normalize(F.relu(self.a(x)), dim=-1)
        return self.head(F.relu(F.linear(x, F.normalize(self.b - 0.0, dim=-1))))


class Standardized(nn.Module):
    """A residual block of standardized convolutions and group norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = StandardizedConv(3, 16, 3, padding=1)
        self.norm1, self.a = nn.GroupNorm(4, 16), StandardizedConv(16, 8, 1)
        self.norm2, self.b = nn.GroupNorm(2, 8), StandardizedConv(8, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.b(F.relu(self.norm2(self.a(F.relu(self.norm1(x))))))
        return self.head((x + y).mean((2, 3)))


class Modulated(nn.Module):
    """Two blocks of a diffusion transformer: layer norms without weights, scaled and shifted by a condition."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.condition = nn.Linear(6, 16), nn.Linear(6, 96)
        self.norm = nn.LayerNorm(16, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d, e, f = self.condition(F.silu(x.mean(1, keepdim=True))).chunk(6, -1)
        x = self.embed(x)
        q, k, v = self.qkv(self.norm(x) * (1 + a) + b).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + c * self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + f * self.down(F.gelu(self.up(self.norm(x) * (1 + d) + e)))
        return self.head(self.norm(x))


class GroupNormalized(nn.Module):
    """Group norms without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.group_norm(self.a(x), 4)
        return self.head(F.group_norm(self.b(F.relu(x)), 2).mean((2, 3)))


def tokens() -> Tensor:
    return torch.randn(4, 5, 6, dtype=torch.float64)


def sequence() -> Tensor:
    return torch.randn(4, 3, 9, dtype=torch.float64)


def image() -> Tensor:
    return torch.randn(4, 3, 8, 8, dtype=torch.float64)


def vector() -> Tensor:
    return torch.randn(4, 6, dtype=torch.float64)


CASES: list[tuple[str, Callable[[], nn.Module], Callable[[], Tensor], int]] = [
    ("weight norm of filters", lambda: WeightNormalized(0), sequence, 4),
    ("weight norm of places", lambda: WeightNormalized(2), sequence, 4),
    ("weight norm of all", lambda: WeightNormalized(None), sequence, 4),
    ("weight norm of linear layers", NormalizedLinear, vector, 2),
    ("standardized", Standardized, image, 2),
    ("spectral norm", Spectral, image, 2),
    ("rows of length 1", Cosines, vector, 2),
    ("layer norm without weights", Modulated, tokens, 4),
    ("group norm without weights", GroupNormalized, image, 2),
]


@pytest.mark.parametrize(("make", "example", "groups"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize("ratio", [0.25, 0.75])
def test_pruned_is_masked(
    make: Callable[[], nn.Module], example: Callable[[], Tensor], groups: int, ratio: float
) -> None:
    torch.manual_seed(0)
    model, x = settle(make(), 0), example()
    assert len(ChannelAnalysis(graphopt.trace(model, (x,))).groups) >= groups
    for seed in range(3):
        pruned = prune(model, (x,), ratio=ratio, seed=seed, dynamic=(BATCH,))
        assert pruned.report.changed
        assert worst_error(pruned, (torch.cat([x, -2 * x])[:5],)) < 1e-10


def roles(model: nn.Module, x: Tensor) -> dict[tuple[str, int], Role]:
    groups = ChannelAnalysis(graphopt.trace(model, (x,))).groups
    return {(m.name, m.dim): m.role for group in groups for m in group.members}


def test_zeroing_the_scale_of_weight_norm_is_enough() -> None:
    found = roles(settle(NormalizedLinear(), 0), vector())
    g, v = "b.parametrizations.weight.original0", "b.parametrizations.weight.original1"
    assert (found[g, 0], found[v, 0], found[v, 1]) == (Role.OUT, Role.SLICE, Role.NORMALIZED)


def test_pruning_in_steps_goes_on_through_normalized_weights() -> None:
    torch.manual_seed(0)
    for make, example in ((lambda: WeightNormalized(0), sequence), (Standardized, image)):
        model, x = settle(make(), 0), example()
        small = graphopt.prune(model, (x,), ratio=0.75, steps=2, finetune=lambda module: module.train())
        assert small.report.pruning.after.parameters < 0.25 * small.report.pruning.before.parameters


def test_norms_that_may_not_be_rescaled_keep_what_is_standardized() -> None:
    torch.manual_seed(0)
    pruned = prune(settle(Standardized(), 0), (image(),), ratio=0.5, norms="refuse")
    assert any("batch_norm" in r.node.op.name and "full width" in r.reason for r in pruned.report.refused)


def test_channels_that_are_zero_already_keep_the_norms_of_what_reads_them() -> None:
    torch.manual_seed(0)
    model, x = settle(WeightNormalized(0), 0), sequence()
    with torch.no_grad():
        for name in ("b.bias", "b.parametrizations.weight.original0"):
            model.get_parameter(name)[::2] = 0
    found = graphopt.compile(model, (x,), target="fx", passes="remove-zero-channels")
    torch.testing.assert_close(found(x), model(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "see", [lambda y: y, lambda y: torch.sigmoid(y), lambda y: y + y.mean(1, keepdim=True)], ids=["it", "f", "more"]
)
def test_a_norm_without_weights_whose_result_something_else_sees_is_named(see: Callable[[Tensor], Tensor]) -> None:
    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.sigmoid(see(F.layer_norm(self.a(x), (8,))))
            return self.head(y)

    (found,) = (r for r in graphopt.prune(Seen(), (torch.randn(2, 6),)).report.pruning.refused if r.name == "a.weight")
    assert "after aten.layer_norm" in found.reason
