from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import graphopt
from graphopt.backends.onnx.sparse_initializers import with_sparse_initializers
from graphopt.errors import GraphOptError
from graphopt.ir import Graph
from graphopt.ops import parse
from graphopt.ops.sparse import HEIGHTS
from graphopt.passes.sparse import break_even
from graphopt.passes.sparse.break_even import Model, Sizes
from graphopt.passes.sparse_lowering import SparseLowering
from graphopt.passmanager import PassContext, PassManager, parse_pipeline
from graphopt.rewrite import Contract
from graphopt.targets import get_engine
from graphopt.testing import assert_equivalent
from tests.zoo import MODELS

MEASURED: dict[str, Any] = {
    "dense": [1e-12] * 4,
    "edges": [1e-12] * 4,
    **{f"blocks{h}": [cost * 1e-12] * 4 for h, cost in zip(HEIGHTS, (2.5, 4.0, 6.0, 9.0))},
    "call": 0.0,
    "sparse_call": 1e-9,
}
"""A machine on which a number that is not zero costs 2.5 times what it costs densely, and less in blocks."""


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.passes.sparse_lowering.model", lambda: Model(MEASURED))


def sparse(shape: tuple[int, ...], share: float = 0.1, seed: int = 0) -> Tensor:
    """Random numbers of which a share is not zero."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < share)


LINEAR = """
input %x: f32[N, 40]
constant %w: f32[64, 40]
constant %b: f32[64]
%y = linear(%x, %w, %b)
"""


def names(graph: Graph) -> list[str]:
    return [node.name.rpartition(".")[2] for node in graph]


def test_linear_layer_and_its_activation() -> None:
    w = sparse((64, 40))
    text = LINEAR + "%z = gelu(%y)\nreturn %z"
    given_ = parse(text, tensors={"w": w, "b": torch.randn(64)})
    graph = given_.clone()
    result = SparseLowering().run(graph, PassContext(samples=[[torch.randn(16, 40)]]))
    assert result.changed
    assert names(graph) == ["sparse_linear"]
    (node,) = graph
    assert node.attr("activation") == "gelu" and node.attr("in_features") == 40
    assert sorted(graph.constants) == ["b", "w_col_indices", "w_crow_indices", "w_values"]
    assert graph.constants["w_values"].shape == (int((w != 0).sum()), 1)
    assert_equivalent(given_, graph, contract=Contract.REASSOCIATING, special=False)


@pytest.mark.parametrize(
    "tail, kept",
    [
        ("%z = relu(%y)\nreturn %z, %y", ["sparse_linear", "relu"]),
        ('%z = gelu(%y) {approximate="tanh"}\nreturn %z', ["sparse_linear", "gelu"]),
        ("%z = relu(%y)\n%a = add.Tensor(%z, %y)\nreturn %a", ["sparse_linear", "relu", "Tensor"]),
        ("%z = silu(%y)\nreturn %z", ["sparse_linear"]),
    ],
)
def test_which_activations_are_fused(tail: str, kept: list[str]) -> None:
    graph = parse(LINEAR + tail, tensors={"w": sparse((64, 40)), "b": torch.randn(64)})
    SparseLowering().run(graph, PassContext(samples=[[torch.randn(16, 40)]]))
    assert names(graph) == kept


def test_blocks_are_found() -> None:
    """Eight rows that share their columns, but for a few zeros within."""
    w = sparse((8, 40), 0.15).ne(0).repeat_interleave(8, 0) * torch.randn(64, 40)
    w[11] = 0
    graph = parse(LINEAR + "return %y", tensors={"w": w, "b": torch.randn(64)})
    result = SparseLowering().run(graph, PassContext(samples=[[torch.randn(16, 40)]]))
    assert result.details.lowered["w"].format == "BSR 8x1"
    assert result.details.lowered["w"].stored > result.details.lowered["w"].density
    graph = parse(LINEAR + "return %y", tensors={"w": w, "b": torch.randn(64)})
    result = SparseLowering(height=2).run(graph, PassContext(samples=[[torch.randn(16, 40)]]))
    assert graph.constants["w_values"].shape[1] == 2


def two_of_four() -> Tensor:
    return torch.randn(64, 40) * torch.tensor([1.0, 0, 0, 1]).repeat(10)


@pytest.mark.parametrize(
    "weight, text, reason",
    [
        (torch.randn(64, 40), LINEAR, "100% of its weights are not zero"),
        (sparse((64, 40), 0.45), LINEAR, "by the model of this machine"),
        (two_of_four(), LINEAR, "2:4 stays a mask"),
        (sparse((64, 40)).double(), LINEAR.replace("f32", "f64"), "there is no sparse kernel for f64"),
        (sparse((64, 40)).half(), LINEAR.replace("f32", "f16"), "there is no sparse kernel for f16"),
        (
            sparse((40, 64, 1)),
            "input %x: f32[1, 40, 9]\nconstant %w: f32[40, 64, 1]\n%y = conv_transpose1d(%x, %w)",
            "there is no sparse kernel for it",
        ),
        (
            sparse((64, 40, 2)),
            'input %x: f32[1, 40, 9]\nconstant %w: f32[64, 40, 2]\n%y = conv1d.padding(%x, %w) {padding="same"}',
            "differs from side to side",
        ),
    ],
)
def test_what_stays_dense(weight: Tensor, text: str, reason: str) -> None:
    tensors = {"w": weight, "b": torch.zeros(64, dtype=weight.dtype)} if "%b" in text else {"w": weight}
    graph = parse(f"{text}\nreturn %y", tensors=tensors)
    sample = torch.randn(16, 40, dtype=weight.dtype) if "%b" in text else torch.randn(1, 40, 9)
    result = SparseLowering().run(graph, PassContext(samples=[[sample]]))
    assert not result.changed
    assert any(reason in note for note in result.notes), result.notes


def test_without_sizes() -> None:
    graph = parse(LINEAR + "return %y", tensors={"w": sparse((64, 40)), "b": torch.zeros(64)})
    result = SparseLowering().run(graph, PassContext())
    assert "its sizes are not known" in result.details.declined["w"]
    assert SparseLowering(force=("w",)).run(graph, PassContext()).changed


def test_measuring_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"w": (1e-3, 2e-3), "v": (2e-3, 1e-3)}
    monkeypatch.setattr("graphopt.passes.sparse_lowering.measured", lambda site, *_: times[site.name])
    text = LINEAR + "constant %v: f32[8, 64]\n%z = linear(%y, %v)\nreturn %z"
    graph = parse(text, tensors={"w": sparse((64, 40)), "v": sparse((8, 64), 0.1, 1), "b": torch.zeros(64)})
    context = PassContext(samples=[[torch.randn(16, 40)]], engine=get_engine("eager"))
    report = SparseLowering().run(graph, context).details.to_dict()
    assert report["declined"] == {"w": "it takes 1 ms, and 2 ms sparsely"}
    assert report["lowered"]["v"]["before"] == 2e-3
    assert names(graph) == ["linear", "sparse_linear"]


def test_measured_on_an_engine() -> None:
    graph = parse(LINEAR + "return %y", tensors={"w": sparse((64, 40)), "b": torch.zeros(64)})
    context = PassContext(samples=[[torch.randn(16, 40)]], engine=get_engine("eager"))
    report = SparseLowering().run(graph, context).details
    assert (
        report.declined.get("w", "it takes").startswith("it takes") and len(report.declined) + len(report.lowered) == 1
    )


@pytest.mark.parametrize(
    "text, message",
    [
        ("sparse-lowering{height=3}", "blocks have 1, 2, 4, 8 rows, not 3"),
        ('sparse-lowering{force="nothing"}', "nothing"),
        ('sparse-lowering{ignore="nothing"}', "nothing"),
    ],
)
def test_bad_options(text: str, message: str) -> None:
    graph = parse(LINEAR + "return %y", tensors={"w": sparse((64, 40)), "b": torch.zeros(64)})
    with pytest.raises(GraphOptError, match=message):
        parse_pipeline(text).passes[0].run(graph, PassContext(samples=[[torch.randn(16, 40)]]))


def test_without_a_generator_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("graphopt.passes.sparse_lowering", "graphopt.ops.sparse.linear"):
        monkeypatch.setattr(f"{module}.unavailable", lambda: "llvmlite is not installed")
    graph = parse(LINEAR + "return %y", tensors={"w": sparse((64, 40)), "b": torch.zeros(64)})
    result = SparseLowering().run(graph, PassContext(samples=[[torch.randn(16, 40)]]))
    assert "llvmlite is not installed; products run on PyTorch's CSR kernel, convolutions densely" in result.notes


class Net(nn.Module):
    """Convolutions of all kinds, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=4)
        self.depthwise = nn.Conv2d(32, 32, 3, padding="same", groups=32)
        self.pointwise = nn.Conv2d(32, 24, 1, bias=False)
        self.head = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 8))
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear) and layer is not self.depthwise:
                    layer.weight.mul_(torch.rand_like(layer.weight) < 0.15)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.grouped(torch.relu(self.stem(x))))))
        y: Tensor = self.head(nn.functional.silu(self.pointwise(x)).mean((2, 3)))
        return y


