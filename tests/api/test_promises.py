"""Small promises of the interface: where files go, what is refused early, what is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

import graphopt
from graphopt.errors import GraphOptError, GraphOptWarning, SerializationError, TargetError, UnknownNameError

X = torch.randn(2, 3)


@pytest.fixture
def compiled() -> graphopt.CompiledModel:
    return graphopt.compile(nn.ReLU(), (X,), target="onnxruntime")


def test_a_pipe_is_not_replaced(compiled: graphopt.CompiledModel, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(SerializationError, match="no regular file"):
        compiled.save(pipe)
    with pytest.raises(SerializationError, match="no regular file"):
        compiled.to_onnx(pipe)
    assert pipe.is_fifo()


def test_a_link_stays_a_link(compiled: graphopt.CompiledModel, tmp_path: Path) -> None:
    for name, write in (("a.gopt", compiled.save), ("a.onnx", compiled.to_onnx)):
        (tmp_path / "real").mkdir(exist_ok=True)
        link = tmp_path / name
        link.symlink_to(tmp_path / "real" / name)
        write(link)
        assert link.is_symlink() and (tmp_path / "real" / name).stat().st_size > 0
    assert torch.equal(graphopt.load(tmp_path / "a.gopt")(X), X.relu())


def test_an_unknown_option_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="dynamic_shapes"):
        graphopt.compile(nn.ReLU(), (X,), dynamic_shape="batch")  # type: ignore[call-arg]
    with pytest.raises(GraphOptError, match="dynamic_shapes cannot be 5"):
        graphopt.compile(nn.ReLU(), (X,), target="fx", dynamic_shapes=5)


def test_a_function_with_other_parameters_is_no_pass() -> None:
    with pytest.raises(GraphOptError, match=r"wrong .*test_promises.py:\d+.* a pass takes \(graph, rewriter\)"):

        @graphopt.pass_
        def wrong(graph: graphopt.Graph) -> None: ...


def test_a_pass_that_raises_is_rolled_back_with_a_warning() -> None:
    @graphopt.pass_
    def failing(graph: graphopt.Graph, rewriter: graphopt.Rewriter) -> None:
        raise ValueError("no luck")

    with pytest.warns(GraphOptWarning, match="failing.*rolled back.*no luck") as warned:
        fast = graphopt.compile(nn.ReLU(), (X,), target="fx", passes=[failing])
    assert warned[0].filename == __file__
    assert torch.equal(fast(X), X.relu())
    with pytest.raises(GraphOptError, match="no luck"):
        graphopt.compile(nn.ReLU(), (X,), target="fx", passes=[failing], on_failure="raise")


def test_a_model_that_returns_nothing_is_refused_by_name() -> None:
    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> None: ...

    with pytest.raises(TargetError, match="returns no tensor"):
        graphopt.compile(Nothing(), (X,), target="onnxruntime")


def test_an_unknown_keyword_of_a_call_is_named(compiled: graphopt.CompiledModel) -> None:
    with pytest.raises(GraphOptError, match="'y'"):
        compiled(y=X)
