"""Only what is constant or unread goes, and what is left computes the same."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import graphopt
from graphopt.ir import Graph
from graphopt.passes.remove_zero_channels import RemoveZeroChannels
from graphopt.passmanager import PassManager
from tests.zoo import MODELS
from tests.zoo.trained import trained_lenet


def test_zero_row_goes_and_its_bias_moves_on(check) -> None:
    check(
        RemoveZeroChannels(),
        """
        input %x: f32[N, 2]
        parameter %w: f32[3, 2] = ((1.0, 2.0), (0.0, 0.0), (3.0, 4.0))
        parameter %b: f32[3] = (1.0, 2.0, 3.0)
        parameter %v: f32[1, 3] = ((1.0, 10.0, 1.0),)
        %y = aten.linear(%x, %w, %b)
        %r = aten.relu(%y)
        %z = aten.linear(%r, %v)
        return %z""",
        """
        input %x: f32[N, 2]
        parameter %w: f32[2, 2] = ((1.0, 2.0), (3.0, 4.0))
        parameter %b: f32[2] = (1.0, 3.0)
        parameter %v: f32[1, 2] = ((1.0, 1.0),)
        constant %folded: f32[1] = (20.0,)
        %y = aten.linear(%x, %w, %b)
        %r = aten.relu(%y)
        %z = aten.linear(%r, %v, %folded)
        return %z""",
    )


def test_channel_that_nothing_reads_goes(check) -> None:
    check(
        RemoveZeroChannels(),
        """
        input %x: f32[N, 2]
        parameter %w: f32[2, 2] = ((1.0, 2.0), (3.0, 4.0))
        parameter %v: f32[1, 2] = ((5.0, 0.0),)
        %y = aten.linear(%x, %w)
        %r = aten.tanh(%y)
        %z = aten.linear(%r, %v)
        return %z""",
        """
        input %x: f32[N, 2]
        parameter %w: f32[1, 2] = ((1.0, 2.0),)
        parameter %v: f32[1, 1] = ((5.0,),)
        %y = aten.linear(%x, %w)
        %r = aten.tanh(%y)
        %z = aten.linear(%r, %v)
        return %z""",
    )


@pytest.mark.parametrize(
    "between",
    ["%r = aten.softmax.int(%y) {dim=1}", "%r = aten.layer_norm(%y) {normalized_shape=(2,)}"],
    ids=["softmax", "layer norm"],
)
def test_channel_that_others_see_stays(check, between: str) -> None:
    check(
        RemoveZeroChannels(),
        f"""
        input %x: f32[N, 2]
        parameter %w: f32[2, 2] = ((1.0, 2.0), (3.0, 4.0))
        parameter %v: f32[1, 2] = ((5.0, 0.0),)
        %y = aten.linear(%x, %w)
        {between}
        %z = aten.linear(%r, %v)
        return %z""",
    )


def test_what_varies_at_the_border_stays(check) -> None:
    before = """
        input %x: f32[1, 1, 4, 4]
        parameter %w: f32[2, 1, 1, 1] = ((((0.0,),),), (((1.0,),),))
        parameter %b: f32[2] = (1.0, 1.0)
        parameter %v: f32[1, 2, 3, 3]
        %y = aten.conv2d(%x, %w, %b)
        %z = aten.conv2d(%y, %v) {padding=(1, 1)}
        return %z"""
    check(RemoveZeroChannels(), before)
    assert any("varies" in note or "vary" in note for note in check.result.notes)


def test_one_channel_is_left(check) -> None:
    graph = check(
        RemoveZeroChannels(),
        """
        input %x: f32[N, 2]
        parameter %w: f32[2, 2] = ((0.0, 0.0), (0.0, 0.0))
        parameter %v: f32[1, 2] = ((5.0, 1.0),)
        %y = aten.linear(%x, %w)
        %z = aten.linear(%y, %v)
        return %z""",
        """
        input %x: f32[N, 2]
        parameter %w: f32[1, 2] = ((0.0, 0.0),)
        parameter %v: f32[1, 1] = ((5.0,),)
        %y = aten.linear(%x, %w)
        %z = aten.linear(%y, %v)
        return %z""",
    )
    assert len(graph) == 2


class Net(nn.Module):
    """Convolutions with and without padding and norms, a shortcut, and two heads."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=padding)
        self.norm = nn.BatchNorm2d(6)
        self.wide = nn.Conv2d(6, 8, 3, padding=padding)
        self.back = nn.Conv2d(8, 6, 1)
        self.fc = nn.Linear(6, 5)
        self.one, self.two = nn.Linear(5, 3), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = F.relu(self.norm(self.stem(x)))
        y = self.back(F.silu(self.wide(x)))
        x = (F.adaptive_avg_pool2d(x, 2) + F.adaptive_avg_pool2d(y, 2)).mean((2, 3))
        x = torch.sigmoid(self.fc(x))
        return self.one(x), self.two(x)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 1), st.floats(0, 0.9))
