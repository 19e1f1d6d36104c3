"""Traits hold: on random calls, run on real tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.errors import GraphOptError
from graphopt.ir import Call, DType, Node, TensorType, Trait, Value
from graphopt.ir.dims import evaluate
from graphopt.ops import get_op, ir_name, torch_arguments
from graphopt.ops.effects import has_effect, is_pure, is_random, is_removable
from tests.ops import samplers  # noqa: F401
from tests.ops.calls import SAMPLERS, Draw, at_sizes, build
from tests.ops.test_schema import aten_overloads

SETTINGS = settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
# Where these leave elements unwritten, two runs differ; they are random by trait, or beyond what offsets cover.
UNSET = frozenset(["_grouped_mm"])


def with_trait(trait: Trait) -> list[str]:
    return sorted(name for name in SAMPLERS if trait in get_op(f"aten.{name}").traits)


def draw_call(name: str, data: st.DataObject) -> tuple[Call, list[Any]]:
    """A call at numbers, and tensors for it: 0 or 1 for integers, which are valid indices."""
    call = at_sizes(build(name, *SAMPLERS[name](Draw(data.draw, name))))
    tensors = []
    for seed, type_ in enumerate(call.operand_types):
        generator = torch.Generator().manual_seed(seed)
        if type_ is None:
            tensors.append(None)
            continue
        assert isinstance(type_, TensorType)
        shape = tuple(map(int, type_.shape))  # type: ignore[arg-type]
        if type_.dtype.is_floating:
            tensors.append(torch.randn(shape, generator=generator, dtype=torch.float64).to(type_.dtype.torch))
        else:
            tensors.append(torch.randint(0, 2, shape, generator=generator).to(type_.dtype.torch))
    return call, tensors


def run(call: Call, tensors: list[Any]) -> list[torch.Tensor] | None:
    """The results, or None if PyTorch has no kernel for the call."""
    args, kwargs = torch_arguments(call.op, tensors, call.attributes, lambda e: evaluate(e, {}))
    try:
        result = call.op.evaluate(*args, **kwargs)  # type: ignore[misc]
    except (RuntimeError, IndexError, ValueError, NotImplementedError):
        return None
    results = list(result) if isinstance(result, list | tuple) else [result]
    return [r if isinstance(r, torch.Tensor) else torch.tensor(r) for r in results]


def bits(tensors: list[Any]) -> list[Any]:
    return [None if t is None else (t.dtype, t.shape, t.contiguous().view(torch.uint8).tolist()) for t in tensors]


def flat_bits(tensors: list[Any]) -> list[Any]:
    return bits([None if t is None else t.clone(memory_format=torch.contiguous_format).reshape(-1) for t in tensors])


def as_node(call: Call) -> Node:
    operands = [None if t is None else Value(t) for t in call.operand_types]
    return Node(call.op, operands, call.attributes)


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - UNSET))
@SETTINGS
@given(data=st.data())
def test_pure_nodes_are_functions_that_leave_their_operands_alone(name: str, data: st.DataObject) -> None:
    call, tensors = draw_call(name, data)
    node = as_node(call)
    before = flat_bits(tensors)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = run(call, tensors)
    if first is None:
        return
    if not has_effect(node):
        assert flat_bits(tensors) == before
    if is_pure(node):
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(2)
        assert flat_bits(run(call, tensors) or []) == flat_bits(first)
    else:
        assert is_random(node) or has_effect(node)


@pytest.mark.parametrize("name", with_trait(Trait.IDEMPOTENT))
@SETTINGS
@given(data=st.data())
def test_idempotent(name: str, data: st.DataObject) -> None:
    call, tensors = draw_call(name, data)
    once = run(call, tensors)
    if once is None or once[0].dtype != tensors[0].dtype:
        return
    twice = run(call, [once[0], *tensors[1:]])
    assert twice is not None and flat_bits(twice) == flat_bits(once)


@pytest.mark.parametrize("name", with_trait(Trait.INVOLUTION))
@SETTINGS
@given(data=st.data())
def test_involution(name: str, data: st.DataObject) -> None:
    call, tensors = draw_call(name, data)
    once = run(call, tensors)
    if once is None or once[0].dtype != tensors[0].dtype:
        return
    assert flat_bits(run(call, once) or []) == flat_bits(tensors)


@pytest.mark.parametrize("name", with_trait(Trait.COMMUTATIVE))
@SETTINGS
@given(data=st.data())
def test_commutative(name: str, data: st.DataObject) -> None:
    call, tensors = draw_call(name, data)
    if len(tensors) < 2 or call.attributes.get("alpha", 1) != 1:
        return
    found = run(call, tensors)
    if found is not None:
        assert flat_bits(run(call, [tensors[1], tensors[0], *tensors[2:]]) or []) == flat_bits(found)


@pytest.mark.parametrize("name", with_trait(Trait.VIEW))
@SETTINGS
@given(data=st.data())
def test_views_only_move_elements(name: str, data: st.DataObject) -> None:
    call, tensors = draw_call(name, data)
    results = run(call, tensors)
    if results is None:
        return
    present = set(tensors[0].double().reshape(-1).tolist())
    for result in results:
        assert result.dtype == tensors[0].dtype
        assert set(result.double().reshape(-1).tolist()) <= present


@pytest.mark.parametrize("name", with_trait(Trait.ELEMENTWISE))
@SETTINGS
@given(data=st.data())
def test_elementwise_operators_commute_with_reordering(name: str, data: st.DataObject) -> None:
    """Flipping all operands flips the result."""
    call, tensors = draw_call(name, data)
    if not is_pure(as_node(call)):
        return
    results = run(call, tensors)
    if results is None:
        return

    def flipped(tensor: Any) -> Any:
        return None if tensor is None else tensor.flip(list(range(tensor.dim())))

    again = run(call, [flipped(t) for t in tensors])
    assert again is not None
    for a, b in zip(results, again, strict=True):
        if a.dtype.is_floating_point:  # vectorized and scalar parts of a kernel may round differently
            torch.testing.assert_close(flipped(a), b, equal_nan=True, check_stride=False)
        else:
            assert torch.equal(flipped(a), b)


def test_every_functional_operator_is_pure_random_or_has_an_effect() -> None:
    for overload in aten_overloads():
        traits = get_op(ir_name(overload)).traits
        kinds = traits & {Trait.PURE, Trait.RANDOM, Trait.EFFECT}
        assert kinds and (Trait.PURE not in kinds or len(kinds) == 1), (overload, traits)


def test_mutable_operators_have_an_effect() -> None:
    for name in ("aten.add_.Tensor", "aten.copy_", "aten._native_batch_norm_legit", "aten.sym_constrain_range"):
        op = get_op(name)
        assert Trait.EFFECT in op.traits and not op.is_removable


def test_unknown_operators_are_barriers() -> None:
    with pytest.raises(GraphOptError):
        get_op("nowhere.op")
    with torch.library._scoped_library("traits_test", "DEF") as library:
        library.define("opaque(Tensor x) -> Tensor")
        node = Node(get_op("traits_test.opaque"), [Value(TensorType(DType.F32, (2,)))])
        assert has_effect(node) and not is_pure(node) and not is_removable(node)
