from __future__ import annotations

import torch

from graphopt.passes.canonicalize import Canonicalize
from graphopt.passes.fold_constants import FoldConstants
from graphopt.passmanager import PassContext


def test_chain_of_constants(check) -> None:
    check(
        FoldConstants(),
        """
        input %x: f32[N, 2]
        parameter %w: f32[2] = (1.0, 2.0)
        constant %s: f32[] = 3.0
        %a = aten.mul.Tensor(%w, %s)
        %b = aten.add.Scalar(%a) {other=1}
        %r = aten.add.Tensor(%x, %b)
        return %r""",
        """
        input %x: f32[N, 2]
        parameter %w: f32[2] = (1.0, 2.0)
        constant %s: f32[] = 3.0
        constant %a: f32[2] = (3.0, 6.0)
        constant %b: f32[2] = (4.0, 7.0)
        %r = aten.add.Tensor(%x, %b)
        return %r""",
    )
    assert check.result.statistics.folded == 2


def test_nodes_without_operands_and_shape_only(check) -> None:
    check(
        FoldConstants(),
        """
        input %x: f32[3]
        %a = aten.arange() {end=3, dtype=f32}
        %b = aten.ones_like(%x)
        %r = aten.add.Tensor(%x, %a)
        %s = aten.add.Tensor(%r, %b)
        return %s""",
        """
        input %x: f32[3]
        constant %a: f32[3] = (0.0, 1.0, 2.0)
        constant %b: f32[3] = (1.0, 1.0, 1.0)
        constant %a_1: f32[3] = (1.0, 2.0, 3.0)
        %s = aten.add.Tensor(%x, %a_1)
        return %s""",
        applied={"regroup-sums": 1},
    )


def test_multiple_results(check) -> None:
    check(
        FoldConstants(),
        """
        input %x: f32[2]
        constant %w: f32[4] = (1.0, 2.0, 3.0, 4.0)
        %a, %b = aten.split.Tensor(%w) {split_size=2}
        %r = aten.mul.Tensor(%x, %b)
        return %r, %a""",
        """
        input %x: f32[2]
        constant %w: f32[4] = (1.0, 2.0, 3.0, 4.0)
        constant %a: f32[2] = (1.0, 2.0)
        constant %b: f32[2] = (3.0, 4.0)
        %r = aten.mul.Tensor(%x, %b)
        return %r, %a""",
    )


def test_size_limit(check) -> None:
    text = """
        input %x: f32[1]
        parameter %w: f32[100, 100]
        %t = aten.transpose.int(%w) {dim0=0, dim1=1}
        %e = aten.expand(%w) {size=(9, 100, 100)}
        return %t, %e"""
    graph = check(FoldConstants(limit=1024), text, tensors={"w": torch.randn(100, 100)})
    assert len(graph) == 2
    assert sum("would add" in note for note in check.result.notes) == 2


def test_growth_in_sum_is_bounded(check) -> None:
    text = "input %x: f32[1]\n" + "".join(f"%a{i} = aten.full() {{size=(100,), fill_value={i}}}\n" for i in range(9))
    text += "return " + ", ".join(f"%a{i}" for i in range(9))
    from graphopt.ops import parse

    graph = parse(text)
    result = FoldConstants(growth=2000).run(graph, PassContext())
    assert result.statistics.folded == 2 and len(graph) == 7


def test_weight_that_dies_may_be_folded_whatever_its_size(check) -> None:
    weight = torch.randn(100, 100)
    check(
        FoldConstants(limit=0),
        """
        input %x: f32[N, 100]
        parameter %w: f32[100, 100]
        %t = aten.transpose.int(%w) {dim0=0, dim1=1}
        %r = aten.mm(%x, %t)
        return %r""",
        """
        input %x: f32[N, 100]
        parameter %w: f32[100, 100]
        constant %t: f32[100, 100]
        %r = aten.mm(%x, %t)
        return %r""",
        tensors={"w": weight, "t": weight.t()},
    )


def test_random_updated_and_data_dependent_stay(check) -> None:
    check(
        FoldConstants(),
        """
        input %x: f32[2]
        buffer %state: f32[2] = (0.0, 1.0)
        constant %c: f32[2] = (0.0, 1.0)
        %a = aten.add.Scalar(%state) {other=1}
        %n: i64[u0, 1] = aten.nonzero(%c)
        %r = aten.add.Tensor(%x, %a)
        return %r, %n
        update "state" = %a""",
    )
    check(
        FoldConstants(),
        """
        input %x: f32[2]
        %r = aten.rand() {size=(2,)}
        return %r""",
        numeric=False,
    )


def test_symbolic_sizes_stay(check) -> None:
    check(
        FoldConstants(),
        """
        input %x: f32[N]
        %r = aten.full() {size=(N,), fill_value=1.0}
        %s = aten.zeros_like(%x)
        return %r, %s""",
    )


def test_trained_parameters_stay(check) -> None:
    check(
        FoldConstants(),
        """
        input %x: f32[2]
        parameter %w: f32[2] requires_grad = (1.0, 2.0)
        %a = aten.mul.Scalar(%w) {other=2}
        %r = aten.add.Tensor(%x, %a)
        return %r""",
        context=PassContext(trainable=True),
    )


def test_constants_meet(check) -> None:
    check(
        FoldConstants(),
        """
        input %x: f32[N, 2]
        constant %c: f32[2] = (2.0, 3.0)
        constant %d: f32[1] = (5.0,)
        %a = aten.mul.Tensor(%x, %c)
        %r = aten.mul.Tensor(%d, %a)
        return %r""",
        """
        input %x: f32[N, 2]
        constant %c: f32[2] = (2.0, 3.0)
        constant %d: f32[1] = (5.0,)
        constant %c_1: f32[2] = (10.0, 15.0)
        %r = aten.mul.Tensor(%x, %c_1)
        return %r""",
        applied={"regroup-products": 1},
    )


def test_constants_that_would_grow_do_not_meet(check) -> None:
    check(
        FoldConstants(),
        """
        input %x: f32[2, 2]
        constant %c: f32[2] = (2.0, 3.0)
        constant %d: f32[2, 1] = ((5.0,), (6.0,))
        %a = aten.mul.Tensor(%x, %c)
        %r = aten.mul.Tensor(%a, %d)
        return %r""",
        declined="larger than both",
    )


def test_known_branch_is_inlined(check) -> None:
    check(
        Canonicalize(),
        """
        input %x: f32[4]
        constant %p: bool[] = false
        %a = higher_order.cond(%p, %x) [
        graph then {
          input %x: f32[4]
          %u = aten.exp(%x)
          return %u
        }
        graph else {
          input %x: f32[4]
          constant %k: f32[] = 2.0
          %u = aten.mul.Tensor(%x, %k)
          return %u
        }
        ]
        return %a""",
        """
        input %x: f32[4]
        constant %p: bool[] = false
        constant %k: f32[] = 2.0
        %u = aten.mul.Scalar(%x) {other=2.0}
        return %u""",
        applied={"cond-constant": 1, "number-operand": 1},
    )
