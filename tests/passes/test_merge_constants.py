from __future__ import annotations

import torch

from graphopt.passes.merge_constants import MergeConstants
from graphopt.passmanager import PassContext

NAME = "merge-constants"


def test_equal_constants_share_names(check) -> None:
    graph = check(
        MergeConstants(),
        """
        input %x: f32[3]
        constant %k: f32[3] = (1.0, 2.0, 3.0)
        buffer %b: f32[3] = (1.0, 2.0, 3.0)
        parameter %p: f32[3] = (1.0, 2.0, 4.0)
        %u = aten.add.Tensor(%x, %k)
        %v = aten.mul.Tensor(%u, %b)
        %w = aten.mul.Tensor(%v, %p)
        return %w""",
        """
        input %x: f32[3]
        buffer %b: f32[3] = (1.0, 2.0, 3.0)
        parameter %p: f32[3] = (1.0, 2.0, 4.0)
        %u = aten.add.Tensor(%x, %b)
        %v = aten.mul.Tensor(%u, %b)
        %w = aten.mul.Tensor(%v, %p)
        return %w""",
        applied={NAME: 1},
    )
    assert graph.constants["b"].constant.names == ("b",)


def test_bits_decide(check) -> None:
    check(
        MergeConstants(),
        """
        input %x: f32[2]
        constant %a: f32[2] = (0.0, 1.0)
        constant %b: f32[2] = (-0.0, 1.0)
        constant %c: f64[2] = (0.0, 1.0)
        return %a, %b, %c""",
    )


def test_large_tensors_that_differ_in_one_element(check) -> None:
    a = torch.zeros(1000, 3)
    b = a.clone()
    b[517, 1] = 1.0
    text = """
        input %x: f32[2]
        constant %a: f32[1000, 3]
        constant %b: f32[1000, 3]
        constant %c: f32[1000, 3]
        return %a, %b, %c"""
    check(
        MergeConstants(),
        text,
        """
        input %x: f32[2]
        constant %a: f32[1000, 3]
        constant %b: f32[1000, 3]
        return %a, %b, %a""",
        applied={NAME: 1},
        tensors={"a": a, "b": b, "c": a.t().contiguous().t()},
    )


def test_trainable_parameters_stay(check) -> None:
    text = """
        input %x: f32[2]
        parameter %a: f32[2] requires_grad = (0.0, 1.0)
        parameter %b: f32[2] requires_grad = (0.0, 1.0)
        return %a, %b"""
    check(MergeConstants(), text, context=PassContext(trainable=True))
    check(
        MergeConstants(),
        text,
        """
        input %x: f32[2]
        parameter %a: f32[2] names "a", "b" requires_grad = (0.0, 1.0)
        return %a, %a""",
        applied={NAME: 1},
    )


def test_updated_buffer_stays(check) -> None:
    check(
        MergeConstants(),
        """
        input %x: f32[2]
        buffer %a: f32[2] = (0.0, 1.0)
        buffer %b: f32[2] = (0.0, 1.0)
        %y = aten.add.Tensor(%a, %x)
        return %b
        update "a" = %y""",
    )
