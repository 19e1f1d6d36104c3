from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils import _pytree as pytree

import graphopt
from graphopt.analysis import Interpreter
from graphopt.errors import GraphOptError
from graphopt.ir import DType, Graph, TensorType
from graphopt.ops import parse
from graphopt.ops.attention import plan_mask
from graphopt.passes.attention.masks import by_head
from graphopt.passes.attention.sites import Site, find_site
from graphopt.passes.sparse_attention import SparseAttention
from graphopt.passmanager import PassContext, PassManager, parse_pipeline
from graphopt.rewrite import Contract, Rewriter
from graphopt.targets import get_engine
from graphopt.testing import assert_equivalent
from tests.ops.test_attention_plans import KINDS, mask_of
from tests.zoo import MODELS

LONG = """
input %q: f32[1, 2, 1024, 8]
input %k: f32[1, 2, 1024, 8]
input %v: f32[1, 2, 1024, 8]
"""
BAND = """
%i = arange() {end=1024}
%row = reshape(%i) {shape=(1024, 1)}
%apart = sub.Tensor(%i, %row)
%size = abs(%apart)
%near = le.Scalar(%size) {other=32}
"""


def names(graph: Graph) -> list[str]:
    return [node.name.rpartition(".")[2] for node in graph]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower whatever can be."""
    monkeypatch.setattr("graphopt.passes.sparse_attention.GAIN", 0.0)


BIAS = plan_mask(mask_of("band", 1024, 1024, 1, 31)).bias
AFTER = """constant %attention_bias: f32[1, 20480]
%y = graphopt.block_sparse_attention(%q, %k, %v, %attention_bias) {plan=(
0, 64, 1, 0, 1, 0, 96, 0, 64, 64, 14, 6144, 1, 32, 128, 64, 960, 64, 1, 14336, 1, 928, 96, 0), scale=0.5}
""".replace("(\n", "(")


def test_band_that_is_computed_in_the_graph(check) -> None:
    check(
        SparseAttention(),
        LONG + BAND + "%y = scaled_dot_product_attention(%q, %k, %v, %near) {scale=0.5}\nreturn %y",
        LONG + AFTER + "return %y",
        tensors={"attention_bias": BIAS},
        special=False,
    )
    assert check.result.details.to_dict()["lowered"]["y"]["share"] == pytest.approx(0.12, abs=0.02)


def test_mask_that_another_node_reads_stays(check) -> None:
    check(
        SparseAttention(),
        LONG + BAND + "%y = scaled_dot_product_attention(%q, %k, %v, %near) {scale=0.5}\nreturn %y, %near",
        LONG + BAND + AFTER + "return %y, %near",
        tensors={"attention_bias": BIAS},
        special=False,
    )


@pytest.mark.parametrize(
    "text, reason",
    [
        ("%y = scaled_dot_product_attention(%q, %k, %v)", "it has no mask"),
        ("%y = scaled_dot_product_attention(%q, %k, %v) {is_causal=true}", "leave out what is causal by themselves"),
        (BAND + "%y = scaled_dot_product_attention(%q, %k, %v, %near) {dropout_p=0.5}", "it drops out"),
        ("%y = scaled_dot_product_attention(%q, %k, %v, %m)", "its mask depends on an input"),
        (
            BAND.replace("other=32", "other=900") + "%y = scaled_dot_product_attention(%q, %k, %v, %near)",
            "too much to be faster",
        ),
    ],
)
def test_what_is_left_alone(text: str, reason: str) -> None:
    graph = parse(f"{LONG}input %m: bool[1024, 1024]\n{text}\nreturn %y")
    result = SparseAttention().run(graph, PassContext())
    assert not result.changed
    assert any(reason in note for note in result.notes), result.notes


def test_causal_is_measured(always) -> None:
    """An engine that does not leave out what is causal gains by it; either way the numbers are the same."""
    text = LONG + "%y = scaled_dot_product_attention(%q, %k, %v) {is_causal=true}\nreturn %y"
    graph = parse(text)
    result = SparseAttention().run(graph, PassContext(engine=get_engine("eager")))
    assert result.changed
    assert result.details.lowered["y"].before > 0
    assert_equivalent(parse(text), graph, contract=Contract.REASSOCIATING, special=False)


def masked(mask: Tensor, shapes: list[tuple[int, ...]], grouped: bool = False) -> Graph:
    """One attention with a stored mask."""
    graph = Graph("masked")
    rewriter = Rewriter(graph)
    values = [graph.add_input(name, TensorType(DType.F32, shape)) for name, shape in zip("qkv", shapes)]
    stored = rewriter.constant(mask, "mask")
    attention = rewriter.create("aten.scaled_dot_product_attention", *values, stored, enable_gqa=grouped)
    graph.set_outputs([attention.result])
    return graph


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    queries=st.integers(1, 200),
    keys=st.integers(1, 200),
    broadcast=st.sampled_from(("heads", "one", "none", "flat", "rows")),
    groups=st.sampled_from((1, 2)),
    seed=st.integers(0, 1000),
)
def test_any_mask(kind: str, queries: int, keys: int, broadcast: str, groups: int, seed: int) -> None:
    """Masks of any form and shape that broadcasts, in a model that is captured: as eager computes it."""
    mask = mask_of(kind, queries, keys, 4 if broadcast == "heads" else 1, seed)
    flat = broadcast == "flat"
    if broadcast == "none":
        mask = mask[0]
    elif broadcast == "rows":
        mask = mask[:, :1].unsqueeze(0)
    heads = (4, 4 // groups, 4 // groups)
    shapes = [(2, n, 8) if flat else (2, h, n, 8) for h, n in zip(heads, (queries, keys, keys))]
    inputs = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for shape in shapes]
    graph = masked(mask, shapes, groups > 1 and not flat)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graphopt.passes.sparse_attention.GAIN", 0.0)
        optimized, report = PassManager([SparseAttention()], on_failure="raise").run(graph)
    assert names(optimized).count("block_sparse_attention") == 1, report
    expected = scaled_dot_product_attention(*inputs, mask, enable_gqa=groups > 1 and not flat)
    torch.testing.assert_close(Interpreter(optimized).run(*inputs)[0], expected, rtol=1e-4, atol=1e-5)


def test_mask_of_the_wrong_shape() -> None:
    graph = parse(LONG.replace("1024", "8") + "%y = scaled_dot_product_attention(%q, %k, %v)\nreturn %y")
    site = find_site(graph.nodes[0])
    assert isinstance(site, Site)
    with pytest.raises(GraphOptError, match=r"shape \[7, 9\] for scores of \[1, 2, 8, 8\]"):
        by_head(torch.ones(7, 9), site)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("sparse-attention{window=0}", "window of 0 keys shows nothing"),
        ("sparse-attention{window=-3}", "window of -3 keys shows nothing"),
        ("sparse-attention{tokens=4}", "tokens=4 needs a window"),
        ("sparse-attention{window=8,tokens=-1}", "is 0 or more"),
    ],
)
def test_options_that_make_no_sense(text: str, reason: str) -> None:
    with pytest.raises(GraphOptError, match=reason):
        parse_pipeline(text)


def test_contract_is_lossy_with_a_window_only() -> None:
    assert SparseAttention().contract is Contract.REASSOCIATING
    assert SparseAttention(window=8).contract is Contract.LOSSY


def windowed(length: int, window: int, tokens: int = 0, causal: bool = False) -> Tensor:
    place = torch.arange(length)
    row, column = place.unsqueeze(1), place.unsqueeze(0)
    if causal:
        return (column <= row) & (column > row - window)
    near = (column >= row - window // 2) & (column <= row + (window - 1) // 2)
    return near | (row < tokens) | (column < tokens)


@pytest.mark.parametrize("causal, tokens", [(False, 0), (False, 3), (True, 0)])
def test_window_is_dense_attention_with_its_mask(always, causal: bool, tokens: int) -> None:
    text = (
        LONG.replace("1024", "N") + f"%y = scaled_dot_product_attention(%q, %k, %v) {{is_causal={str(causal).lower()}}}"
    )
    graph = parse(text + "\nreturn %y")
    inputs = [torch.randn(1, 2, 100, 8) for _ in range(3)]
    result = SparseAttention(window=9, tokens=tokens).run(graph, PassContext(samples=[inputs]))
    assert result.changed and names(graph) == ["window_attention"]
    for length in (100, 33):
        inputs = [torch.randn(1, 2, length, 8) for _ in range(3)]
        found = Interpreter(graph).run(*inputs)[0]
        expected = scaled_dot_product_attention(*inputs, windowed(length, 9, tokens, causal))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_window_of_a_known_mask_is_their_intersection(always) -> None:
    mask = mask_of("blocks", 90, 90, 2, 7)
    inputs = [torch.randn(1, 2, 90, 8) for _ in range(3)]
    graph = masked(mask.unsqueeze(0), [(1, 2, 90, 8)] * 3)
    SparseAttention(window=20).run(graph, PassContext())
    assert names(graph) == ["block_sparse_attention"]
    expected = scaled_dot_product_attention(*inputs, mask & windowed(90, 20))
    torch.testing.assert_close(Interpreter(graph).run(*inputs)[0], expected, rtol=1e-4, atol=1e-5)


def test_window_without_a_length_to_judge_by() -> None:
    graph = parse(LONG.replace("1024", "N") + "%y = scaled_dot_product_attention(%q, %k, %v)\nreturn %y")
    result = SparseAttention(window=8).run(graph, PassContext())
    assert not result.changed
    assert "give example inputs" in result.notes[0]


def test_cross_attention_has_no_window() -> None:
    graph = parse(
        LONG.replace("%k: f32[1, 2, 1024", "%k: f32[1, 2, 9").replace("%v: f32[1, 2, 1024", "%v: f32[1, 2, 9")
        + "%y = scaled_dot_product_attention(%q, %k, %v)\nreturn %y"
    )
    result = SparseAttention(window=8).run(graph, PassContext())
    assert "not the same positions" in result.notes[0]


def test_window_of_an_encoder(always) -> None:
    """The window meets the padding mask of a real encoder: as its layers compute with both, and told as lossy."""
    entry = MODELS["hf-bert"]
    model = entry.build()
    args, kwargs = entry.inputs(batch=2, length=24)
    compiled = graphopt.compile(
        model, args, kwargs, target="eager", passes="default,sparse-attention{window=6}", dynamic_shapes="batch"
    )
    report = compiled.report.passes.records[-1]
    assert report.promise == "lossy" and report.details.lowered
    assert {"graphopt.window_attention"} <= {node.name for node in compiled.graph}
    wide = graphopt.compile(
        model, args, kwargs, target="eager", passes="default,sparse-attention{window=64}", dynamic_shapes="batch"
    )
    expected, found, whole = (pytree.tree_leaves(run(*args, **kwargs))[0] for run in (model, compiled, wide))
    torch.testing.assert_close(whole, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("target", ["eager", "onnxruntime"])
def test_sliding_window_of_a_language_model(target: str) -> None:
    """A decoder whose sliding window is a mask that the model computes for itself: found, folded, lowered, the same."""
    from transformers import MistralConfig, MistralModel

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=48,
        use_cache=False,
    )

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = MistralModel(config)

        def forward(self, ids: Tensor) -> Tensor:
            return self.model(input_ids=ids, use_cache=False).last_hidden_state

    model = Decoder().eval()
    ids = torch.randint(0, 50, (1, 1024))
    passes = "default,sparse-attention{measure=false},dead-code"
    compiled = graphopt.compile(model, (ids,), target=target, passes=passes, on_failure="raise")
    assert [node.name for node in compiled.graph].count("graphopt.block_sparse_attention") == 2
    assert not any(node.name.startswith("aten.arange") for node in compiled.graph)
    with torch.no_grad():
        torch.testing.assert_close(compiled(ids), model(ids), rtol=1e-3, atol=1e-4)


def test_export_and_saved_form(tmp_path: Path) -> None:
    """The operator is exported whole, captured again as itself, and saved."""

    class Banded(nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            place = torch.arange(q.shape[2])
            return scaled_dot_product_attention(q, q, q, (place[:, None] - place).abs() <= 8)

    q = torch.randn(1, 4, 1024, 8)
    compiled = graphopt.compile(Banded(), (q,), target="fx", passes="sparse-attention", on_failure="raise")
    exported = torch.export.export(compiled.module, (q,))
    again = graphopt.trace(exported.module(), (q,))
    assert names(again) == names(compiled.graph) == ["block_sparse_attention"]
    compiled.save(tmp_path / "banded.graphopt")
    loaded = graphopt.load(tmp_path / "banded.graphopt")
    expected = Banded()(q)
    for found in (compiled(q), exported.module()(q), loaded(q)):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
