"""Passes that skip what an input makes unimportant: channels and rows near zero, tokens, layers behind a sure exit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim

import graphopt
from graphopt.analysis import run_graph
from graphopt.errors import GraphOptError
from graphopt.ir import Graph
from graphopt.ops import parse
from graphopt.passes.early_exit import EarlyExit
from graphopt.passes.gate_activations import GateActivations
from graphopt.passes.prune_tokens import PruneTokens
from graphopt.passmanager import PassContext, parse_pipeline
from graphopt.targets import get_engine
from tests.zoo import MODELS

GATED = """
input %x: f32[N, 3, 6]
parameter %w: f32[8, 6]
parameter %v: f32[4, 8]
parameter %b: f32[4]
%a = linear(%x, %w, none)
%h = relu(%a)
%y = linear(%h, %v, %b)
return %y
"""
BEHIND = {
    "channels": """
%size = abs(%h)
%top = amax(%size) {dim=(0, 1)}
%live = gt.Scalar(%top) {other=0.25}
%places = nonzero(%live)
%kept = squeeze.dim(%places) {dim=1}
%some = index_select(%h, %kept) {dim=-1}
%rows = index_select(%v_columns, %kept) {dim=0}
%product = matmul(%some, %rows)
%y = add.Tensor(%product, %b)
return %y
""",
    "rows": """
%flat = reshape(%h) {shape=(N*3, 8)}
%size = abs(%flat)
%top = amax(%size) {dim=(1,)}
%live = gt.Scalar(%top) {other=0.25}
%places = nonzero(%live)
%kept = squeeze.dim(%places) {dim=1}
%some = index_select(%flat, %kept) {dim=0}
%part = linear(%some, %v, %b)
%zeros = new_zeros(%part) {size=(N*3, 4)}
%rest = add.Tensor(%zeros, %b)
%whole = index_copy(%rest, %kept, %part) {dim=0}
%y = reshape(%whole) {shape=(N, 3, 4)}
return %y
""",
}


def in_engines(graph: Graph, inputs: list[Tensor]) -> list[list[Any]]:
    return [get_engine(name).load(graph).run(inputs) for name in ("eager", "onnxruntime")]


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph]


@pytest.mark.parametrize("by", BEHIND)
def test_gate_in_text(check, by: str) -> None:
    v = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    sample = [torch.randn(2, 3, 6)]
    body = GATED[: GATED.index("%y")]
    if by == "channels":
        body = body.replace("parameter %v: f32[4, 8]\n", "").replace("%a", "constant %v_columns: f32[8, 4]\n%a", 1)
    graph = check(
        GateActivations(threshold=0.25, by=by, most=1.0),
        GATED,
        body + BEHIND[by],
        tensors={"v": v, "v_columns": v.t().contiguous()},
        context=PassContext(samples=[sample]),
        numeric=False,
    )
    assert check.result.details.to_dict()["gated"] == ["y"]
    assert len(graph) > 3


@settings(max_examples=30, deadline=None)
@given(
    by=st.sampled_from(("channels", "rows")),
    rows=st.integers(1, 40),
    threshold=st.sampled_from((0.0, 0.3, 5.0, 100.0)),
    seed=st.integers(0, 1000),
)
def test_gate_is_the_layer_with_small_inputs_at_zero(by: str, rows: int, threshold: float, seed: int) -> None:
    """What is left out counts as zero; at a threshold of 0 nothing but zeros is."""
    graph = parse(GATED)
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(rows, 3, 6, generator=generator)]
    GateActivations(threshold=threshold, by=by, most=1.0).run(graph, PassContext(samples=[inputs]))
    stored = {name: value.constant.tensor for name, value in parse(GATED).constants.items()}  # type: ignore[union-attr]
    h = torch.relu(inputs[0] @ stored["w"].t())
    live = h.amax((0, 1) if by == "channels" else (2,), keepdim=True) > threshold
    expected = (h * live) @ stored["v"].t() + stored["b"]
    for (found,) in in_engines(graph, inputs):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_gate_where_few_are_live() -> None:
    graph = parse(GATED)
    result = GateActivations(most=0.1).run(graph, PassContext(samples=[[torch.randn(4, 3, 6)]]))
    assert not result.changed
    assert "0 of 1 layers are gated by channels" in result.notes[0]
    assert "no example inputs" in GateActivations().run(graph, PassContext()).notes[0]


class Branches(nn.Module):
    """Three stages, each with a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(6, 4) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found = []
        for stage, head in zip(self.stages, self.heads):
            x = torch.tanh(stage(x)) + x
            found.append(3 * head(x))
        return tuple(found)