FORCED = 'default,sparse-lowering{force="*"},dead-code'


def test_model_of_all_kinds(tmp_path: Path) -> None:
    """Any batch, saved and loaded, in ONNX Runtime: as eager computes it."""
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(2, 3, 13, 10)
    compiled = graphopt.compile(model, (x,), target="eager", passes=FORCED, dynamic_shapes="batch", on_failure="raise")
    assert names(compiled.graph).count("sparse_conv") == 4 and names(compiled.graph).count("sparse_linear") == 2
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 13, 10)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    compiled.save(tmp_path / "net.gopt")
    torch.testing.assert_close(graphopt.load(tmp_path / "net.gopt")(x), compiled(x), rtol=0, atol=0)
    dense = compiled.to_onnx()
    small = with_sparse_initializers(dense)
    kernel = next(t for t in dense.graph.initializer if t.name.startswith("grouped"))
    assert list(kernel.dims) == [32, 4, 3, 3], "groups are found again"
    assert len(small.graph.sparse_initializer) == 5 and small.ByteSize() < 0.75 * dense.ByteSize()
    for proto in (dense, small):
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=1e-4, atol=1e-5)


def test_values_train_and_zeros_stay() -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    compiled = graphopt.compile(model, (x,), target="fx", passes='default,sparse-lowering{force="*"}')
    compiled(x).square().sum().backward()
    parameters = dict(compiled.named_parameters())
    assert len([name for name in parameters if name.endswith("_values")]) == 6
    assert all(p.grad is not None for p in parameters.values())
    model(x).square().sum().backward()
    mark = model.head[0].weight != 0
    expected = model.head[0].weight.grad[mark].unsqueeze(1)
    torch.testing.assert_close(parameters["head.0.weight_values"].grad, expected, rtol=1e-4, atol=1e-5)


