from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

import graphopt
from graphopt.analysis import Interpreter
from graphopt.ir import Graph
from graphopt.ops import parse
from graphopt.passes.attention.padding_masks import Marks
from graphopt.passes.padding_free import PaddingFree
from graphopt.passmanager import PassContext, PassManager
from graphopt.pipelines import canonical_pipeline, default_pipeline
from graphopt.rewrite import Contract
from graphopt.targets import get_engine
from graphopt.testing import assert_equivalent
from tests.zoo import MODELS

HEAD = """
input %x: f32[B, L, 8]
input %mask: i64[B, L]
parameter %w: f32[8, 8]
"""
SHOWN = """
%bool = _to_copy(%mask) {dtype=bool}
%shown = reshape(%bool) {shape=(B, 1, 1, L)}
"""
HEADS = """
%h = linear(%x, %w, none)
%s = reshape(%h) {shape=(B, L, 2, 4)}
%t = transpose.int(%s) {dim0=1, dim1=2}
"""
JOINED = """
%u = transpose.int(%a) {dim0=1, dim1=2}
%j = reshape(%u) {shape=(B, L, 8)}
%y = add.Tensor(%j, %x)
"""
POOLED = """
%column = unsqueeze(%mask) {dim=-1}
%weights = _to_copy(%column) {dtype=f32}
%z = mul.Tensor(%y, %weights)
%r = sum.dim_IntList(%z) {dim=(1,)}
return %r
"""
ATTENTION = "%a = scaled_dot_product_attention(%t, %t, %t, %shown)\n"
WHOLE = HEAD + SHOWN + HEADS + ATTENTION + JOINED + POOLED


def batch(generator: torch.Generator, size: int, length: int, share: float = 0.5) -> list[Tensor]:
    mask = (torch.rand(size, length, generator=generator) < share).long()
    return [torch.randn(size, length, 8, generator=generator), mask]


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph]


def test_region_between_input_and_pooling(check) -> None:
    check(
        PaddingFree(),
        WHOLE,
        HEAD
        + """
%flat_mask = reshape(%mask) {shape=(B*L,)}
%places = nonzero(%flat_mask)
%rows = squeeze.dim(%places) {dim=1}
%flat = reshape(%x) {shape=(B*L, 8)}
%live = index_select(%flat, %rows) {dim=0}
%h = linear(%live, %w, none)
%t = reshape(%h) {shape=(-1, 2, 4)}
%a = graphopt.segment_attention(%t, %t, %t, %mask)
%j = reshape(%a) {shape=(-1, 8)}
%y = add.Tensor(%j, %live)
%column = unsqueeze(%mask) {dim=-1}
%weights = _to_copy(%column) {dtype=f32}
%flat_weights = reshape(%weights) {shape=(B*L, 1)}
%live_weights = index_select(%flat_weights, %rows) {dim=0}
%z = mul.Tensor(%y, %live_weights)
%zeros = new_zeros(%z) {size=(B*L, 8)}
%filled = index_copy(%zeros, %rows, %z) {dim=0}
%whole = reshape(%filled) {shape=(B, L, 8)}
%r = sum.dim_IntList(%whole) {dim=(1,)}
return %r
""",
        special=False,
    )


MASKS = {
    "bool": SHOWN,
    "not equal": "%bool = ne.Scalar(%mask) {other=0}\n%shown = reshape(%bool) {shape=(B, 1, 1, L)}\n",
    "and": SHOWN.replace("%shown", "%one")
    + "%i = arange() {end=L}\n%c = reshape(%i) {shape=(1, 1, L, 1)}\n%all = ge.Scalar(%c) {other=0}\n"
    "%shown = bitwise_and.Tensor(%all, %one)\n",
    "where": SHOWN.replace("%shown", "%one") + "%shown = where.Scalar(%one) {self=0.0, other=-inf}\n",
    "filled": SHOWN.replace("%shown", "%one") + "%zero = zeros() {size=(B, 1, 1, L)}\n%not = logical_not(%one)\n"
    "%shown = masked_fill.Scalar(%zero, %not) {value=-1e38}\n",
    "number": SHOWN.replace("%shown", "%one")
    + "%f = _to_copy(%one) {dtype=f32}\n%p = rsub.Scalar(%f) {other=1.0}\n%shown = mul.Scalar(%p) {other=-3e38}\n",
    "expanded": SHOWN.replace("%shown", "%one") + "%shown = expand(%one) {size=(B, 2, L, L)}\n",
}


