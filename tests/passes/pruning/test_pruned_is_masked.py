"""Pruned = masked: the smaller graph computes what the original does with the parameters of what went set to zero."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from graphopt.analysis.interpreter import Interpreter
from tests.passes.pruning import image_blocks, sequence_blocks
from tests.passes.pruning.image_blocks import ImageNet, Number, StandardizedConv
from tests.passes.pruning.oracle import Pruned, prune, settle, worst_error
from tests.passes.pruning.sequence_blocks import SequenceNet

EXAMPLES = int(os.environ.get("PRUNING_EXAMPLES", "12"))
SLOW = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
ROUNDING = 1e-10
"""In double precision, relative to an output's scale."""


def number_from(data: st.DataObject) -> Number:
    return lambda low, high: data.draw(st.integers(low, high))


def check_rows_only(net: nn.Module, pruned: Pruned) -> None:
    """The masked model is zero in rows, not in the columns that consume them, but for those that are standardized or
    behind norms without weights."""
    bare = any(isinstance(m, nn.LayerNorm | nn.GroupNorm) and m.weight is None for m in net.modules())
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and not (name == "head" and getattr(net, "tied", False)):
            columns = {1} if bare or isinstance(layer, StandardizedConv) else set()
            assert set(pruned.slices.get(f"{name}.weight", {})) <= {0} | columns
    for name, dims in pruned.slices.items():
        assert "running" not in name and dims


@SLOW
@given(st.data(), st.sampled_from([0.25, 0.5, 0.75]), st.integers(0, 1000))
def test_image_nets(data: st.DataObject, ratio: float, seed: int) -> None:
    torch.manual_seed(seed)
    net = settle(ImageNet(number_from(data)), seed)
    x = image_blocks.example()
    pruned = prune(net, (x,), ratio=ratio, seed=seed, dynamic=({0: torch.export.Dim("N")},))
    check_rows_only(net, pruned)
    assert worst_error(pruned, (x,)) < ROUNDING
    assert worst_error(pruned, (torch.cat([x, x * 2, x]),)) < ROUNDING
    assert all(str(refused) for refused in pruned.report.refused)


@SLOW
@given(st.data(), st.sampled_from([0.25, 0.5, 0.75]), st.integers(0, 1000))
def test_sequence_nets(data: st.DataObject, ratio: float, seed: int) -> None:
    torch.manual_seed(seed)
    net = settle(SequenceNet(number_from(data)), seed)
    ids = sequence_blocks.example()
    pruned = prune(net, (ids,), ratio=ratio, seed=seed, dynamic=({0: torch.export.Dim("N")},))
    check_rows_only(net, pruned)
    assert worst_error(pruned, (ids,)) < ROUNDING
    assert worst_error(pruned, (torch.cat([ids, ids]),)) < ROUNDING


@pytest.mark.parametrize("seed", range(4))
def test_single_precision_is_within_rounding(seed: int) -> None:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = ImageNet(lambda low, high: int(torch.randint(low, high + 1, (), generator=generator)))
    net, x = settle(net, seed).float(), image_blocks.example().float()
    pruned = prune(net, (x,), seed=seed)
    with torch.no_grad():
        eager, exact = pruned.masked(x)[0], pruned.masked.double()(x.double())[0]
    (got, *_) = Interpreter(pruned.graph).run(x)
    own = (eager.double() - exact).abs().max()
    allowed = 16 * own + 64 * torch.finfo(torch.float32).eps * exact.abs().max()
    assert (got.double() - exact).abs().max() <= allowed
