"""Weights go where the method says, in the pattern and the number that was asked for, and stay gone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import graphopt
from graphopt.errors import GraphOptError, InputError, UnknownNameError
from graphopt.passes.fold_masks import FoldMasks
from graphopt.passes.prune_weights import PruneWeights
from graphopt.passes.weight_pruning.layers import find_layers
from graphopt.passes.weight_pruning.methods import METHODS, Evidence
from graphopt.passes.weight_pruning.moments import measure
from graphopt.passes.weight_pruning.patterns import masks, parse_pattern
from graphopt.passmanager import PassContext, PassManager
from tests.zoo import MODELS

LINEAR = """
input %x: f32[N, 4]
parameter %w: f32[2, 4] requires_grad = ((1.0, -5.0, 2.0, 8.0), (-3.0, 7.0, 4.0, -6.0))
%y = aten.linear(%x, %w)
return %y"""


def test_smallest_weights_go(check) -> None:
    check(
        PruneWeights(),
        LINEAR,
        """
        input %x: f32[N, 4]
        parameter %w: f32[2, 4] requires_grad = ((0.0, -5.0, 0.0, 8.0), (-0.0, 7.0, 0.0, -6.0))
        %y = aten.linear(%x, %w)
        return %y""",
        numeric=False,
    )


def test_mask_stays_where_the_result_is_trained(check) -> None:
    graph = check(
        PruneWeights(pattern="2:4"),
        LINEAR,
        """
        input %x: f32[N, 4]
        buffer %w_mask: f32[2, 4] = ((0.0, 1.0, 0.0, 1.0), (0.0, 1.0, 0.0, 1.0))
        parameter %w: f32[2, 4] requires_grad = ((0.0, -5.0, 0.0, 8.0), (-0.0, 7.0, 0.0, -6.0))
        %p = aten.mul.Tensor(%w, %w_mask)
        %y = aten.linear(%x, %p)
        return %y""",
        context=PassContext(trainable=True),
        numeric=False,
    )
    # Pruning on: of what is left, the smallest go too, and the mask is still one.
    again = PruneWeights(sparsity=0.75)(graph, PassContext(trainable=True))
    (layer,) = find_layers(again)
    assert layer.tensor.tolist() == [[0, 0, 0, 8], [0, 7, 0, 0]]
    assert len(again) == len(graph) == 2
    assert len(FoldMasks()(again)) == 1


@pytest.mark.parametrize(
    ("options", "zeros"),
    [
        ({"sparsity": 0.5, "scope": "row"}, [[0, 2], [0, 2]]),
        ({"sparsity": 0.5, "pattern": "2x1"}, [[0, 2], [0, 2]]),
        ({"sparsity": 0.5, "pattern": "1x2"}, [[0, 1, 2, 3], []]),
        ({"threshold": 3.5}, [[0, 2], [0]]),
        ({"sparsity": 0.25, "method": lambda weight, inputs: -weight.abs()}, [[3], [1]]),
    ],
    ids=["row", "blocks of outputs", "blocks of inputs", "threshold", "function"],
)
def test_who_goes(options: dict[str, Any], zeros: list[list[int]]) -> None:
    (layer,) = find_layers(PruneWeights(**options)(graphopt.parse(LINEAR)))
    assert [(row == 0).nonzero().flatten().tolist() for row in layer.tensor] == zeros


@st.composite
def scored(draw: Any) -> tuple[list[torch.Tensor], list[int]]:
    """Scores of one to three layers, and how many of their columns stand side by side."""
    scores, channels = [], []
    for _ in range(draw(st.integers(1, 3))):
        groups, rows, positions, inner = (draw(st.integers(1, high)) for high in (2, 5, 3, 7))
        seed = draw(st.integers(0, 999))
        made = torch.rand(groups, rows, positions * inner, generator=torch.Generator().manual_seed(seed))
        scores.append((made * 8).round() if draw(st.booleans()) else made)  # ties
        channels.append(inner)
    return scores, channels


@settings(max_examples=60, deadline=None)
@given(scored(), st.floats(0, 1), st.sampled_from(["row", "layer", "global"]))
def test_unstructured_masks_have_the_number_asked_for(
    drawn: tuple[list[torch.Tensor], list[int]], sparsity: float, scope: Any
) -> None:
    scores, channels = drawn
    kept = masks(scores, channels, [sparsity] * len(scores), parse_pattern("unstructured"), scope)
    parts = [(s.flatten(), k.flatten()) for s, k in zip(scores, kept)]
    if scope == "row":
        parts = [(s, k) for x, y in zip(scores, kept) for s, k in zip(x.flatten(0, 1), y.flatten(0, 1))]
    elif scope == "global":
        parts = [tuple(torch.cat(side) for side in zip(*parts))]  # type: ignore[misc]
    for score, keep in parts:
        assert abs(int((~keep).sum()) - sparsity * len(score)) <= 0.5 + 1e-6
        if keep.any() and not keep.all():
            assert score[~keep].max() <= score[keep].min()


@settings(max_examples=60, deadline=None)
@given(scored(), st.integers(1, 4), st.integers(1, 4))
def test_windows_keep_the_best(drawn: tuple[list[torch.Tensor], list[int]], keep: int, window: int) -> None:
    scores, channels = drawn
    keep = min(keep, window)
    for score, inner, kept in zip(
        scores, channels, masks(scores, channels, [0.5] * len(scores), parse_pattern(f"{keep}:{window}"), "layer")
    ):
        rows = zip(score.reshape(-1, inner).tolist(), kept.reshape(-1, inner).tolist())
        for values, marks in rows:
            for start in range(0, inner, window):
                best = sorted(values[start : start + window], reverse=True)[:keep]
                assert (
                    sorted((v for v, m in zip(values[start:], marks[start : start + window]) if m), reverse=True)
                    == best
                )


@settings(max_examples=40, deadline=None)
@given(scored(), st.floats(0, 1), st.integers(1, 3), st.integers(1, 3))
def test_blocks_live_or_die_together(
    drawn: tuple[list[torch.Tensor], list[int]], sparsity: float, rows: int, columns: int
) -> None:
    scores, channels = drawn
    found = masks(scores, channels, [sparsity] * len(scores), parse_pattern(f"{rows}x{columns}"), "layer")
    for score, inner, kept in zip(scores, channels, found):
        for piece in kept.unflatten(-1, (-1, inner)).movedim(2, 1).flatten(0, 1):
            for block in [b for strip in piece.split(rows) for b in strip.split(columns, 1)]:
                assert block.all() or not block.any()
        assert abs(int((~kept).sum()) - sparsity * kept.numel()) <= rows * columns / 2 + 1e-6
        assert kept.shape == score.shape


@st.composite
def layers(draw: Any) -> tuple[nn.Module, torch.Tensor]:
    """A layer of any kind that pruning knows, and an input."""
    torch.manual_seed(draw(st.integers(0, 999)))
    kind, groups, batch = (
        draw(st.sampled_from(["linear", "matmul", "bmm", "conv", "transposed"])),
        draw(st.integers(1, 3)),
        2,
    )
    if kind == "linear":
        return nn.Linear(5, 3), torch.randn(batch, 4, 5)
    if kind in ("matmul", "bmm"):
        shape = (5, 3) if kind == "matmul" else (batch, 5, 3)
        return Product(nn.Parameter(torch.randn(shape))), torch.randn(batch, 4, 5)
    rank, kernel, stride, dilation = (draw(st.integers(1, n)) for n in (3, 3, 2, 2))
    make = getattr(nn, f"Conv{'Transpose' if kind == 'transposed' else ''}{rank}d")
    padding = draw(st.integers(0, 1)) if kind == "transposed" or stride > 1 else draw(st.sampled_from([0, 1, "same"]))
    layer = make(2 * groups, 3 * groups, kernel, stride, padding, groups=groups, dilation=dilation)
    return layer, torch.randn(batch, 2 * groups, *[6, 5, 7][:rank])


class Product(nn.Module):
    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


@settings(max_examples=40, deadline=None)
@given(layers(), st.floats(0, 1, exclude_max=True))
def test_matrices_are_the_layer(drawn: tuple[nn.Module, torch.Tensor], sparsity: float) -> None:
    """y = W x holds in the matrix form, moments are those of x, and the masked graph is the masked module."""
    module, x = drawn
    graph = graphopt.trace(module, (x,))
    (layer,) = find_layers(graph)
    weight = layer.to_matrices(layer.tensor)
    assert torch.equal(layer.from_matrices(weight), module.weight.detach())
    columns = torch.cat(list(layer.inputs(layer.readers[0].node, x)), 1)
    with torch.no_grad():
        y = module(x) - (0 if getattr(module, "bias", None) is None else channelwise(module))
    if layer.kind != "transposed":
        products = columns @ weight.transpose(1, 2)  # [groups, positions, rows]
        if layer.kind == "conv":
            y = y.movedim(1, -1).reshape(-1, layer.groups, products.shape[2]).transpose(0, 1)
        torch.testing.assert_close(products, y.reshape(products.shape), atol=1e-5, rtol=1e-5)
    moments = measure(graph, [layer], [[x]], gram=True)[layer]
    assert moments.gram is not None
    torch.testing.assert_close(moments.gram, columns.transpose(1, 2) @ columns, atol=1e-4, rtol=1e-4)
    pruned = PruneWeights(sparsity=sparsity)(graph)
    (left,) = find_layers(pruned)
    with torch.no_grad():
        module.weight.copy_(left.tensor)
        torch.testing.assert_close(graphopt.analysis.run_graph(pruned, x)[0], module(x))


def channelwise(module: nn.Module) -> torch.Tensor:
    """The bias, in the place of the channels."""
    bias = module.bias.detach()
    return bias if isinstance(module, nn.Linear) else bias.view(-1, *[1] * (module.weight.dim() - 2))


def test_wanda_by_hand() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    data = [torch.randn(n, 6) * torch.arange(1.0, 7.0) for n in (3, 5, 1)]
    pruned = graphopt.compile(
        model, (data[0],), target="fx", dynamic_shapes="batch", calibration=data, passes="prune-weights{method=wanda}"
    )
    norms = torch.cat(data).norm(dim=0)
    for row, left in zip(model.weight.detach(), pruned.state_dict()["weight"]):
        scores = row.abs() * norms
        assert set(scores.argsort()[:3].tolist()) == set((left == 0).nonzero().flatten().tolist())


def test_taylor_by_autograd_however_the_data_is_split() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    x, y = torch.randn(12, 5), torch.randint(0, 3, (12,))
    F.cross_entropy(model(x), y).backward()
    scores = torch.cat([(p.grad * p).abs().flatten() for p in (model[0].weight, model[2].weight)])  # type: ignore
    lowest = set(scores.argsort()[: len(scores) // 2].tolist())
    for size in (12, 5):
        loader = list(zip(x.split(size), y.split(size)))
        pruned = graphopt.compile(
            model,
            (x,),
            target="fx",
            dynamic_shapes="batch",
            calibration=loader,
            passes='prune-weights{method=taylor, loss="cross-entropy"}',
        )
        left = torch.cat([pruned.state_dict()[f"{i}.weight"].flatten() for i in (0, 2)])
        assert set((left == 0).nonzero().flatten().tolist()) == lowest


def test_lamp_by_hand() -> None:
    weight = torch.tensor([[[1.0, -3.0, 2.0]]])
    scores = METHODS["lamp"].scores(Evidence(weight))
    torch.testing.assert_close(scores, torch.tensor([[[1 / 14, 1.0, 4 / 13]]], dtype=torch.float64))


def test_random_is_seeded_and_leaves_the_global_generator_alone() -> None:
    graph, state = graphopt.parse(LINEAR), torch.get_rng_state()
    found = [find_layers(PruneWeights(method="random", seed=seed)(graph))[0].tensor for seed in (1, 1, 2, 3)]
    assert torch.equal(found[0], found[1]) and not all(torch.equal(found[0], other) for other in found[2:])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["hf-mobilenet-v2", "hf-gpt2", "lstm"])
def test_real_models_equal_the_masked_module(name: str) -> None:
    entry = MODELS[name]
    model, (args, kwargs) = entry.build(), entry.inputs()
    pruned = graphopt.compile(
        model, args, kwargs, target="fx", passes="prune-weights{sparsity=0.6, scope=global}", on_failure="raise"
    )
    state = pruned.state_dict()
    masked = {n.removesuffix("_mask"): m for n, m in state.items() if n.endswith("_mask")}
    total = sum(layer.tensor.numel() for layer in find_layers(pruned.graph))
    once = {mask.data_ptr(): mask for mask in masked.values()}.values()  # a tied weight has a mask of several names
    assert sum(int((mask == 0).sum()) for mask in once) == pytest.approx(0.6 * total, abs=1)
    with torch.no_grad():
        for parameter, mask in masked.items():
            model.get_parameter(parameter).mul_(mask)
        expected, found = model(*args, **kwargs), pruned(*args, **kwargs)
    for a, b in zip(torch.utils._pytree.tree_leaves(found), torch.utils._pytree.tree_leaves(expected)):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, atol=2e-5 * float(b.abs().max()), rtol=0)


def test_tied_weights_are_one_layer() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 4)
            self.head = nn.Linear(4, 9, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(ids))

    model, ids = Tied(), torch.arange(9)
    pruned = graphopt.compile(model, (ids,), target="fx", passes="prune-weights", on_failure="raise")
    mask = pruned.state_dict()["head.weight_mask"]
    assert int(mask.sum()) == 18 and torch.equal(mask, pruned.state_dict()["embed.weight_mask"])
    with torch.no_grad():
        model.embed.weight.mul_(mask)
        torch.testing.assert_close(pruned(ids), model(ids))


MLP = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"sparsity": 1.5}, GraphOptError, "a share of zeros, at least 0 and below 1, got 1.5"),
        ({"layers": {"0.weight": -0.1}}, GraphOptError, "0.weight is a share of zeros"),
        ({"layers": {"0.weihgt": 0.1}}, UnknownNameError, "Did you mean '0.weight'"),
        ({"ignore": ("*",)}, GraphOptError, "no weight to prune"),
        ({"ignore": ("fc",)}, UnknownNameError, "Unknown weight 'fc'"),
        ({"method": "magnitud"}, UnknownNameError, "Did you mean 'magnitude'"),
        ({"pattern": "2-4"}, GraphOptError, "n:m such as 2:4"),
        ({"pattern": "5:4"}, GraphOptError, "keeps 5 of 4"),
        ({"pattern": "0x4"}, GraphOptError, "at least one row"),
        ({"method": "sparsegpt", "scope": "global"}, GraphOptError, "leave scope out"),
        ({"method": "wanda", "threshold": 0.1}, GraphOptError, "threshold is an option of magnitude"),
        ({"method": "taylor"}, InputError, "needs a loss"),
        ({"method": "wanda"}, InputError, "needs data"),
        ({"method": lambda weight, inputs: weight[0]}, GraphOptError, "must have the shape"),
        ({"method": lambda weight, inputs: weight / 0 * 0}, GraphOptError, "a score is NaN"),
    ],
)
def test_bad_input(options: dict[str, Any], error: type[Exception], text: str) -> None:
    graph = graphopt.trace(MLP, (torch.ones(1, 4),))
    before = str(graph)
    with pytest.raises(error, match=text):
        PruneWeights(**options)(graph)
    assert str(graph) == before


def test_data_that_does_not_fit() -> None:
    graph = graphopt.trace(MLP, (torch.ones(1, 4),))
    for calibration, text in (
        ([], "no batch"),
        ([torch.ones(1, 5)], "does not fit"),
        ([torch.ones(1, 4) * float("inf")], "finite"),
    ):
        with pytest.raises(GraphOptError, match=text):
            PruneWeights(method="wanda")(graph, PassContext(calibration=calibration))


def test_text_form_and_report() -> None:
    graph = graphopt.trace(MLP, (torch.ones(1, 4),))
    text = 'prune-weights{sparsity=0.25, layers={"2.*"=0.5}, ignore=("nothing",)}'
    with pytest.raises(UnknownNameError, match="Unknown weight 'nothing'"):
        PassManager(text, on_failure="raise").run(graph)
    pruned, report = PassManager(text.replace(', ignore=("nothing",)', ""), on_failure="raise").run(graph)
    assert [n for n in report.records[0].notes if "zeros" in n] == [
        "0.weight [4, 4]: 25.0% zeros (magnitude)",
        "2.weight [2, 4]: 50.0% zeros (magnitude)",
    ]
    assert len(pruned) == len(graph)


def test_a_model_captured_at_its_first_call_says_that_it_needs_inputs() -> None:
    with pytest.raises(GraphOptError, match="give args to compile"):
        graphopt.compile(MLP, target="fx", passes="prune-weights")


@pytest.mark.parametrize("text", ['prune-weights{ignore="conv9"}', "prune-weights{method=taylor}"])
def test_what_is_asked_in_vain_is_raised(text: str) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).eval()
    with pytest.raises(GraphOptError, match=r"conv9|loss"):
        graphopt.compile(model, (torch.randn(2, 4),), target="fx", passes=text)


@pytest.mark.parametrize(
    "options",
    [
        {"pattern": "0:4"},
        {"threshold": -1.0},
        {"pattern": "2:4", "layers": {"a": 0.9}},
        {"threshold": 0.1, "layers": {"a": 0.9}},
    ],
)
def test_options_without_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(GraphOptError, match=r"between 1 and all|0 or more|without effect"):
        PruneWeights(**options)


def test_a_layer_of_which_nothing_is_left_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).eval()
    fast = graphopt.compile(model, (torch.randn(2, 4),), target="fx", passes="prune-weights{sparsity=0.99}")
    notes = [note for record in fast.report.passes.records for note in record.notes]
    assert any("nothing of it is left" in note and note.startswith("0.weight") for note in notes)