PRODUCT = (
    "%f = _to_copy(%mask) {dtype=f32}\n%g = reshape(%f) {shape=(B, 1, 1, L)}\n"
    "%p = rsub.Scalar(%g) {other=1.0}\n%shown = mul.Scalar(%p) {other=-3e38}\n"
)


@pytest.mark.parametrize("form", MASKS)
def test_forms_of_masks(form: str) -> None:
    text = HEAD + MASKS[form] + HEADS + ATTENTION + JOINED + POOLED
    graph = parse(text)
    assert PaddingFree().run(graph, PassContext()).changed
    assert "graphopt.segment_attention" in names(graph)
    for seed, share in enumerate((0.0, 0.4, 1.0)):
        inputs = batch(torch.Generator().manual_seed(seed), 3, 7, share)
        (found,), (expected,) = (Interpreter(g).run(*inputs) for g in (graph, parse(text)))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_mask_whose_numbers_are_computed_with() -> None:
    """The numbers have to be known to be zeros and ones: the type says so, or the caller."""
    text = HEAD + PRODUCT + HEADS + ATTENTION + JOINED + POOLED
    assert "binary=true" in PaddingFree().run(parse(text), PassContext()).notes[0]
    (mask,) = (node.result for node in parse(text) if node.result.name == "shown")
    for binary in (False, True):
        mark = Marks(binary).of(mask)
        assert mark is not None and mark.hides_dead is binary
    typed = text.replace("i64[B, L]", "bool[B, L]")
    bounded = text.replace("%mask: i64", "%given: i64").replace(
        "f32[8, 8]\n", "f32[8, 8]\n%mask = clamp(%given) {min=0, max=1}\n"
    )
    for known in (typed, bounded):
        assert PaddingFree().run(parse(known), PassContext()).changed


def test_mask_that_is_true_at_padding() -> None:
    text = (
        HEAD
        + "%bool = logical_not(%mask)\n%shown = reshape(%bool) {shape=(B, 1, 1, L)}\n"
        + HEADS
        + ATTENTION
        + JOINED
        + POOLED.replace("unsqueeze(%mask)", "unsqueeze(%bool)")
    )
    graph = parse(text)
    assert PaddingFree().run(graph, PassContext()).changed
    assert "aten.logical_not" in names(graph)
    assert_equivalent(parse(text), graph, contract=Contract.REASSOCIATING, special=False)


@pytest.mark.parametrize(
    "text, reason",
    [
        (WHOLE.replace("%t, %shown)", "%t)"), "it has no mask"),
        (HEAD + "%y = linear(%x, %w, none)\nreturn %y", "no attention with a padding mask"),
        (
            WHOLE.replace("input %mask", "input %pairs: bool[B, 1, L, L]\ninput %mask").replace(
                "%t, %shown)", "%t, %pairs)"
            ),
            "not known to hide padded positions",
        ),
        (WHOLE.replace("sum.dim_IntList(%z)", "sum.dim_IntList(%y)"), "reads padded positions of %y"),
        (WHOLE.replace("return %r", "return %r, %y"), "padding-free{zeros=true}"),
    ],
)
def test_what_is_left_alone(text: str, reason: str) -> None:
    graph = parse(text)
    result = PaddingFree().run(graph, PassContext())
    assert not result.changed
    assert any(reason in note for note in result.notes), result.notes