def test_any_zeros(seed: int, padding: int, amount: float) -> None:
    """Rows, columns, scales and shifts at random: the outputs stay, to rounding."""
    torch.manual_seed(seed)
    net, x = Net(padding).eval(), torch.randn(2, 1, 7, 7)
    with torch.no_grad():
        for name, tensor in net.named_parameters():
            for dim in range(tensor.dim()):
                if torch.rand(()) < 0.6:
                    gone = (torch.rand(tensor.shape[dim]) < amount).nonzero().flatten()
                    tensor.index_fill_(dim, gone, 0)
            assert name
        net.norm.running_mean.normal_()
    graph = graphopt.trace(net, (x,))
    smaller = RemoveZeroChannels()(graph)
    found = graphopt.analysis.run_graph(smaller, x, float64=True)
    with torch.no_grad():
        expected = copy.deepcopy(net).double()(x.double())
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    assert not RemoveZeroChannels()(smaller).constants.keys() - smaller.constants.keys()


def parameters(graph: Graph) -> int:
    return sum(v.constant.tensor.numel() for v in graph.constants.values() if v.constant)


def test_filters_of_torch_prune_are_removed_for_good() -> None:
    """`ln_structured` only writes zeros; here they go, and ONNX Runtime runs the smaller network."""
    model, images = trained_lenet().module, trained_lenet().data.images[:32]
    for layer, amount in ((model.conv2, 0.5), (model.fc1, 0.75), (model.fc2, 0.5)):
        prune.ln_structured(layer, "weight", amount, n=2, dim=0)
    graph = graphopt.trace(model, (images,))
    smaller, report = PassManager("fold-masks,remove-zero-channels", on_failure="raise").run(graph)
    shapes = {name: tuple(v.shape) for name, v in smaller.constants.items()}
    assert shapes["conv2.weight"][0] == 16 and shapes["fc1.weight"] == (30, 400) and shapes["fc2.weight"] == (42, 30)
    assert report.records[-1].promise == "reassociating"
    text = "fold-masks,remove-zero-channels,fold-constants"
    fast = graphopt.compile(model, (images,), target="onnxruntime", passes=text, on_failure="raise")
    torch.testing.assert_close(fast(images), model(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["hf-mobilenet-v2", "densenet", "hf-bert", "lstm"])
def test_real_models_with_some_channels_zero(name: str) -> None:
    entry = MODELS[name]
    model, (args, kwargs) = entry.build(), entry.inputs()
    graph = graphopt.trace(model, args, kwargs)
    assert str(RemoveZeroChannels()(graph)) == str(graph), "nothing is zero, so nothing goes"
    from graphopt.analysis.channels import ChannelAnalysis
    from graphopt.passes.pruning.masked import masked_graph

    analysis = ChannelAnalysis(graph)
    selection = {g.name: torch.arange(g.size).numpy() % 4 == 1 for g in analysis.groups}
    masked = masked_graph(graph, analysis, selection)
    smaller, _ = PassManager("remove-zero-channels", on_failure="raise", validate=False).run(masked)
    assert parameters(smaller) < parameters(graph)
    flat = [leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    for a, b in zip(graphopt.analysis.run_graph(smaller, *flat), graphopt.analysis.run_graph(masked, *flat)):
        torch.testing.assert_close(a, b, atol=3e-5 * float(b.abs().max()), rtol=0)
