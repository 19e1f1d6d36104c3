"""A user's own passes and rules: by hand on a graph, and in a pipeline."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt import Contract, Pass, PassContext, PassManager, PassResult, Rewriter
from graphopt.analysis import run_graph
from graphopt.errors import CaptureError, GraphOptError
from graphopt.ir import difference, verify
from graphopt.model_source import resolve_model
from graphopt.rewrite import aten, var
from tests.api.models import small

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class Swish(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(torch.relu(x * torch.sigmoid(x)))


X = torch.linspace(-3, 3, 8).reshape(2, 4)
v = var("v")


@graphopt.rewrite(aten.mul(v, aten.sigmoid(v)))
def fuse_silu(v: Any) -> Any:
    """x * sigmoid(x) = silu(x)."""
    return aten.silu(v)


@graphopt.rewrite(aten.relu(aten.relu(v)), contract=Contract.BITWISE)
def relu_once(v: Any) -> Any:
    return aten.relu(v)


@graphopt.pass_(contract=Contract.BITWISE)
def drop_relus(graph: Any, rewriter: Any, *, limit: int = 10) -> Any:
    """A function on the graph; its keyword-only parameters are options."""
    dropped = 0
    for node in graph:
        if node.op.name == "aten.relu" and node.operands[0].producer.op.name == "aten.relu" and dropped < limit:
            rewriter.replace(node, [node.operands[0]])
            dropped += 1
    yield f"dropped {dropped}"


@dataclass(frozen=True)
class RenameMul(Pass):
    """A class; its fields are its options."""

    op: str = "aten.mul.Tensor"

    def run(self, graph: graphopt.Graph, context: PassContext) -> PassResult:
        rewriter = Rewriter(graph, context.listeners)
        for node in graph:
            if node.op.name == self.op:
                with rewriter.at(node, self.name):
                    a, b = node.operands
                    rewriter.replace(node, [rewriter.create(self.op, b, a).result])
        return PassResult(rewriter.changed)


def names(graph: graphopt.Graph) -> list[str]:
    return [node.op.name for node in graph]


@pytest.mark.parametrize(
    ("custom", "expected"),
    [
        (fuse_silu, ["aten.silu", "aten.relu", "aten.relu"]),
        (relu_once, ["aten.sigmoid", "aten.mul.Tensor", "aten.relu"]),
        (drop_relus, ["aten.sigmoid", "aten.mul.Tensor", "aten.relu"]),
        (drop_relus.with_options(limit=0), ["aten.sigmoid", "aten.mul.Tensor", "aten.relu", "aten.relu"]),
        (RenameMul(), ["aten.sigmoid", "aten.mul.Tensor", "aten.relu", "aten.relu"]),
    ],
)
def test_by_hand(custom: Any, expected: list[str]) -> None:
    graph = graphopt.trace(Swish(), (X,), dynamic_shapes="batch")
    before = str(graph)
    result = custom(graph)
    assert names(result) == expected
    assert str(graph) == before  # a pass gives a new graph
    verify(result)
    torch.testing.assert_close(run_graph(result, X)[0], Swish()(X))
    fast = graphopt.compile(Swish(), (X,), target="fx", passes=[custom])
    assert names(fast.graph) == expected
    torch.testing.assert_close(fast(X), Swish()(X))


def test_passes_of_all_kinds_in_a_pipeline() -> None:
    passes = [fuse_silu, drop_relus.with_options(limit=5), "dead-code"]
    fast = graphopt.compile(Swish(), (X,), target="eager", passes=passes)
    assert names(fast.graph) == ["aten.silu", "aten.relu"]
    report = fast.report.passes
    assert report.applied["fuse-silu"] == 1
    assert [record.name for record in report.kept] == ["fuse-silu", "drop-relus"]
    assert "dropped 1" in str(fast.report)
    torch.testing.assert_close(fast(X), Swish()(X))


def test_registered_passes_are_known_by_name() -> None:
    from graphopt.passmanager.registry import registry

    graphopt.register_pass(drop_relus)
    try:
        fast = graphopt.compile(Swish(), (X,), target="fx", passes="drop-relus{limit=1},dead-code")
        assert names(fast.graph).count("aten.relu") == 1
        with pytest.raises(GraphOptError, match=r"'limt'.*Did you mean 'limit'"):
            graphopt.compile(Swish(), (X,), target="fx", passes="drop-relus{limt=1}")
    finally:
        registry.unregister("drop-relus")


def test_instruments_see_the_passes() -> None:
    from graphopt.passmanager.instruments import BaseInstrument

    seen: list[str] = []

    class Names(BaseInstrument):
        def after_pass(self, record: Any, before: Any, after: Any) -> None:
            seen.append(record.name)

    graphopt.compile(Swish(), (X,), target="fx", passes=[fuse_silu, "dead-code"], instruments=[Names()])
    assert seen == ["fuse-silu", "dead-code"]


def test_a_lossy_pass_is_consent_unless_there_is_a_budget() -> None:
    @graphopt.pass_(contract=Contract.LOSSY)
    def halve(graph: Any, rewriter: Any) -> None:
        node = next(n for n in graph if n.op.name == "aten.mul.Tensor")
        with rewriter.at(node, "halve"):
            product = rewriter.create("aten.mul.Tensor", *node.operands).result
            rewriter.replace(node, [rewriter.create("aten.mul.Scalar", product, other=0.5).result])

    half = graphopt.compile(Swish(), (X,), target="fx", passes=[halve])
    torch.testing.assert_close(half(X), Swish()(X) / 2)
    assert half.report.passes.total_error.relative_rms == pytest.approx(0.5, abs=1e-3)
    held = graphopt.compile(Swish(), (X,), target="fx", passes=[halve], budget=0.1)
    torch.testing.assert_close(held(X), Swish()(X))
    assert "budget is 0.1" in held.report.passes.rolled_back[0].reason


def test_trace_leaves_the_model_and_shares_its_tensors() -> None:
    model, x = small()
    graph = graphopt.trace(model, (x,))
    assert graph.constants["head.weight"].constant.tensor.data_ptr() == model.head.weight.data_ptr()
    assert (
        difference(graph, graphopt.parse(str(graph), {n: v.constant.tensor for n, v in graph.constants.items()}))
        is None
    )
    optimized, report = PassManager("canonicalize,dead-code").run(graph)
    assert report.before.nodes == len(graph) and len(optimized) <= len(graph)
    with pytest.raises(CaptureError):
        graphopt.trace(model, (x, x))


# The examples that ship with the package; CI runs each of them whole.


def test_the_first_custom_pass(capsys: pytest.CaptureFixture[str]) -> None:
    source = (EXAMPLES / "custom_pass.py").read_text()
    assert len(source.split('"""\n', 1)[1].strip().splitlines()) < 30
    runpy.run_path(str(EXAMPLES / "custom_pass.py"), run_name="__main__")
    output = capsys.readouterr().out
    assert "fuse-silu" in output and "silu" in output


@pytest.mark.parametrize("name", ["lenet", "transformer"])
def test_examples_build_models_for_the_command_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    source = resolve_model(f"{EXAMPLES / name}.py:build")
    graph = graphopt.trace(source.model, source.args, source.kwargs, dynamic_shapes="batch")
    assert len(graph) > 5