def test_zeros_at_padding_are_asked_for() -> None:
    text = HEAD + SHOWN + HEADS + ATTENTION + JOINED + "return %y"
    graph = parse(text)
    assert PaddingFree(zeros=True).contract is Contract.LOSSY
    assert PaddingFree(zeros=True).run(graph, PassContext()).changed
    inputs = batch(torch.Generator().manual_seed(0), 3, 6)
    (found,), (expected,) = (Interpreter(g).run(*inputs) for g in (graph, parse(text)))
    live = inputs[1] != 0
    torch.testing.assert_close(found[live], expected[live], rtol=1e-4, atol=1e-5)
    assert not found[~live].any()


class Layer(nn.Module):
    """A layer with everything that acts on rows: rotation of heads, gates, splits, norms, a table of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 12)
        self.norm = nn.LayerNorm(12)
        self.qkv = nn.Linear(12, 36)
        self.gate = nn.Linear(12, 32)
        self.out = nn.Linear(16, 12)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        length = ids.shape[1]
        place = torch.arange(length)
        x = self.norm(self.table(ids) + self.table(place))
        q, k, v = (t.unflatten(-1, (3, 4)).transpose(1, 2) for t in self.qkv(x).split(12, -1))
        angle = place[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])
        q, k = (t * angle.cos() + torch.cat([-t[..., 2:], t[..., :2]], -1) * angle.sin() for t in (q, k))
        y = nn.functional.scaled_dot_product_attention(q, k, v, mask[:, None, None, :].bool())
        x = x + y.transpose(1, 2).flatten(2)
        a, b = self.gate(x).chunk(2, -1)
        x = x + self.out(torch.softmax(a, -1) * b.sigmoid()) * x.mean(-1, keepdim=True)
        return (x * mask.unsqueeze(-1)).sum(1)


Run = Callable[[list[Tensor]], Tensor]


@pytest.fixture(scope="module")
def layer() -> tuple[nn.Module, list[Run]]:
    """The layer, and what its live rows run on."""
    torch.manual_seed(0)
    model = Layer().eval()
    example = (torch.randint(0, 64, (3, 9)), torch.ones(3, 9, dtype=torch.int64))
    dims = {0: Dim("batch", min=1), 1: Dim("length", min=2, max=64)}
    graph = graphopt.trace(model, example, dynamic_shapes=(dims, dims))
    graph, _ = PassManager(canonical_pipeline(), on_failure="raise").run(graph)
    optimized, report = PassManager([PaddingFree()], on_failure="raise").run(graph)
    assert names(optimized).count("graphopt.segment_attention") == 1, report
    engines = [get_engine(name).load(optimized) for name in ("eager", "onnxruntime")]
    return model, [lambda inputs, run=engine.run: run(inputs)[0] for engine in engines]


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 5), length=st.integers(2, 60), share=st.sampled_from((0.0, 0.2, 0.7, 1.0)))
def test_any_batch(layer: tuple[nn.Module, list[Run]], size: int, length: int, share: float) -> None:
    """Holes, empty sequences, none padded at all: as the model computes it, in PyTorch and in ONNX Runtime."""
    model, runs = layer
    ids = torch.randint(0, 64, (size, length), generator=torch.Generator().manual_seed(length))
    mask = (torch.rand(size, length, generator=torch.Generator().manual_seed(size)) < share).long()
    with torch.no_grad():
        expected = model(ids, mask)
    for run in runs:
        torch.testing.assert_close(run([ids, mask]), expected, rtol=1e-4, atol=1e-5)


class Encoder(nn.Module):
    """PyTorch's own encoder: positions first within its attention, batch and positions as one axis behind it."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        y = self.encoder(x, src_key_padding_mask=padding)
        live = (~padding).unsqueeze(-1).float()
        return (y * live).sum(1) / live.sum(1).clamp(min=1)


