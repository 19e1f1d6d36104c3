"""Mixed precision: where casts stand, what stays single and why, storage, engines, training, and order."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree

import graphopt
from graphopt.analysis import run_graph
from graphopt.errors import GraphOptError, GraphOptWarning, InputError, PassError, UnknownNameError
from graphopt.ir import DType, Graph
from graphopt.passes.canonicalize import Canonicalize
from graphopt.passes.mixed_precision import MixedPrecision
from graphopt.passmanager import PassContext, PassManager
from graphopt.testing import check_pass
from tests.zoo import MODELS

TEXT = """
input %x: f32[N, 8, 16]
parameter %w: f32[16, 16]
parameter %b: f32[16]
parameter %v: f32[16, 16]
%y = linear(%x, %w, %b)
%r = relu(%y)
%z = linear(%r, %v)
%s = add.Tensor(%z, %x)
%p = softmax.int(%s) {dim=-1}
%t = transpose.int(%z) {dim0=1, dim1=2}
return %p, %t"""


def parsed(scale: float = 1.0, **constants: torch.Tensor) -> Graph:
    graph = graphopt.parse(TEXT)
    generator = torch.Generator().manual_seed(0)
    for name in ("w", "b", "v"):
        tensor = graph.constants[name].constant.tensor
        given = constants.get(name, torch.randn(tensor.shape, generator=generator) * scale)
        with torch.no_grad():
            tensor.copy_(given)
    return graph


def lowered(graph: Graph, x: torch.Tensor | None = None, **options: Any) -> tuple[Graph, Any]:
    result = MixedPrecision(**options).run(graph, PassContext(samples=[] if x is None else [[x]]))
    return graph, result


def dtypes(graph: Graph) -> dict[str, DType]:
    return {node.op.base.removeprefix("aten."): node.results[0].type.dtype for node in graph if "copy" not in node.name}


def x(scale: float = 1.0) -> torch.Tensor:
    return torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(1)) * scale


def test_casts_stand_at_the_borders_alone() -> None:
    graph, result = lowered(parsed(), x())
    half, single = DType.F16, DType.F32
    assert dtypes(graph) == {"linear": half, "relu": half, "add": single, "softmax": single, "transpose": half}
    assert [node.name.partition(".")[2] for node in graph] == [
        "_to_copy",  # of the input
        "linear",
        "relu",
        "linear",
        "_to_copy",  # of the product, for the sum
        "add.Tensor",
        "softmax.int",
        "transpose.int",
        "_to_copy",  # of the output
    ]
    assert all(value.type.dtype is half for value in graph.constants.values())
    assert [value.type.dtype for value in graph.returned] == [single, single]
    assert result.details.operators == Counter({"aten.linear": 2, "aten.relu": 1, "aten.transpose": 1})
    assert result.details.casts == 3
    assert [45 < figures.noise < 90 for figures in result.details.outputs] == [True, True]
    assert not Canonicalize().run(graph.clone(), PassContext()).changed  # no pair of casts is left, and none is exact


def test_canonicalize_cancels_pairs_only_where_they_are_exact() -> None:
    graph = graphopt.parse("""
    input %x: f16[4]
    input %y: f32[4]
    %a = _to_copy(%x) {dtype=f32}
    %b = _to_copy(%a) {dtype=f16}
    %c = _to_copy(%y) {dtype=f16}
    %d = _to_copy(%c) {dtype=f32}
    return %b, %d""")
    canonical = Canonicalize()(graph)
    assert [node.results[0].type.dtype for node in canonical] == [DType.F16, DType.F32]


def test_a_promise_over_random_graphs() -> None:
    check_pass(MixedPrecision(), examples=10, operators=["linear", "relu", "add.Tensor"])
    check_pass(MixedPrecision(dtype="bfloat16"), examples=10, operators=["linear", "relu"])


@settings(deadline=None, max_examples=30)
@given(st.integers(-6, 6), st.integers(-3, 3), st.sampled_from(["float16", "bfloat16"]), st.integers(0, 2**31))
def test_nothing_overflows_that_did_not(exponent: int, weight: int, dtype: str, seed: int) -> None:
    """Numbers of any size: the result is finite on the data, and as exact as the format, or in single precision."""
    generator = torch.Generator().manual_seed(seed)
    given_x = torch.randn(2, 8, 16, generator=generator) * 10.0**exponent
    graph = parsed(10.0**weight)
    before = run_graph(graph, given_x)
    lowered(graph, given_x, dtype=dtype)
    after = run_graph(graph, given_x)
    for old, new in zip(before[1:], after[1:]):
        assert bool(new.isfinite().all())
        assert float((new - old).norm()) <= 8 * torch.finfo(getattr(torch, dtype)).eps * float(old.norm())


def test_what_overflows_stays_single_and_is_named() -> None:
    graph, result = lowered(parsed(), x(2e4))
    assert dtypes(graph)["linear"] is DType.F32 and dtypes(graph)["relu"] is DType.F32
    assert any("%x reaches" in note and "beyond 0.5 of the greatest 6.55e+04" in note for note in result.notes)
    graph, result = lowered(parsed(), x(2e4), dtype="bfloat16")
    assert dtypes(graph)["linear"] is DType.BF16
    graph, _ = lowered(parsed(), x(2e3), margin=0.01)
    assert dtypes(graph)["linear"] is DType.F32


def test_weights_that_half_precision_cannot_hold() -> None:
    large, small = torch.full((16, 16), 1e5), torch.full((16, 16), 3e-8)
    graph, result = lowered(parsed(v=large), x(1e-3))
    assert graph.constants["v"].type.dtype is DType.F32 and graph.constants["w"].type.dtype is DType.F16
    assert any("v reaches 1e+05, beyond the greatest" in note for note in result.notes)
    graph, result = lowered(parsed(v=small), x())
    assert any("v would lose" in note and "below 6.1e-05" in note for note in result.notes)
    few = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    few[0, 0] = 1e-9  # one that vanishes is less than rounding takes
    graph, _ = lowered(parsed(v=few), x())
    assert graph.constants["v"].type.dtype is DType.F16
    graph, result = lowered(parsed(v=torch.full((16, 16), torch.nan)), x())
    assert any("v has NaN" in note for note in result.notes)


def test_nan_in_the_data_and_infinite_masks() -> None:
    broken = x()
    broken[0, 0, 0] = torch.nan
    _, result = lowered(parsed(), broken)
    assert any("%x has 1 NaN" in note for note in result.notes)
    graph = graphopt.parse("""
    input %q: f32[2, 2, 4, 8]
    input %m: f32[4, 4]
    %y = scaled_dot_product_attention(%q, %q, %q, %m)
    return %y""")
    mask = torch.full((4, 4), -torch.inf).triu(1)
    MixedPrecision().run(graph, PassContext(samples=[[torch.randn(2, 2, 4, 8), mask]]))
    assert dtypes(graph) == {"scaled_dot_product_attention": DType.F16}


def test_without_data_it_says_so() -> None:
    graph, result = lowered(parsed())
    assert dtypes(graph)["linear"] is DType.F16
    assert any("activations were not checked for overflow" in note for note in result.notes)
    with pytest.raises(InputError, match="hold no batch"):
        MixedPrecision().run(parsed(), PassContext(calibration=[]))


def test_ignored_operators_and_wrong_options() -> None:
    graph, result = lowered(parsed(), x(), ignore=("z",))
    assert [n.results[0].type.dtype for n in graph if n.name == "aten.linear"] == [DType.F16, DType.F32]
    assert any("ignored as 'z'" in note for note in result.notes)
    with pytest.raises(UnknownNameError, match="softmaxx"):
        lowered(parsed(), x(), ignore=("softmaxx",))
    with pytest.raises(UnknownNameError, match="float8"):
        MixedPrecision(dtype="float8")
    for margin in (0.0, 1.5):
        with pytest.raises(GraphOptError, match="margin"):
            MixedPrecision(margin=margin)
    with pytest.raises(GraphOptError, match="samples"):
        MixedPrecision(samples=0)


def test_nothing_to_do_is_said() -> None:
    graph = graphopt.parse("input %x: f32[4]\n%y = exp(%x)\nreturn %y")
    result = MixedPrecision().run(graph, PassContext())
    assert not result.changed and "nothing runs in half precision" in result.notes[0]


def relative(module: nn.Module, made: Any, args: tuple, kwargs: dict) -> float:
    with torch.no_grad():
        old, new = (
            [leaf for leaf in pytree.tree_leaves(f(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
            for f in (module, made)
        )
    assert [leaf.dtype for leaf in old] == [leaf.dtype for leaf in new]
    return max(float((b - a).norm() / a.norm()) for a, b in zip(old, new))


@pytest.mark.parametrize("target", ["fx", "onnxruntime"])
@pytest.mark.parametrize("name", ["resnet8", "hf-mobilenet-v2", "transformer-encoder", "hf-gpt2", "unet"])
def test_real_models(name: str, target: str) -> None:
    entry = MODELS[name]
    module, (args, kwargs) = entry.build(), entry.inputs(batch=2)
    for dtype, most in (("float16", 0.02), ("bfloat16", 0.1)):
        made = graphopt.compile(
            module,
            args,
            kwargs,
            target=target,
            trainable=False,
            passes=f"default,mixed-precision{{dtype={dtype}}},canonicalize,dead-code",
            on_failure="raise",
        )
        assert relative(module, made, args, kwargs) < most
        report = next(r for r in made.report.passes.records if r.name == "mixed-precision").details
        assert report["outputs"] if isinstance(report, dict) else report.outputs


def test_files_are_half_as_large_and_valid() -> None:
    entry = MODELS["resnet8"]
    module, (args, kwargs) = entry.build(), entry.inputs(batch=2)
    size = graphopt.compile(module, args, kwargs, target="onnx").to_onnx().ByteSize()
    for dtype, element, opset in (("float16", 10, 20), ("bfloat16", 16, 22)):
        made = graphopt.compile(
            module, args, kwargs, target="onnx", passes=f"default,mixed-precision{{dtype={dtype}}}", on_failure="raise"
        )
        model = made.to_onnx()
        onnx.checker.check_model(model, full_check=True)
        assert model.ByteSize() < 0.53 * size and model.opset_import[0].version == opset
        stored = {t.data_type for t in model.graph.initializer if len(t.dims) == 4}
        assert stored == {element}


def test_training_keeps_single_precision_weights() -> None:
    torch.manual_seed(0)
    module, data = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)), torch.randn(64, 16)
    made = graphopt.compile(module, (data,), target="fx", passes="mixed-precision{dtype=bfloat16}", on_failure="raise")
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    assert any(node.op.base == "aten.linear" and node.result.type.dtype is DType.BF16 for node in made.graph)
    optimizer = torch.optim.Adam(made.parameters(), 0.01)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (made(data) - data).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_order_and_quantized_regions() -> None:
    graph = parsed()
    context = PassContext(samples=[[x()]])
    with pytest.raises(PassError, match="the right order is: quantize-weights,mixed-precision"):
        PassManager("mixed-precision,quantize-weights").run(graph, context)
    made, report = PassManager('quantize-weights{ignore=("v",), smallest=1},mixed-precision', on_failure="raise").run(
        graph, context
    )
    kinds = [n.result.type.dtype for n in made if n.op.base in ("aten.matmul", "aten.linear")]
    assert kinds == [DType.F32, DType.F16]
    assert any("it stands beside quantization" in note for record in report.records for note in record.notes)


def test_only_if_faster_measures() -> None:
    """On CPUs, ONNX Runtime computes half precision in single precision; which of the two is faster is measured."""
    entry = MODELS["resnet8"]
    module, (args, kwargs) = entry.build(), entry.inputs(batch=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GraphOptWarning)
        made = graphopt.compile(
            module, args, kwargs, target="onnxruntime", passes="default,mixed-precision{only_if_faster=true}"
        )
    assert "ms before and" in str(made.report)