def branches() -> tuple[nn.Module, Graph]:
    torch.manual_seed(0)
    model = Branches().eval()
    return model, graphopt.trace(model, (torch.randn(3, 6),), dynamic_shapes="batch")


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("rows", [1, 5])
def test_exit_returns_the_first_sure_output(threshold: float, rows: int) -> None:
    model, graph = branches()
    result = EarlyExit(threshold=threshold).run(graph, PassContext(samples=[[torch.randn(3, 6)]]))
    assert result.changed and names(graph).count("higher_order.cond") == 1
    for seed in range(6):
        x = 3 * torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            expected = list(model(x))
        for place in (0, 1):
            if bool((expected[place].softmax(-1).amax(-1) >= threshold).all()):
                expected[place + 1 :] = [expected[place]] * (2 - place)
                break
        for found in (run_graph(graph, x), *in_engines(graph, [x])):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_exit_in_text() -> None:
    graph = parse(
        """
input %x: f32[1, 4]
%a = neg(%x)
%b = exp(%a)
return %a, %b"""
    )
    EarlyExit(threshold=0.75).run(graph, PassContext())
    assert names(graph) == [
        "aten.neg",
        "aten.softmax.int",
        "aten.amax",
        "aten.amin",
        "aten.ge.Scalar",
        "higher_order.cond",
    ]
    taken, other = graph.nodes[-1].regions
    assert len(taken) == 0 and names(other) == ["aten.exp"]


def test_exit_of_a_compiled_model() -> None:
    """The report says how many samples leave early, and the model still returns all its outputs."""
    model, _ = branches()
    x = torch.randn(3, 6)
    compiled = graphopt.compile(
        model, (x,), target="fx", passes="default,early-exit{threshold=0.01}", dynamic_shapes="batch"
    )
    (record,) = (r for r in compiled.report.passes.records if r.name == "early-exit")
    assert record.details.to_dict()["sure"] == (1.0, 1.0)
    first, *later = compiled(x)
    for output in later:
        torch.testing.assert_close(output, first)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("input %x: f32[2, 3]\n%y = neg(%x)\nreturn %y", "one output"),
        ("input %x: f32[2, 3]\n%y = neg(%x)\n%z = sum.dim_IntList(%x) {dim=(1,)}\nreturn %y, %z", "exits are alike"),
        ("input %x: i64[2, 3]\n%y = neg(%x)\nreturn %y, %x", "holds no logits"),
    ],
)
def test_model_without_exits(text: str, reason: str) -> None:
    result = EarlyExit().run(parse(text), PassContext())
    assert not result.changed and reason in result.notes[0]


def encoder() -> tuple[nn.Module, dict[str, Tensor], Graph]:
    entry = MODELS["minilm"]
    _, kwargs = entry.inputs(batch=2, length=24)
    shapes = {name: {0: Dim("batch"), 1: Dim("length", min=3, max=512)} for name in kwargs}
    compiled = graphopt.compile(entry.build(), (), kwargs, target="fx", passes="default", dynamic_shapes=shapes)
    return entry.build(), kwargs, compiled.graph


