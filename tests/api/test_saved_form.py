"""The saved form: what goes in comes back, or one clear error says why not."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import OrderedDict, defaultdict, deque, namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import graphopt
from graphopt.errors import SerializationError
from graphopt.ir import Literal, difference, verify
from graphopt.ops import parse
from graphopt.serialization import graph_to_bytes, load_graph, save_graph
from tests.api.archives import again, stored
from tests.api.models import Nested, small
from tests.api.test_compile import assert_same
from tests.zoo import MODELS

Point = namedtuple("Point", "x y")


# Round trip


@pytest.mark.parametrize("target", ["fx", "eager", "onnxruntime"])
def test_a_model_comes_back(target: str, tmp_path: Path) -> None:
    model, x = small()
    fast = graphopt.compile(model, (x,), target=target, dynamic_shapes="batch")
    path = tmp_path / "model.gopt"
    fast.save(path)
    loaded = graphopt.load(path)
    assert difference(fast.graph, loaded.graph) is None
    verify(loaded.graph)
    assert loaded.engine == fast.engine
    for batch in (1, 5, 8):
        images = torch.randn(batch, 1, 6, 6)
        torch.testing.assert_close(loaded(images), fast(images))
    assert "loaded; compiled by graphopt" in str(loaded.report)
    report = json.loads(loaded.report.to_json())
    assert report["compiled"]["passes"] == json.loads(fast.report.to_json())["passes"]
    loaded.save(path)  # over itself, and the first report lives on
    assert json.loads(graphopt.load(path).report.to_json())["compiled"] == report["compiled"]


@pytest.mark.parametrize(
    "name", ["multi-output", "nested-input", "tied", "in-place", "input-mutation", "cond", "while-loop", "mixed-types"]
)
def test_awkward_models_come_back(name: str, tmp_path: Path) -> None:
    model = MODELS[name].build()
    args, kwargs = MODELS[name].inputs()
    fast = graphopt.compile(model, args, kwargs, target="eager")
    fast.save(tmp_path / "model.gopt")
    args, kwargs = MODELS[name].inputs(seed=3)
    with torch.no_grad():
        want = model(*args, **kwargs)
        args, kwargs = MODELS[name].inputs(seed=3)
        assert_same(graphopt.load(tmp_path / "model.gopt")(*args, **kwargs), want)


def test_another_target(tmp_path: Path) -> None:
    model, x = small()
    fast = graphopt.compile(model, (x,), target="fx", opset=18)
    fast.save(tmp_path / "model.gopt")
    loaded = graphopt.load(tmp_path / "model.gopt", target="onnxruntime")
    assert loaded.engine == "onnxruntime"
    torch.testing.assert_close(loaded(x), fast(x).detach(), atol=1e-5, rtol=1e-4)
    assert loaded.to_onnx().opset_import[0].version == 18


def test_an_engine_that_is_missing_here_gives_way_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.backends.onnx.engine import OnnxRuntimeEngine

    model, x = small()
    fast = graphopt.compile(model, (x,), target="cpu", engines=("onnxruntime",))
    fast.save(tmp_path / "model.gopt")
    assert graphopt.load(tmp_path / "model.gopt").engine == "onnxruntime"
    monkeypatch.setattr(OnnxRuntimeEngine, "missing", lambda self: "not installed; pip install onnxruntime")
    monkeypatch.setattr("graphopt.backends.openvino.engine.OpenVinoEngine.missing", lambda self: "not installed")
    monkeypatch.setattr("graphopt.backends.fx.engines.InductorEngine.missing", lambda self: "no compiler")
    loaded = graphopt.load(tmp_path / "model.gopt")
    assert loaded.engine == "eager"
    torch.testing.assert_close(loaded(x), fast(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool),
        *(torch.complex64, torch.complex128),
    ],
)
@pytest.mark.parametrize("shape", [(), (0,), (3, 2), (40, 3)])
def test_tensors_of_all_types_and_sizes(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    base = torch.randn(shape, dtype=torch.complex128) * 3
    tensor = (base if dtype.is_complex else base.real.abs() if dtype is torch.uint8 else base.real).to(dtype)
    (value,) = again(stored(tensor)).outputs
    assert value.constant.tensor.dtype is dtype
    assert value.constant.tensor.shape == tensor.shape
    assert _bits(value.constant.tensor) == _bits(tensor)


def _bits(tensor: Tensor) -> bytes:
    return (
        tensor.contiguous().numpy(force=True).tobytes()
        if tensor.numel() and tensor.dtype is torch.bool
        else bytes(tensor.clone(memory_format=torch.contiguous_format).untyped_storage().tolist())
    )


def test_special_values() -> None:
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        tensor = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), torch.finfo(dtype).tiny / 2, 0.1], dtype=dtype)
        for given in (tensor, tensor.repeat(10)):
            (value,) = again(stored(given)).outputs
            assert _bits(value.constant.tensor) == _bits(given)


def test_views_of_one_storage_and_layouts() -> None:
    base = torch.arange(600.0).reshape(20, 30)
    parts = [base, base[2:], base.t(), base[:, ::2], base.expand(2, 20, 30), base.conj(), torch.view_as_complex(
        base.reshape(-1, 2)).conj()]  # fmt: skip
    for value, part in zip(again(stored(*parts)).outputs, parts):
        assert torch.equal(value.constant.tensor, part)


def test_large_constants() -> None:
    big = torch.randn(3_000_000)
    data = graph_to_bytes(stored(big))
    assert len(data) < 12_010_000
    assert torch.equal(load_graph(io.BytesIO(data))[0].outputs[0].constant.tensor, big)


def test_constants_of_regions_and_equal_names() -> None:
    values = torch.arange(40.0)
    graph = parse(
        """
        input %p: bool[]
        input %x: f32[40]
        constant %k: f32[40]
        %y = higher_order.cond(%p, %x) [
          graph branch {
            input %a: f32[40]
            constant %k: f32[40]
            %b = aten.add.Tensor(%a, %k)
            return %b
          }
          graph branch {
            input %a: f32[40]
            %b = aten.neg(%a)
            return %b
          }
        ]
        %z = aten.mul.Tensor(%y, %k)
        return %z""",
        {"k": values},
    )
    region = next(iter(graph)).regions[0]
    inner = region.constants["k"]
    inner.constant = replace(inner.constant, tensor=values + 100)
    loaded = again(graph)
    found = next(iter(loaded)).regions[0].constants
    assert [v.constant.tensor[0].item() for v in found.values()] == [100.0]
    assert loaded.constants["k"].constant.tensor[1] == 1.0


def test_equal_graphs_give_equal_bytes(tmp_path: Path) -> None:
    model, x = small()
    graphs = [graphopt.trace(model, (x,), dynamic_shapes="batch") for _ in range(2)]
    assert graph_to_bytes(graphs[0], note=1) == graph_to_bytes(graphs[1], note=1)
    save_graph(graphs[0], tmp_path / "a", note=1)
    assert (tmp_path / "a").read_bytes() == graph_to_bytes(graphs[0], note=1)


# Calling conventions


class Returns(nn.Module):
    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(x)


def _default_dict(x: Tensor) -> Any:
    made: Any = defaultdict(list)
    made["k"] = [x + 1]
    return made


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: [x, (x + 1, None), {"a": x * 2, 3: 1.5}, "text", True],
        lambda x: OrderedDict(z=x, a=x + 1),
        _default_dict,
        lambda x: deque([x, x + 1], maxlen=4),
        lambda x: (),
    ],
)
def test_containers(wrap: Any) -> None:
    x = torch.randn(3)
    model = Returns(wrap)
    graph = graphopt.trace(model, (x,))
    loaded = again(graph)
    assert loaded.signature == graph.signature
    fast = graphopt.compile(model, (x,), target="eager")
    buffer = io.BytesIO()
    fast._save(buffer)
    assert_same(graphopt.load(buffer)(x), wrap(x))


def test_named_tuples_need_a_name() -> None:
    x = torch.randn(3)
    graph = graphopt.trace(Returns(lambda t: Point(t, t + 1)), (x,))
    with pytest.raises(SerializationError, match=r"use .*Point, which has no saved form; register it"):
        graph_to_bytes(graph)


def test_registered_named_tuples() -> None:
    Pair = namedtuple("Pair", "a b")
    pytree._register_namedtuple(Pair, serialized_type_name="tests.Pair")
    graph = graphopt.trace(Returns(lambda t: Pair(t, t + 1)), (torch.randn(3),))
    assert again(graph).signature == graph.signature


def test_hugging_face_outputs(tmp_path: Path) -> None:
    entry = MODELS["hf-bert"]
    model = entry.build()
    args, kwargs = entry.inputs()
    fast = graphopt.compile(model, args, kwargs, target="eager")
    path = tmp_path / "bert.gopt"
    fast.save(path)
    got, want = graphopt.load(path)(*args, **kwargs), model(*args, **kwargs)
    assert type(got) is type(want)
    torch.testing.assert_close(got.logits, want.logits.detach(), atol=1e-4, rtol=1e-4)
    # Elsewhere the class is not known until its library is imported.
    code = f"import graphopt\ntry: graphopt.load({str(path)!r})\nexcept graphopt.GraphOptError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "import transformers.modeling_outputs first" in done.stdout


def test_fixed_arguments_without_a_form() -> None:
    graph = graphopt.trace(nn.ReLU(), (torch.randn(3),))
    graph.signature = replace(graph.signature, out_leaves=(Literal(torch.float64),))
    with pytest.raises(SerializationError, match=r"fixed to torch.float64, which has no saved form"):
        graph_to_bytes(graph)


def test_nested_arguments_survive(tmp_path: Path) -> None:
    model = Nested()
    batch, pair = {"x": torch.randn(2, 3)}, (torch.randn(2, 3), torch.randn(4))
    fast = graphopt.compile(model, (batch,), {"pair": pair}, target="eager")
    fast.save(tmp_path / "nested.gopt")
    loaded = graphopt.load(tmp_path / "nested.gopt")
    assert_same(loaded(batch, pair), fast(batch, pair=pair))  # by position, though it was captured by name
