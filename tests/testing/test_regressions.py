"""Graphs that generated ones were shrunk to when they found a fault, with the property that they broke."""

from __future__ import annotations

import pytest

from graphopt.ops import parse
from graphopt.testing.suite import backend_properties, graph_properties, pass_properties, pipeline_properties

pytestmark = pytest.mark.unchecked_passes

PROPERTIES = {**graph_properties(), **backend_properties(), **pipeline_properties(), **pass_properties()}

CASES = {
    "integers become floats in the float64 interpreter, too": (
        "fx",
        """
        input %x: i64[3, 2]
        parameter %w: f32[5, 2]
        %a = div.Scalar(%x) {other=3.0}
        %b = t(%w)
        %c = matmul(%a, %b)
        return %c""",
    ),
    "floats made from nothing are f64 in the float64 interpreter": (
        "fx",
        """
        buffer %m: f32[3] = (0.5, 0.25, 1.0)
        buffer %v: f32[3] = (1.0, 2.0, 0.5)
        %a = eye() {n=3}
        %b = batch_norm(%a, none, none, %m, %v) {training=false, momentum=0.1, eps=0.001, cudnn_enabled=true}
        return %b""",
    ),
    "a permutation of dims of size 1 keeps the bits of what follows": (
        "pass canonicalize",
        """
        input %x: f32[1, 3, 8]
        parameter %w: f32[8]
        %a = permute(%x) {dims=(1, 0, 2)}
        %b = matmul(%a, %w)
        return %b""",
    ),
    "a parameter without a qualified name prints and parses": (
        "pass fold-batch-norm",
        """
        input %x: f32[3, 1, 2]
        parameter %w: f32[3, 1, 1]
        buffer %m: f32[3] = (-0.6308969, 0.28511038, -0.9137167)
        buffer %v: f32[3] = (0.814436, 1.6165769, 1.4290375)
        %a = conv1d(%x, %w, none) {padding=1}
        %b = batch_norm(%a, none, none, %m, %v) {training=false, momentum=0.1, eps=0.001, cudnn_enabled=true}
        %c = mul.Tensor(%w, %b)
        return %c""",
    ),
    "the sign of a scalar is a scalar in ONNX": ("onnx", "input %x: f32[]\n%y = signbit(%x)\nreturn %y"),
    "degrees in f64 are f64 in ONNX": ("onnx", "input %x: f64[4]\n%y = rad2deg(%x)\nreturn %y"),
    "a running product in ONNX": ("onnx", "input %x: f32[N, 3]\n%y = cumprod(%x) {dim=0}\nreturn %y"),
    "the epsilon of a batch norm is f64 in ONNX": (
        "onnx",
        """
        input %x: f64[N, 2]
        buffer %m: f64[2] = (0.5, 0.25)
        buffer %v: f64[2] = (1.0, 2.0)
        %y = batch_norm(%x, none, none, %m, %v) {training=false, momentum=0.1, eps=0.001, cudnn_enabled=true}
        return %y""",
    ),
    "the epsilon of a layer norm is f64 in ONNX": (
        "onnx",
        """
        input %x: f64[N, 4]
        parameter %w: f64[4]
        %y = layer_norm(%x, %w, none) {normalized_shape=(4,), eps=0.001}
        return %y""",
    ),
    "the factors of a GELU are f64 in ONNX": (
        "onnx",
        'input %x: f64[N, 4]\n%y = gelu(%x) {approximate="tanh"}\nreturn %y',
    ),
    "a pooling that rounds up though nothing is left over": (
        "onnx checker",
        """
        symbol M [2, 8]
        input %x: f32[N, 4, 4, M]
        %y = avg_pool2d(%x) {kernel_size=(1, 1), stride=(2, 2), ceil_mode=true}
        return %y""",
    ),
    "branches of one tensor twice": (
        "fx",
        """
        input %p: bool[]
        input %x: f32[N, 3]
        %y = higher_order.cond(%p, %x, %x) [
          graph then {
            input %a: f32[N, 3]
            input %b: f32[N, 3]
            %c = add.Tensor(%a, %b)
            return %c
          }
          graph otherwise {
            input %d: f32[N, 3]
            input %e: f32[N, 3]
            return %e
          }
        ]
        return %y""",
    ),
    "a constant that was folded into an attribute was rounded": (
        "default for fx",
        """
        input %x: f32[N, 4]
        constant %c: f32[] = 0.22951359
        %a = sigmoid(%c)
        %b = pow.Tensor_Scalar(%a) {exponent=-1}
        %y = maximum(%x, %b)
        return %y""",
    ),
}


@pytest.mark.parametrize(("name", "text"), CASES.values(), ids=CASES)
def test_graph_keeps_its_property(name: str, text: str) -> None:
    PROPERTIES[name](parse(text))


def test_a_sum_that_cancels_may_round_otherwise() -> None:
    """The error of one such sum may be tiny by luck, and then four times that is no fair bound for another order."""
    from graphopt.testing import random_graph

    PROPERTIES["default for cpu"](random_graph(3068, max_nodes=8))


def test_branches_of_one_tensor_twice_export() -> None:
    import torch

    from graphopt.backends.fx import emit_fx

    module = emit_fx(parse(CASES["branches of one tensor twice"][1]), flat=True)
    given = torch.tensor(True), torch.ones(2, 3)
    (result,) = torch.export.export(module, given).module()(*given)
    assert torch.equal(result, 2 * given[1])


def test_a_size_is_not_fitted_to_a_chance_relation_of_examples() -> None:
    graph = parse("""
        symbol N [1, 8]
        symbol K [4, 12] multiple_of 4
        input %x: f32[N, 5]
        input %i: i64[N, K]
        %y = take_along_dim(%x, %i) {dim=1}
        return %y""")
    assert repr(graph.outputs[0].type) == "f32[N, K]"


@pytest.mark.parametrize(
    "text",
    [
        # A size that PyTorch computes in floating point and rounds towards zero.
        "input %x: f32[2, 2, N, 4]\n"
        "%y = upsample_bilinear2d.vec(%x) {output_size=none, align_corners=false, scale_factors=(0.5, 1.5)}\nreturn %y",
        # An index that must be no larger than what it writes to.
        "input %x: f32[N, 3]\ninput %i: i64[N, 3]\n%j = clamp(%i) {min=0, max=2}\n"
        "%y = scatter_add(%x, %j, %x) {dim=1}\nreturn %y",
    ],
)
def test_modules_are_traced_again_with_dynamic_sizes(text: str) -> None:
    import graphopt
    from graphopt.backends.fx import emit_fx
    from graphopt.testing import assert_equivalent, sample_inputs

    graph = parse(f"symbol N [4, 16]\n{text}")
    traced = graphopt.trace(emit_fx(graph, flat=True), tuple(sample_inputs(graph)), dynamic_shapes="auto")
    for size in (4, 7):
        inputs = sample_inputs(graph, {"N": size})
        assert_equivalent(traced, emit_fx(graph, flat=True), inputs)