def layers(model: nn.Module, ids: Tensor, mask: Tensor, layer: int, keep: float) -> Tensor:
    """The encoder by its own modules, tokens dropped in front of a layer."""
    from transformers.models.bert.modeling_bert import BertModel

    bert: BertModel = model.encoder  # type: ignore[assignment]
    x = before = bert.embeddings(input_ids=ids)
    for index, block in enumerate(bert.encoder.layer):
        shown = mask[:, None, None, :].bool()
        if index == layer:
            own = bert.encoder.layer[index - 1].attention.self
            q, k = (f(before).unflatten(-1, (12, -1)).transpose(1, 2) for f in (own.query, own.key))
            scores = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).masked_fill(~shown, float("-inf"))
            votes = scores.softmax(-1).sum((1, 2))
            count = -(-mask.shape[1] * round(10 * keep) // 10)
            places = votes.topk(count, 1).indices.sort(1).values
            x, mask = x.gather(1, places[..., None].expand(-1, -1, x.shape[2])), mask.gather(1, places)
            shown = mask[:, None, None, :].bool()
        before = x
        x = block(x, attention_mask=shown)
        x = x[0] if isinstance(x, tuple) else x
    weights = mask.unsqueeze(-1).float()
    return nn.functional.normalize((x * weights).sum(1) / weights.sum(1).clamp(min=1e-9), dim=-1)


def test_tokens_of_an_encoder() -> None:
    """The embedding is that of the same layers on fewer tokens, and close to that of all."""
    model, _, graph = encoder()
    result = PruneTokens(keep=0.7, layer=3).run(graph, PassContext())
    assert result.changed and "run on 70% of the tokens" in result.notes[0]
    for seed, length in enumerate((24, 31)):
        _, kwargs = MODELS["minilm"].inputs(batch=3, length=length, seed=seed)
        with torch.no_grad():
            expected = layers(model, kwargs["input_ids"], kwargs["attention_mask"], 3, 0.7)
            whole = model(**kwargs)
        (found,) = run_graph(graph, *kwargs.values())
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        assert (found * whole).sum(-1).min() > 0.8
    (found,) = get_engine("onnxruntime").load(graph).run(list(kwargs.values()))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


HEADS = """
input %x: f32[B, L, 8]
input %mask: bool[B, L]
parameter %w: f32[8, 8]
%m = reshape(%mask) {shape=(B, 1, 1, L)}
%h = linear(%x, %w, none)
%s = reshape(%h) {shape=(B, L, 2, 4)}
%t = transpose.int(%s) {dim0=1, dim1=2}
%a = scaled_dot_product_attention(%t, %t, %t, %m)
%u = transpose.int(%a) {dim0=1, dim1=2}
%j = reshape(%u) {shape=(B, L, 8)}
%y = add.Tensor(%j, %x)
%h2 = linear(%y, %w, none)
%s2 = reshape(%h2) {shape=(B, L, 2, 4)}
%t2 = transpose.int(%s2) {dim0=1, dim1=2}
%a2 = scaled_dot_product_attention(%t2, %t2, %t2, %m)
%u2 = transpose.int(%a2) {dim0=1, dim1=2}
%j2 = reshape(%u2) {shape=(B, L, 8)}
%z = add.Tensor(%j2, %y)
%r = mean.dim(%z) {dim=(1,)}
return %r
"""


def test_tokens_in_text() -> None:
    graph = parse(HEADS)
    assert PruneTokens(keep=0.5).run(graph, PassContext()).changed
    assert "f32[B, 2, (L + 1)//2, 4]" in str(graph)
    assert {"aten.topk", "aten.sort", "aten.gather"} <= set(names(graph))
    assert repr(graph.outputs[0].type) == "f32[B, 8]"


@pytest.mark.parametrize(
    "text, options, reason",
    [
        (HEADS, {"layer": 2}, "none is number 2"),
        (HEADS.replace("return %r", "return %r, %z"), {}, "has a row for each token"),
        (HEADS.replace("[B, L, 8]", "[B, 9, 8]").replace("L", "9"), {}, "the length is fixed"),
        (
            HEADS.replace(
                "%r = mean",
                "%i = arange() {end=L}\n%c = reshape(%i) {shape=(1, L, 1)}\n%q = mul.Tensor(%z, %c)\n%r = mean",
            ).replace("mean.dim(%z)", "mean.dim(%q)"),
            {},
            "depends on the places of tokens",
        ),
    ],
)
def test_tokens_that_stay(text: str, options: dict[str, Any], reason: str) -> None:
    result = PruneTokens(**options).run(parse(text), PassContext())
    assert not result.changed and reason in result.notes[0], result.notes


@pytest.mark.parametrize(
    "text, reason",
    [
        ("gate-activations{by=columns}", "neither 'channels' nor 'rows'"),
        ("gate-activations{threshold=-1.0}", "0 or more"),
        ("gate-activations{most=0.0}", "above 0"),
        ("early-exit{threshold=0.0}", "no probability"),
        ("early-exit{threshold=1.5}", "no probability"),
        ("prune-tokens{keep=0.0}", "no share of the tokens"),
        ("prune-tokens{keep=1.0}", "no share of the tokens"),
        ("prune-tokens{layer=0}", "no attention before it"),
    ],
)
def test_options_that_make_no_sense(text: str, reason: str) -> None:
    with pytest.raises(GraphOptError, match=reason):
        parse_pipeline(text)
