"""Arguments and results: as the original's, or flat."""

from __future__ import annotations

import inspect
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from graphopt.backends.fx import emit_fx
from graphopt.errors import EmissionError
from graphopt.ir import Graph, Literal, Signature, Slot
from graphopt.ops import parse

Pair = namedtuple("Pair", "sum product")

A, B = torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0])


def sum_and_product() -> Graph:
    return parse("""
        input %a: f32[2]
        input %b: f32[2]
        %s = add.Tensor(%a, %b)
        %p = mul.Tensor(%a, %b)
        return %s, %p""")


def with_signature(
    args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, names: tuple[str, ...] = ()
) -> torch.fx.GraphModule:
    """Emit the graph above for a call in which `A`, `B` and a result in which 0 and 1 stand for the values."""
    graph = sum_and_product()
    leaves, in_tree = pytree.tree_flatten((args, kwargs))
    out, out_tree = pytree.tree_flatten(result)
    slots = {id(A): Slot(0), id(B): Slot(1)}
    graph.signature = Signature(
        in_tree,
        out_tree,
        tuple(slots.get(id(leaf), Literal(leaf)) for leaf in leaves),
        tuple(Slot(leaf) if type(leaf) is int else Literal(leaf) for leaf in out),
        names,
    )
    return emit_fx(graph)


def test_flat() -> None:
    module = emit_fx(sum_and_product(), flat=True)
    result = module(A, B)
    assert isinstance(result, tuple)
    assert [t.tolist() for t in result] == [[7.0, 10.0], [10.0, 21.0]]
    graph = sum_and_product()
    tree = pytree.tree_structure(((A,), {"b": B}))
    graph.signature = Signature(tree, pytree.tree_flatten(0)[1], (Slot(0), Slot(1)), (Slot(1),))
    assert torch.equal(emit_fx(graph, flat=True)(A, B)[1], A * B)
    assert torch.equal(emit_fx(graph)(A, b=B), A * B)


def test_without_a_signature_one_output_comes_bare() -> None:
    assert isinstance(emit_fx(sum_and_product())(A, B), tuple)
    graph = sum_and_product()
    graph.set_outputs(graph.outputs[:1])
    assert torch.equal(emit_fx(graph)(A, B), A + B)


def test_arguments_have_the_original_s_names_and_defaults() -> None:
    module = with_signature((A,), {"flag": False, "other": B}, (0, 1), ("x", "flag", "other"))
    assert str(inspect.signature(module.forward)) == "(x, other, flag=False)"
    for result in (module(A, other=B), module(x=A, other=B, flag=False), module(A, B)):
        assert torch.equal(result[0], A + B)


def test_nested_arguments_have_the_original_s_names() -> None:
    module = with_signature(({"l": A}, B, 3), {}, 0, ("batch['l']", "args[1]", "lambda"))
    assert str(inspect.signature(module.forward)) == "(batch, arg1, lambda_=3)"
    module = with_signature(({"l": A}, Pair(B, B)), {"deep": 1}, 0, ("batch['l']", "pair.sum", "pair.product", "deep"))
    assert str(inspect.signature(module.forward)) == "(batch, pair, deep)"
    assert torch.equal(module({"l": A}, pair=Pair(B, B), deep=1), A + B)


def test_a_fixed_positional_argument_keeps_its_place() -> None:
    module = with_signature((None, A), {"other": B}, [1, None, 0], ("mask", "x", "other"))
    result = module(None, A, other=B)
    assert isinstance(result, list) and result[1] is None and torch.equal(result[2], A + B)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (([A, (B, 3)],), {}),
        (({"left": A, "more": [{"right": B}]},), {"training": None}),
        ((), {"pair": (A, B)}),
        (((), A, B), {}),
        ((A, [], {}), {"b": B}),
    ],
)
def test_nested_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    result = with_signature(args, kwargs, {"s": 0, "rest": (1, ["text", 0])})(*args, **kwargs)
    assert torch.equal(result["s"], A + B) and torch.equal(result["rest"][0], A * B)
    assert result["rest"][1][0] == "text"


@pytest.mark.parametrize("result", [Pair(0, 1), OrderedDict(b=0, a=1), (Pair(1, 0), 2.5)])
def test_results_of_other_types(result: Any) -> None:
    module = with_signature((A, B), {}, result)
    values = {0: A + B, 1: A * B}
    expected = pytree.tree_map(lambda leaf: values.get(leaf, leaf), result)
    got = module(A, B)
    assert type(got) is type(expected)
    assert str(got) == str(expected)


@pytest.mark.parametrize("argument", [Pair(A, B), OrderedDict(b=A, a=B)])
def test_arguments_of_other_types(argument: Any) -> None:
    module = with_signature((argument,), {"scale": 2}, Pair(0, 1))
    got = module(argument, scale=2)
    assert isinstance(got, Pair) and torch.equal(got.sum, A + B)


def test_other_types_export_and_compile() -> None:
    for module, args in (
        (with_signature((A, B), {}, Pair(0, 1)), (A, B)),
        (with_signature((Pair(A, B),), {}, Pair(0, 1)), (Pair(A, B),)),
        (with_signature(({"a": A, "b": B},), {}, {"y": 0}), ({"a": A, "b": B},)),
    ):
        expected = pytree.tree_leaves(module(*args))
        exported = torch.export.export(module, args).module()(*args)
        compiled = torch.compile(module, backend="eager")(*args)
        for result in (exported, compiled):
            assert all(torch.equal(a, b) for a, b in zip(pytree.tree_leaves(result), expected))


def test_an_input_that_the_signature_does_not_pass_is_an_error() -> None:
    with pytest.raises(EmissionError, match="nothing to input 'b'; emit with flat=True"):
        with_signature((A,), {}, 0)