def test_layouts_of_pytorch_encoder() -> None:
    torch.manual_seed(0)
    model = Encoder().eval()
    dims = {0: Dim("batch", min=1), 1: Dim("length", min=2, max=64)}
    example = (torch.randn(3, 9, 16), torch.zeros(3, 9, dtype=torch.bool))
    compiled = graphopt.compile(
        model, example, target="fx", passes="default,padding-free", dynamic_shapes=(dims, dims), on_failure="raise"
    )
    assert names(compiled.graph).count("graphopt.segment_attention") == 2
    assert all(r.type.rank < 3 for n in compiled.graph for r in n.results if n.name == "aten.linear")  # type: ignore[union-attr]
    for seed, share in enumerate((0.3, 0.9)):
        generator = torch.Generator().manual_seed(seed)
        padding = torch.rand(4, 11, generator=generator) > share
        padding[:, 0] = False
        x = torch.randn(4, 11, 16, generator=generator)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x, padding), model(x, padding), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["hf-bert", "hf-distilbert", "hf-roberta", "hf-albert", "hf-electra"])
def test_encoders_with_zeros_at_padding(name: str) -> None:
    """Live positions hold what they held, the others zeros; a classifier that reads the first position is the same."""
    entry = MODELS[name]
    args, kwargs = entry.inputs(batch=3, length=20)
    graph = graphopt.trace(entry.build(), args, kwargs, dynamic_shapes="batch")
    leaves = pytree.tree_leaves((args, kwargs))
    graph, _ = PassManager(default_pipeline(), on_failure="raise").run(graph, PassContext(samples=[leaves]))
    free = graph.clone()
    result = PaddingFree(zeros=True).run(free, PassContext())
    assert result.changed and names(free).count("graphopt.segment_attention") == 2
    live = kwargs["attention_mask"].bool()
    found, expected = (Interpreter(g).run(*leaves)[0] for g in (free, graph))
    if name == "hf-bert":
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        return
    torch.testing.assert_close(found[live], expected[live], rtol=1e-3, atol=1e-4)
    assert not found[~live].any()


@pytest.mark.parametrize("target", ["fx", "onnxruntime"])
def test_sentence_encoder(target: str) -> None:
    """MiniLM as it is captured: everything from the embeddings to the mean runs on live tokens."""
    entry = MODELS["minilm"]
    model = entry.build()
    _, kwargs = entry.inputs(batch=2, length=48)
    passes = "default,padding-free,dead-code"
    shapes = {name: {0: Dim("batch"), 1: Dim("length", min=3, max=512)} for name in kwargs}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graphopt.passmanager.checks.no_profit", lambda *_: (False, "not measured"))
        compiled = graphopt.compile(
            model, (), kwargs, target=target, passes=passes, dynamic_shapes=shapes, on_failure="raise"
        )
    (record,) = (r for r in compiled.report.passes.records if r.name == "padding-free")
    assert record.details.to_dict() == {"nodes": record.details.nodes, "attentions": 6, "live": pytest.approx(5 / 6)}
    assert "aten.scaled_dot_product_attention" not in names(compiled.graph)
    for size, length in ((1, 7), (4, 30)):
        _, kwargs = entry.inputs(batch=size, length=length, seed=size)
        with torch.no_grad():
            torch.testing.assert_close(compiled(**kwargs), model(**kwargs), rtol=1e-4, atol=1e-5)


def test_live_rows_can_be_trained() -> None:
    torch.manual_seed(0)
    model = Layer()
    ids, mask = torch.randint(0, 64, (3, 9)), (torch.arange(9) < torch.tensor([[9], [4], [6]])).long()
    dims = {0: Dim("batch", min=1), 1: Dim("length", min=2, max=64)}
    passes = "canonical,padding-free"
    compiled = graphopt.compile(model, (ids, mask), target="fx", passes=passes, dynamic_shapes=(dims, dims))
    assert "graphopt.segment_attention" in names(compiled.graph)
    for each in (model, compiled):
        each(ids, mask).square().sum().backward()
    gradients = dict(model.named_parameters())
    for name, parameter in compiled.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-3, atol=1e-4)
