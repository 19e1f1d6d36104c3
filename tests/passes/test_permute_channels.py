"""Channels change places, and the model computes the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import graphopt
from graphopt.errors import GraphOptError
from graphopt.ops.sparse import block_counts
from graphopt.passes.permute_channels import PermuteChannels
from graphopt.passes.sparse.clustering import gathered, stored
from graphopt.passmanager import PassContext, PassManager, parse_pipeline
from graphopt.passmanager.report import Status
from tests.zoo import MODELS


def scattered(rows: int, columns: int, height: int, seed: int) -> Tensor:
    """Marks of blocks of rows that share a tenth of the columns, and stand at random places."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.rand(rows // height, columns, generator=generator) < 0.1
    return blocks.repeat_interleave(height, 0)[torch.randperm(rows, generator=generator)]


def test_rows_change_places_with_all_that_hangs_on_them(check) -> None:
    check(
        PermuteChannels(height=2),
        """
        input %x: f32[N, 2]
        parameter %w: f32[4, 2] = ((1.0, 0.0), (0.0, 2.0), (3.0, 0.0), (0.0, 4.0))
        parameter %b: f32[4] = (1.0, 2.0, 3.0, 4.0)
        parameter %v: f32[1, 4] = ((5.0, 6.0, 7.0, 8.0),)
        %y = aten.linear(%x, %w, %b)
        %r = aten.relu(%y)
        %z = aten.linear(%r, %v)
        return %z""",
        """
        input %x: f32[N, 2]
        parameter %w: f32[4, 2] = ((1.0, 0.0), (3.0, 0.0), (0.0, 2.0), (0.0, 4.0))
        parameter %b: f32[4] = (1.0, 3.0, 2.0, 4.0)
        parameter %v: f32[1, 4] = ((5.0, 7.0, 6.0, 8.0),)
        %y = aten.linear(%x, %w, %b)
        %r = aten.relu(%y)
        %z = aten.linear(%r, %v)
        return %z""",
    )


@pytest.mark.parametrize(
    "between",
    [
        "%r = aten.softmax.int(%y) {dim=1}",
        "%r = aten.cumsum(%y) {dim=1}",
        "%h = aten.slice.Tensor(%y) {dim=1, start=0, end=2}\n%r = aten.cat(%h, %h) {dim=1}",
        "%r = aten.roll(%y) {shifts=(1,), dims=(1,)}",
        "%k = aten.relu(%y)\n%r = aten.flip(%k) {dims=(1,)}",
    ],
    ids=["softmax", "cumsum", "slice", "roll", "flip"],
)
def test_channels_that_are_told_apart_stay(between: str) -> None:
    graph = graphopt.parse(f"""
    input %x: f32[N, 2]
    parameter %w: f32[4, 2] = ((1.0, 0.0), (0.0, 2.0), (3.0, 0.0), (0.0, 4.0))
    parameter %v: f32[1, 4] = ((5.0, 6.0, 7.0, 8.0),)
    %y = aten.linear(%x, %w)
    {between}
    %z = aten.linear(%r, %v)
    return %z""")
    assert not PermuteChannels(height=2).run(graph, PassContext()).changed


def test_random_zeros_do_not_gather() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(64, 64) < 0.3)
    result = PermuteChannels().run(graphopt.trace(model, (torch.randn(2, 64),)), PassContext())
    assert not result.changed
    assert any("its zeros don't gather" in note for note in result.notes)


class Net(nn.Module):
    """A shortcut, a depthwise convolution, norms, and a flattened map in front of a linear layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(32, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.SiLU(), nn.Conv2d(16, 32, 1)
        )
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 24), nn.GELU(), nn.Linear(24, 3)
        )
        with torch.no_grad():
            for index, layer in enumerate(self.modules()):
                if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.shape[0] % 8 == 0:
                    marks = scattered(layer.weight.shape[0], layer.weight[0].numel(), 8, seed + index)
                    layer.weight.mul_(marks.reshape(layer.weight.shape))
                if isinstance(layer, nn.BatchNorm2d):
                    layer.weight.uniform_(0.5, 2)
                    layer.running_mean.normal_()  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y: Tensor = self.head(torch.relu(x + self.block(x)))
        return y


@pytest.mark.parametrize("seed, trainable", [(0, False), (1, True), (2, False)])
def test_model_computes_the_same(seed: int, trainable: bool) -> None:
    model, x = Net(seed).eval(), torch.randn(2, 8, 6, 6)
    graph = graphopt.trace(model, (x,))
    context = PassContext(samples=[[x]], trainable=trainable)
    _, report = PassManager([PermuteChannels(gain=1.01)], on_failure="raise").run(graph, context)
    assert report.records[0].status is Status.KEPT, report


def test_blocks_are_stored_then() -> None:
    """Scattered blocks of eight rows: found again, lowered, and an old checkpoint still fits."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)).eval(), torch.randn(3, 64)
    with torch.no_grad():
        model[0].weight.mul_(scattered(128, 64, 8, 0))
    compiled = graphopt.compile(model, (x,), target="fx", passes="default,permute-channels", on_failure="raise")
    weight = compiled.state_dict()["0.weight"]
    assert block_counts(weight)[8] * 8 == int((weight != 0).sum()) < 0.3 * 8 * block_counts(model[0].weight)[8]
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    other = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)).eval()
    compiled.load_state_dict(compiled.slice_state_dict(other.state_dict()))
    torch.testing.assert_close(compiled(x), other(x), rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    height=st.sampled_from((2, 4, 8)),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_orders(rows: int, columns: int, height: int, share: float, seed: int) -> None:
    """Each row once, and what is stored counted by brute force."""
    live = np.random.default_rng(seed).random((rows, columns)) < share
    order = gathered(live, height)
    assert sorted(order) == list(range(rows))
    unions = [np.logical_or.reduce(live[order][i : i + height]).sum() for i in range(0, rows, height)]
    assert stored(live[order], height) == height * sum(unions)


@pytest.mark.parametrize("text", ["permute-channels{height=1}", "permute-channels{gain=0.5}"])
def test_bad_options(text: str) -> None:
    with pytest.raises(GraphOptError):
        parse_pipeline(text)


def test_real_model() -> None:
    """The hidden channels of an encoder change places, those of its residual stream do not."""
    entry = MODELS["minilm"]
    model, (args, kwargs) = entry.make().eval(), entry.inputs()
    with torch.no_grad():
        for index, layer in enumerate(model.modules()):
            if isinstance(layer, nn.Linear) and layer.weight.shape == (1536, 384):
                layer.weight.mul_(scattered(1536, 384, 8, index))
        expected = model(*args, **kwargs)
    compiled = graphopt.compile(
        model, args, kwargs, target="eager", passes="default,permute-channels", on_failure="raise"
    )
    assert sum("numbers in blocks of 8 rows" in note for note in _notes(compiled)) == 6
    torch.testing.assert_close(compiled(*args, **kwargs), expected, rtol=1e-4, atol=1e-5)


def _notes(compiled: graphopt.CompiledModel) -> list[str]:
    return [note for record in compiled.report.passes.records for note in record.notes]