def test_exported_again() -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    compiled = graphopt.compile(model, (x,), target="fx", passes=FORCED)
    again = torch.export.export(compiled.module.eval(), (x,)).module()
    torch.testing.assert_close(again(x), model(x), rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 24),
    columns=st.integers(1, 40),
    share=st.sampled_from((0.0, 0.05, 0.3)),
    groups=st.sampled_from((1, 2)),
    kernel=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_any_weight(rows: int, columns: int, share: float, groups: int, kernel: int, seed: int) -> None:
    """Of a linear layer (kernel 0) or a convolution: the pass keeps its promise, checked by the manager."""
    torch.manual_seed(seed)
    layer: nn.Module = nn.Linear(columns, rows)
    x = torch.randn(3, columns)
    if kernel:
        layer = nn.Conv2d(columns * groups, rows * groups, kernel, padding=kernel // 2, groups=groups)
        x = torch.randn(2, columns * groups, 5, 6)
    with torch.no_grad():
        layer.weight.mul_(torch.rand_like(layer.weight) < share)
    graph = graphopt.trace(layer.eval(), (x,))
    optimized, report = PassManager([SparseLowering(force=("*",))], on_failure="raise").run(
        graph, PassContext(samples=[[x]])
    )
    assert names(optimized) == ["sparse_conv" if kernel else "sparse_linear"], report


def test_minilm() -> None:
    entry = MODELS["minilm"]
    model, (args, kwargs) = entry.make().eval(), entry.inputs()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                size = layer.weight.abs()
                layer.weight.mul_(size > size.flatten().kthvalue(int(0.9 * size.numel())).values)
        expected = model(*args, **kwargs)
    compiled = graphopt.compile(
        model, args, kwargs, target="eager", passes="default,sparse-lowering{measure=false},dead-code"
    )
    assert names(compiled.graph).count("sparse_linear") == 36
    torch.testing.assert_close(compiled(*args, **kwargs), expected, rtol=1e-4, atol=1e-5)


def test_memory_is_bounded() -> None:
    """Storing a weight sparsely takes less than the dense weight once more."""
    w = sparse((1024, 1024))
    graph = parse(
        LINEAR.replace("64", "1024").replace("40", "1024") + "return %y", tensors={"w": w, "b": torch.zeros(1024)}
    )
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        SparseLowering(force=("w",)).run(graph, PassContext())
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert w.numel() < peak < 2 * w.nbytes


class TestModel:
    """The model of a machine."""

    def test_between_what_was_measured(self) -> None:
        known = Model({**MEASURED, "dense": [4e-12, 2e-12, 1e-12, 1e-12]})
        each = [known.dense(Sizes(100, 100, n)) / (100 * 100 * n) for n in (1, 4, 16, 1000)]
        assert each == pytest.approx([4e-12, 3e-12, 2e-12, 1e-12])

    def test_measuring(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(break_even, "_CALLS", 3)
        monkeypatch.setattr(break_even, "_SECONDS", 0.0)
        monkeypatch.setattr(break_even, "_LEAST", 1)
        known = Model(break_even._measure())
        sizes = Sizes(512, 512, 64)
        assert 0 < known.sparse(sizes, 1, 1000) <= known.sparse(sizes, 1, 100_000)
        assert known.dense(sizes) > 0

    def test_kept(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from graphopt.targets.machine_cache import forget

        calls: list[int] = []
        monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
        monkeypatch.setattr(break_even, "_measure", lambda: calls.append(1) or MEASURED)
        for _ in range(2):
            forget()
            assert break_even.model().dense(Sizes(1, 1, 1)) == pytest.approx(1e-12)
        assert len(calls) == 1
        forget()
