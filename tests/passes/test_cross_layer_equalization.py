"""cross-layer-equalization: the formula of the paper, the function kept, and what one scale a weight gains by it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphopt
from graphopt.analysis import run_graph
from graphopt.errors import GraphOptError, InputError, UnknownNameError
from graphopt.ir import Graph
from graphopt.passes.cross_layer_equalization import CrossLayerEqualization
from graphopt.passmanager import PassContext, PassManager
from graphopt.testing import check_pass
from tests.passes.figures import decibels_in_onnxruntime
from tests.zoo.nets_cnn import InvertedResidual, conv_bn

TWO = """
input %x: f32[N, 4]
parameter %a: f32[3, 4]
parameter %ab: f32[3]
parameter %z: f32[2, 3]
%y = linear(%x, %a, %ab)
%r = relu(%y)
%o = linear(%r, %z)
return %o"""
CLIPPED = TWO.replace("relu(%y)", "hardtanh(%y) {min_val=-1.0, max_val=2.0}")


def tensor(graph: Graph, name: str) -> torch.Tensor:
    constant = graph.constants[name].constant
    assert constant is not None
    return constant.tensor


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_ranges_meet() -> None:
    """s = √(r₁ / r₂), up to one number for the layer: rows and columns then have equal ranges."""
    given = {
        "a": torch.tensor([[8.0, 1.0, 0.0, 0.0], [0.0, 0.5, 0.0, 0.1], [0.0, 0.0, 2.0, 1.0]]),
        "ab": torch.tensor([4.0, 1.0, 2.0]),
        "z": torch.tensor([[1.0, 8.0, 0.5], [0.5, 4.0, 1.0]]),
    }
    graph = graphopt.parse(TWO, given)
    after = CrossLayerEqualization()(graph)
    rows, columns = tensor(after, "a").abs().amax(1), tensor(after, "z").abs().amax(0)
    torch.testing.assert_close(rows / rows[0], columns / columns[0], rtol=0.03, atol=0)
    s = given["a"].abs().amax(1) / rows
    wanted = (given["a"].abs().amax(1) / given["z"].abs().amax(0)).sqrt()
    torch.testing.assert_close(s / s[0], wanted / wanted[0], rtol=0.03, atol=0)
    torch.testing.assert_close(tensor(after, "ab"), given["ab"] / s)
    assert after.constants["a"].constant.names == graph.constants["a"].constant.names  # type: ignore[union-attr]
    x = points(5, 4)
    torch.testing.assert_close(run_graph(after, x)[0], run_graph(graph, x)[0])


def test_dead_channels_and_balanced_layers_stay() -> None:
    given = {"a": torch.ones(3, 4), "ab": torch.ones(3), "z": torch.ones(2, 3)}
    given["a"][1] = 0
    given["z"][:, 2] = 0
    graph = graphopt.parse(TWO, given)
    assert not CrossLayerEqualization().run(graph, PassContext()).changed


def test_a_long_chain_settles() -> None:
    """Each layer has the factors of two spaces; in the end every space is balanced."""
    text = (
        "input %x: f32[N, 6]\n" + "".join(f"parameter %w{i}: f32[6, 6]\n" for i in range(8)) + "%y0 = linear(%x, %w0)\n"
    )
    for i in range(1, 8):
        text += f"%r{i} = relu(%y{i - 1})\n%y{i} = linear(%r{i}, %w{i})\n"
    weights = {f"w{i}": points(6, 6, seed=i) * torch.logspace(-2, 2, 6)[torch.randperm(6)] for i in range(8)}
    after = CrossLayerEqualization()(graphopt.parse(f"{text}return %y7", weights))
    for i in range(7):
        rows, columns = tensor(after, f"w{i}").abs().amax(1), tensor(after, f"w{i + 1}").abs().amax(0)
        torch.testing.assert_close(rows / rows.max(), columns / columns.max(), rtol=0.1, atol=0)


def test_layers_that_share_weights_keep_sharing_them() -> None:
    text = """
    input %x: f32[N, 4, 6, 6]
    parameter %w: f32[4, 4, 1, 1]
    parameter %z: f32[2, 4, 1, 1]
    %a = conv2d(%x, %w)
    %b = relu(%a)
    %c = conv2d(%b, %w)
    %d = relu(%c)
    %o = conv2d(%d, %z)
    return %o"""
    graph = graphopt.parse(text)
    result = CrossLayerEqualization().run(graph, PassContext())
    assert not result.changed  # the inputs of %w are also the model's, and its outputs are its inputs
    assert any("it is an input of the model" in note for note in result.notes)


def test_clips_with_bounds_of_their_own_are_exact() -> None:
    graph = graphopt.parse(CLIPPED)
    after = CrossLayerEqualization(clips="channel")(graph)
    assert [node.op.name for node in after if "clamp" in node.op.name] == ["aten.clamp.Tensor"]
    x = 4 * points(64, 4)
    torch.testing.assert_close(run_graph(after, x)[0], run_graph(graph, x)[0])


def test_clips_that_stay_cut_what_they_cut() -> None:
    """Exact on the calibration data, some of whose channels are clipped."""
    x = 3 * points(64, 4)
    graph = graphopt.parse(CLIPPED)
    tensor(graph, "a")[1] *= 0.1
    pass_ = CrossLayerEqualization(clips="data")
    context = PassContext(calibration=[x])
    after = graph.clone()
    assert pass_.run(after, context).changed
    assert [node.op.name for node in after] == [node.op.name for node in graph]
    rows = (tensor(after, "a") / tensor(graph, "a")).nanmean(1)
    before = x @ tensor(graph, "a").t() + tensor(graph, "ab")
    clipped = ((before > 2) | (before < -1)).any(0)
    assert 0 < clipped.sum() < 3
    assert torch.equal(rows[clipped], torch.ones(int(clipped.sum())))
    torch.testing.assert_close(run_graph(after, x)[0], run_graph(graph, x)[0])


def test_high_biases_go_into_the_next_layer() -> None:
    graph = graphopt.parse(TWO, {"a": points(3, 4), "ab": torch.tensor([20.0, 0.0, 30.0]), "z": points(2, 3, seed=1)})
    x = points(256, 4)
    result = CrossLayerEqualization(absorb=True).run(after := graph.clone(), PassContext(calibration=[x]))
    assert any("absorbed the biases of 2 channels" in note for note in result.notes)
    torch.testing.assert_close(run_graph(after, x)[0], run_graph(graph, x)[0], rtol=0.02, atol=0.02)
    (old, new) = (next(n for n in g if n.name == "aten.linear").results[0] for g in (graph, after))
    widest = [
        run_graph(_returning(g, v), x)[0].amax(0) / tensor(g, "a").abs().amax(1)
        for g, v in ((graph, old), (after, new))
    ]
    assert bool((widest[1][[0, 2]] < 0.7 * widest[0][[0, 2]]).all())


def test_padding_keeps_biases_where_they_are() -> None:
    text = """
    input %x: f32[N, 2, 6, 6]
    parameter %a: f32[3, 2, 1, 1]
    parameter %ab: f32[3]
    parameter %z: f32[2, 3, 3, 3]
    %y = conv2d(%x, %a, %ab)
    %r = relu(%y)
    %o = conv2d(%r, %z) {padding=(1, 1)}
    return %o"""
    graph = graphopt.parse(text, {"ab": torch.full((3,), 50.0)})
    result = CrossLayerEqualization(absorb=True).run(graph, PassContext(calibration=[points(8, 2, 6, 6)]))
    assert any("absorbed the biases of 0 channels" in note for note in result.notes)


def _returning(graph: Graph, value: object) -> Graph:
    graph = graph.clone(images := {})
    graph.set_outputs([images[value]])  # type: ignore[index]
    return graph


def test_the_order_is_checked() -> None:
    context = PassContext(target="onnxruntime", calibration=[points(8, 4)])
    passes = "quantize,cross-layer-equalization"
    with pytest.raises(GraphOptError, match="right order is: cross-layer-equalization,quantize"):
        PassManager(passes, on_failure="raise").run(graphopt.parse(TWO), context)


def test_bad_options() -> None:
    with pytest.raises(UnknownNameError, match="cut"):
        CrossLayerEqualization(clips="cut")
    with pytest.raises(GraphOptError, match="samples"):
        CrossLayerEqualization(samples=0)
    for pass_ in (CrossLayerEqualization(absorb=True), CrossLayerEqualization(clips="data")):
        with pytest.raises(InputError, match="needs data"):
            pass_(graphopt.parse(CLIPPED))
    with pytest.raises(InputError, match="NaN or an infinity"):
        CrossLayerEqualization(absorb=True)(
            graphopt.parse(TWO), PassContext(calibration=[torch.full((2, 4), torch.nan)])
        )


def test_random_graphs() -> None:
    operators = [
        "linear",
        "conv2d",
        "relu",
        "leaky_relu",
        "max_pool2d",
        "add.Tensor",
        "reshape",
        "transpose.int",
        "cat",
    ]
    check_pass("cross-layer-equalization", examples=15, operators=operators)


class Depthwise(nn.Module):
    """Inverted residuals whose channels differ by orders of magnitude, as folded batch norms leave them."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 1), activation(), nn.Conv2d(16, 16, 3, padding=1, groups=16), activation(),
            nn.Conv2d(16, 8, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 5),
        )  # fmt: skip
        first, depthwise, last = (self.layers[i] for i in (0, 2, 4))
        factors = torch.logspace(-2, 2, 16)
        with torch.no_grad():
            first.weight *= torch.logspace(1, -1, 16)[:, None, None, None]
            depthwise.weight *= factors[:, None, None, None]
            last.weight /= factors[:, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.mark.parametrize("activation, clips", [(nn.ReLU, "keep"), (nn.ReLU6, "data")])
def test_one_scale_for_a_depthwise_weight_suffices(activation: type[nn.Module], clips: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Depthwise(activation).eval()
    x = points(64, 3, 8, 8)
    tail = "quantize{granularity=tensor},fold-constants,dead-code"
    before = f"cross-layer-equalization{{clips={clips}}},"
    sqnr = decibels_in_onnxruntime(model, x, [f"default,{b}{tail}" for b in ("", before)])
    assert sqnr[1] > sqnr[0] + 15


def test_a_mobile_net() -> None:
    """Batch norms folded, ReLU6 and shortcuts: the function stays, and so do the clips."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blocks = [InvertedResidual(8, 8, 1, 4), InvertedResidual(8, 12, 2, 4), InvertedResidual(12, 12, 1, 4)]
        model = nn.Sequential(*conv_bn(1, 8, 3, 2), nn.ReLU6(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        model.train()
        with torch.no_grad():
            model(torch.randn(32, 1, 28, 28))
        model.eval()
    x = points(8, 1, 28, 28)
    for clips in ("keep", "channel", "data"):
        found = graphopt.compile(
            model,
            (x,),
            target="onnxruntime",
            dynamic_shapes="batch",
            passes=f"default,cross-layer-equalization{{clips={clips}}}",
            calibration=[x],
            on_failure="raise",
        )
        with torch.no_grad():
            torch.testing.assert_close(found(x), model(x), rtol=1e-3, atol=1e-4)
        equalized = "groups of channels; ranges differed" in str(found.report)
        assert equalized == (clips != "keep")
