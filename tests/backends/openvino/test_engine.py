"""OpenVINO as an engine: its numbers against eager PyTorch and ONNX Runtime, and what it must refuse."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import graphopt
from graphopt.backends.onnx import OnnxRuntimeEngine
from graphopt.backends.openvino import OpenVinoEngine
from graphopt.backends.openvino import engine as engine_module
from graphopt.engine_choice.parts import Chain, cuts, split
from graphopt.errors import EmissionError, GraphOptError, InputError, TargetError
from graphopt.ops import parse
from graphopt.targets import Engine, get_engine
from tests.zoo import MODELS

torch.manual_seed(0)


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
    ).eval()


def test_it_is_an_engine_by_name() -> None:
    engine = get_engine("openvino")
    assert isinstance(engine, Engine) and engine.missing() is None


def test_dynamic_shapes_at_several_sizes() -> None:
    model, x = conv_net(), torch.randn(2, 3, 12, 12)
    fast = graphopt.compile(model, (x,), target="openvino", dynamic_shapes="batch")
    assert fast.engine == "openvino"
    for size in (1, 3, 7):
        given = torch.randn(size, 3, 12, 12)
        torch.testing.assert_close(fast(given), model(given), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["lenet", "hf-bert", "minilm", "lstm", "unet", "hf-gpt2", "shufflenet"])
def test_real_models_at_another_size(name: str) -> None:
    entry = MODELS[name]
    model = entry.build()
    args, kwargs = entry.inputs(batch=2)
    fast = graphopt.compile(model, args, kwargs, target="openvino", dynamic_shapes=entry.dynamic_shapes())
    assert fast.engine == "openvino"
    args, kwargs = entry.inputs(batch=3)
    for got, want in zip(pytree.tree_leaves(fast(*args, **kwargs)), pytree.tree_leaves(model(*args, **kwargs))):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_parts_on_which_its_kernel_generator_fails() -> None:
    entry = MODELS["minilm"]
    args, kwargs = entry.inputs(batch=1)
    made = graphopt.compile(entry.build(), args, kwargs, target="eager", validate=False)
    whole = made.graph
    flat = made._program.convention.flatten(args, kwargs)  # type: ignore[union-attr]
    parts = split(whole, [*cuts(whole, {}), len(whole)])
    chain = Chain(whole, parts, [OpenVinoEngine().load(part.graph) for part in parts])
    for got, want in zip(chain.run(flat), made._program.run(flat)):  # type: ignore[union-attr]
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_f32_is_f32() -> None:
    """A sum of many products in bf16, or of products of dynamically quantized numbers, would be off by percents."""
    model, x = nn.Linear(2048, 64), torch.randn(4, 2048)
    fast = graphopt.compile(model, (x,), target="openvino")
    want = model.double()(x.double())
    assert (fast(x) - want).abs().max() < 1e-5


def test_quantized_graph_as_onnx_runtime_has_it() -> None:
    model, x = conv_net(), torch.randn(4, 3, 12, 12)
    made = graphopt.compile(model, (x,), target="onnxruntime", passes="default,quantize", calibration=[(x,)])
    assert any(node.op.name.startswith("graphopt.quantize") for node in made.graph)
    here = OpenVinoEngine().load(made.graph).run([x])[0]
    there = OnnxRuntimeEngine().load(made.graph).run([x])[0]
    assert (here - there).abs().max() < 0.05 * there.abs().max()


def test_buffers_are_updated() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.total.add_(x)
            return self.total * 2

    fast = graphopt.compile(Counter(), (torch.ones(3),), target="openvino")
    assert [fast(torch.ones(3))[0].item() for _ in range(3)] == [2.0, 4.0, 6.0]


def test_callers_at_once_get_their_own() -> None:
    fast = graphopt.compile(nn.Sequential(nn.Linear(64, 64), nn.ReLU()), (torch.ones(1, 64),), target="openvino")
    inputs = [torch.randn(1, 64) for _ in range(64)]
    want = [fast(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for got, expected in zip(pool.map(fast, inputs), want):
            assert torch.equal(got, expected)


def test_numbers_and_booleans() -> None:
    graph = parse("""input %x: i64[n, 3]
%y = mul.Tensor(%x, %x)
%z = gt.Scalar(%x) {other=2}
return %y, %z""")
    x = torch.tensor([[1, 2, 3], [4, -5, 6]])
    y, z = OpenVinoEngine().load(graph).run([x])
    assert torch.equal(y, x * x) and torch.equal(z, x > 2) and y.dtype is torch.int64 and z.dtype is torch.bool


def test_whole_numbers_beyond_its_range_are_refused() -> None:
    graph = parse("input %x: i64[2]\n%y = add.Scalar(%x) {other=1}\nreturn %y")
    with pytest.raises(InputError, match="beyond 32 bits"):
        OpenVinoEngine().load(graph).run([torch.tensor([1, 1 << 40])])


def test_double_precision_is_refused() -> None:
    graph = parse("input %x: f64[2]\n%y = exp(%x)\nreturn %y")
    assert "would do so in f32" in str(OpenVinoEngine().unsupported(graph))
    with pytest.raises(EmissionError, match="f32"):
        OpenVinoEngine().load(graph)


def test_not_installed_is_one_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "find_spec", lambda name: None if name == "openvino" else object())
    with pytest.raises(TargetError, match=r"pip install graphopt\[openvino\]"):
        graphopt.compile(nn.Linear(2, 2), (torch.ones(1, 2),), target="openvino")
    with pytest.raises(GraphOptError, match="openvino not installed"):
        OpenVinoEngine().load(parse("input %x: f32[2]\n%y = exp(%x)\nreturn %y"))


def test_wrong_sizes_are_one_error() -> None:
    fast = graphopt.compile(nn.Linear(4, 2), (torch.ones(1, 4),), target="openvino")
    with pytest.raises(InputError):
        fast(torch.ones(1, 5))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(threads: int) -> None:
    graph = parse("input %x: f32[2]\n%y = exp(%x)\nreturn %y")
    loaded = OpenVinoEngine(threads=threads).load(graph)
    assert loaded.compiled.get_property("INFERENCE_NUM_THREADS") == threads
