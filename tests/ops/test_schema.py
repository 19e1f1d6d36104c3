"""Schemas of PyTorch operators as IR operators, and calls made from IR arguments against calls made by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.errors import GraphOptError
from graphopt.ir import MISSING, DType, ParamKind, TensorType, bind, symbol
from graphopt.ir.dims import evaluate
from graphopt.ops import attribute_from_torch, attribute_to_torch, get_op, ir_name, torch_arguments
from tests.ops import samplers  # noqa: F401
from tests.ops.calls import SAMPLERS, Draw, at_sizes, build


def aten_overloads() -> list[torch._ops.OpOverload]:
    """The functional overloads of the aten dialect, in order of name."""
    found = []
    for full in sorted(torch._C._dispatch_get_all_op_names()):
        namespace, _, rest = full.partition("::")
        base, _, overload = rest.partition(".")
        if namespace != "aten" or base.startswith("__"):
            continue
        found.append(getattr(getattr(torch.ops.aten, base), overload or "default"))
    return [o for o in found if not o._schema.is_mutable]


def test_every_aten_schema_converts() -> None:
    overloads = aten_overloads()
    assert len(overloads) > 1500
    for overload in overloads:
        op = get_op(ir_name(overload))
        assert op.evaluate is overload
        arguments = overload._schema.arguments
        assert [p.name for p in op.params] == [a.name for a in arguments]
        for param, argument in zip(op.params, arguments):
            assert (param.default is not MISSING) == argument.has_default_value(), (op.name, param)
            is_tensor = "Tensor" in str(argument.type)
            assert (param.kind is not ParamKind.ATTRIBUTE) == is_tensor, (op.name, param)
            if param.kind is ParamKind.ATTRIBUTE and param.default is not MISSING:
                hash(param.default)


def test_defaults_are_those_of_the_schema() -> None:
    for overload in aten_overloads():
        op = get_op(ir_name(overload))
        for param, argument in zip(op.params, overload._schema.arguments):
            if param.kind is not ParamKind.ATTRIBUTE or not argument.has_default_value():
                continue
            default, given = param.default, argument.default_value
            if param.type.rstrip("?") in ("dtype", "layout", "memory_format", "device"):
                assert default is None
            elif isinstance(given, list):
                assert list(default) == given, (op.name, param)
            elif isinstance(default, tuple):  # int[2] = 1
                assert set(default) == {given}, (op.name, param)
            else:
                assert default == given and isinstance(given, type(default)), (op.name, param)


def tensor(type_: Any, seed: int) -> Any:
    """Values on which index operators and logarithms work alike: 0 or 1."""
    if type_ is None:
        return None
    assert isinstance(type_, TensorType)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, type_.shape, generator=generator).to(type_.dtype.torch)  # type: ignore[arg-type]


def by_hand(name: str, tensors: list[Any], attributes: dict[str, Any]) -> Any:
    """Call the overload with keyword arguments, as the sampler gave them."""
    base, _, suffix = name.partition(".")
    overload = getattr(getattr(torch.ops.aten, base), suffix or "default")
    keywords: dict[str, Any] = {}
    rest = list(tensors)
    arguments = [a for a in overload._schema.arguments if "Tensor" in str(a.type)]
    for position, argument in enumerate(arguments):
        if "List" in str(argument.type):
            count = len(rest) - (len(arguments) - position - 1)
            keywords[argument.name], rest = rest[:count], rest[count:]
        elif rest:
            keywords[argument.name] = rest.pop(0)
    for key, value in attributes.items():
        keywords[key] = value.torch if isinstance(value, DType) else list(value) if isinstance(value, tuple) else value
    return overload(**keywords)


UNSET = ("empty", "new_empty", "_grouped_mm")  # what these leave unwritten is arbitrary


@pytest.mark.parametrize("name", sorted(n for n in SAMPLERS if not n.startswith(UNSET)))
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_evaluation_equals_a_direct_call(name: str, data: st.DataObject) -> None:
    operands, attributes = SAMPLERS[name](Draw(data.draw, name))
    call = at_sizes(build(name, operands, attributes))
    plain = {key: call.attributes[key] for key in attributes}
    tensors = [tensor(type_, seed) for seed, type_ in enumerate(call.operand_types)]
    torch.manual_seed(0)
    try:
        expected = by_hand(name, tensors, plain)
    except (RuntimeError, IndexError, ValueError, NotImplementedError):
        return  # a call that PyTorch has no kernel for
    args, kwargs = torch_arguments(call.op, tensors, call.attributes, lambda e: evaluate(e, {}))
    torch.manual_seed(0)
    found = call.op.evaluate(*args, **kwargs)  # type: ignore[misc]
    assert_same(found, expected)


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for a, b in zip(found, expected):
            assert_same(a, b)
        return
    if not isinstance(expected, torch.Tensor):
        assert found == expected and type(found) is type(expected)
        return
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert torch.equal(found.nan_to_num() if found.dtype.is_floating_point else found, _comparable(expected))


def _comparable(value: torch.Tensor) -> torch.Tensor:
    return value.nan_to_num() if value.dtype.is_floating_point else value


def test_trailing_defaults_are_left_out() -> None:
    op = get_op("aten.conv2d")
    x, w = torch.zeros(1, 2, 4, 4), torch.zeros(3, 2, 1, 1)
    operands, attributes = bind(op, (x, w), {"stride": 2})
    args, kwargs = torch_arguments(op, operands, attributes, lambda e: 0)
    assert args == [x, w, None, [2, 2]] and kwargs == {}
    operands, attributes = bind(op, (x, w), {})
    assert torch_arguments(op, operands, attributes, lambda e: 0) == ([x, w], {})
    add = get_op("aten.add.Tensor")
    operands, attributes = bind(add, (x, x), {"alpha": 2})
    assert torch_arguments(add, operands, attributes, lambda e: 0) == ([x, x], {"alpha": 2})


def test_one_and_true_are_different_arguments() -> None:
    """A default of 1 must not swallow True, nor 1.0."""
    op = get_op("aten.add.Tensor")
    x = torch.zeros(2, dtype=torch.int64)
    for alpha in (True, 1.0):
        operands, attributes = bind(op, (x, x), {"alpha": alpha})
        kwargs = torch_arguments(op, operands, attributes, lambda e: 0)[1]
        assert kwargs == {"alpha": alpha} and type(kwargs["alpha"]) is type(alpha)


@pytest.mark.parametrize(
    "value",
    [
        torch.float16,
        torch.device("meta"),
        torch.channels_last,
        torch.strided,
        (1, (2.5, "text")),
        None,
        True,
    ],
)
def test_attributes_convert_back(value: Any) -> None:
    kinds = {torch.device: "device", torch.memory_format: "memory_format", torch.layout: "layout"}
    op = get_op("aten._to_copy")
    kind = kinds.get(type(value), "dtype")
    param = next(p for p in op.params if p.type.startswith(kind))
    attribute = attribute_from_torch(value)
    back = attribute_to_torch(param, attribute, lambda e: 0)
    expected = [1, [2.5, "text"]] if isinstance(value, tuple) else value
    assert back == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_the_cpu_stands_for_a_device_that_is_not_there() -> None:
    param = next(p for p in get_op("aten._to_copy").params if p.type.startswith("device"))
    assert attribute_to_torch(param, "cuda:1", lambda e: 0) == torch.device("cpu")


def test_dims_are_given_sizes() -> None:
    op = get_op("aten.view")
    n = symbol("n")
    operands, attributes = bind(op, (torch.zeros(6),), {"size": (n * 2, 1)})
    args, _ = torch_arguments(op, operands, attributes, lambda e: evaluate(e, {"n": 3}))
    assert args[1] == [6, 1]


def test_operand_segments_tell_two_lists_apart() -> None:
    op = get_op("aten.lstm.input")
    x, h, w = torch.zeros(3, 2, 4), torch.zeros(1, 2, 5), [torch.zeros(20, 4), torch.zeros(20, 5)]
    flags = dict.fromkeys(["has_biases", "train", "bidirectional", "batch_first"], False)
    options = {"num_layers": 1, "dropout": 0.0, **flags}
    operands, attributes = bind(op, (x, [h, h], w), options)
    assert attributes["operand_segment_sizes"] == (1, 2, 2)
    args, _ = torch_arguments(op, operands, attributes, lambda e: 0)
    assert [len(a) for a in args[1:3]] == [2, 2]
    assert op.evaluate(*args)[0].shape == (3, 2, 5)  # type: ignore[misc]


def test_unknown_operators_have_suggestions() -> None:
    with pytest.raises(GraphOptError, match=r"Unknown operator 'aten\.rellu'"):
        get_op("aten.rellu")
    get_op("aten.softmax.int")
    with pytest.raises(GraphOptError, match=r"Did you mean .*'aten.softmax.int'"):
        get_op("aten.softmax.in")


def test_a_tensor_in_the_place_of_a_number_is_told_of_overloads() -> None:
    from graphopt.ir import Value

    value = Value(TensorType(DType.F32, (4,)), "x")
    with pytest.raises(GraphOptError, match=r"takes Scalar for 'a', got %x: f32\[4\]; name an overload"):
        bind(get_op("aten.mul"), (value, 1.5), {})
