from __future__ import annotations

import torch

from graphopt.ops import parse
from graphopt.passes.fuse_linear import FuseLinear
from graphopt.passmanager import PassContext

W = torch.randn(4, 5)


def test_product_with_transposed_weight(check) -> None:
    check(
        FuseLinear(),
        """
        input %x: f32[N, 5]
        parameter %w: f32[4, 5] requires_grad
        %t = aten.transpose.int(%w) {dim0=0, dim1=1}
        %r = aten.mm(%x, %t)
        return %r""",
        """
        input %x: f32[N, 5]
        parameter %w: f32[4, 5] requires_grad
        %r = aten.linear(%x, %w)
        return %r""",
        applied={"matmul-to-linear": 1},
        context=PassContext(trainable=True),
        special=False,
    )


def test_stored_matrix_is_stored_transposed(check) -> None:
    check(
        FuseLinear(),
        """
        input %x: f32[N, 3, 5]
        parameter %w: f32[5, 4]
        %r = aten.matmul(%x, %w)
        return %r""",
        """
        input %x: f32[N, 3, 5]
        parameter %w: f32[5, 4]
        constant %w_t: f32[4, 5]
        %r = aten.linear(%x, %w_t)
        return %r""",
        applied={"matmul-to-linear": 1},
        tensors={"w": W.t(), "w_t": W},
        special=False,
    )


def test_addmm_and_bias(check) -> None:
    check(
        FuseLinear(),
        """
        input %x: f32[N, 5]
        parameter %w: f32[4, 5]
        parameter %b: f32[4]
        %t = aten.t(%w)
        %a = aten.addmm(%b, %x, %t)
        %c = aten.mm(%x, %t)
        %d = aten.add.Tensor(%b, %c)
        return %a, %d""",
        """
        input %x: f32[N, 5]
        parameter %w: f32[4, 5]
        parameter %b: f32[4]
        %a = aten.linear(%x, %w, %b)
        %d = aten.linear(%x, %w, %b)
        return %a, %d""",
        applied={"addmm-to-linear": 1, "matmul-to-linear": 1, "bias-into-linear": 1},
        special=False,
    )


def test_what_is_no_linear_layer_stays(check) -> None:
    check(
        FuseLinear(),
        """
        input %x: f32[N, 5]
        input %y: f32[5, 4]
        parameter %w: f32[5, 4]
        parameter %v: f32[5]
        parameter %m: f32[7, 4]
        %a = aten.mm(%x, %y)
        %b = aten.matmul(%x, %v)
        %c = aten.addmm(%a, %x, %w)
        %d = aten.addmm(%a, %x, %w) {beta=2}
        return %a, %b, %c, %d""",
        declined="computed",
        special=False,
    )


def test_bias_that_broadcasts_otherwise_stays(check) -> None:
    check(
        FuseLinear(),
        """
        input %x: f32[4, 5]
        parameter %w: f32[4, 5]
        parameter %b: f32[4, 1]
        %a = aten.linear(%x, %w)
        %r = aten.add.Tensor(%a, %b)
        return %r""",
        declined="not one number a column",
        special=False,
    )


def test_trained_matrix_is_not_transposed() -> None:
    graph = parse("""
        input %x: f32[N, 5]
        parameter %w: f32[5, 4] requires_grad
        %r = aten.mm(%x, %w)
        return %r""")
    assert not FuseLinear().run(graph, PassContext(trainable=True)).changed
