"""LiteRT: what it must say without litert-torch; and with it, its numbers against eager PyTorch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

import graphopt
from graphopt.backends.fx.fixed import fixed_module, why_not_fixed
from graphopt.backends.litert import LiteRtEngine, engine, save_litert
from graphopt.errors import EmissionError, TargetError
from graphopt.ops import parse
from tests.zoo import MODELS

INSTALLED = find_spec("litert_torch") is not None
installed = pytest.mark.skipif(not INSTALLED, reason="litert-torch is not installed")


def test_not_installed_is_one_error_that_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(TargetError, match=r"litert_torch and ai_edge_litert not installed.*graphopt\[litert\]"):
        graphopt.compile(nn.Linear(2, 2), (torch.ones(1, 2),), target="litert")
    with pytest.raises(TargetError, match=r"graphopt\[litert\]"):
        save_litert(parse("input %x: f32[2]\n%y = exp(%x)\nreturn %y"), tmp_path / "model.tflite")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("input %x: f32[n, 2]\n%y = exp(%x)\nreturn %y", "dynamic sizes .n."),
        ('input %x: f32[2]\n%y = exp(%x)\nreturn %y\nupdate "x" = %y', "updates x"),
        ("input %x: f32[2]\ninput %n: int\n%y = exp(%x)\nreturn %y", "takes tensors"),
    ],
)
def test_what_fixed_formats_cannot_hold(text: str, reason: str) -> None:
    graph = parse(text)
    assert why_not_fixed(graph) is not None
    with pytest.raises(EmissionError, match=reason):
        fixed_module(graph)


def test_a_fixed_graph_as_a_module() -> None:
    graph = parse("input %x: f32[2, 3]\ninput %i: i64[2]\n%y = exp(%x)\nreturn %y, %i")
    module, inputs = fixed_module(graph)
    assert [tuple(x.shape) for x in inputs] == [(2, 3), (2,)] and inputs[1].dtype is torch.int64
    x = torch.randn(2, 3)
    torch.testing.assert_close(module(x, inputs[1])[0], x.exp())


@installed
@pytest.mark.parametrize("name", ["lenet", "hf-bert", "shufflenet"])
def test_real_models_run(name: str, tmp_path: Path) -> None:
    entry = MODELS[name]
    model = entry.build()
    args, kwargs = entry.inputs(batch=2)
    fast = graphopt.compile(model, args, kwargs, target="litert")
    assert fast.engine == "litert"
    args, kwargs = entry.inputs(batch=2, seed=5)
    for got, want in zip(
        torch.utils._pytree.tree_leaves(fast(*args, **kwargs)), torch.utils._pytree.tree_leaves(model(*args, **kwargs))
    ):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    save_litert(fast.graph, tmp_path / "model.tflite")
    assert (tmp_path / "model.tflite").read_bytes()[4:8] == b"TFL3"


@installed
def test_several_inputs_and_outputs_keep_their_order() -> None:
    graph = parse("""input %a: f32[3]
input %b: f32[3]
input %c: f32[3]
%d = sub.Tensor(%c, %a)
%e = mul.Tensor(%b, %c)
return %e, %d""")
    a, b, c = torch.randn(3, 3)
    first, second = LiteRtEngine().load(graph).run([a, b, c])
    torch.testing.assert_close(first, b * c)
    torch.testing.assert_close(second, c - a)
