"""One node of an ONNX graph as a translation rule sees it: operands, attributes, and what may be emitted for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from graphopt.errors import CaptureError
from graphopt.frontends.builder import Builder, Derived
from graphopt.frontends.onnx.entries import Entry, Known, Sequence_, known
from graphopt.ir import (
    Constant,
    DType,
    Expr,
    Op,
    ScalarKind,
    ScalarType,
    TensorType,
    Trait,
    Type,
    Value,
    from_torch,
    infer_types,
)
from graphopt.ir.bind import bind
from graphopt.ir.dims import Dim
from graphopt.ir.fresh import placeholder
from graphopt.ops import registry, torch_arguments
from graphopt.ops.quantization import is_packed

if TYPE_CHECKING:
    import onnx

    from graphopt.frontends.onnx.reader import Reader

Translated: TypeAlias = "Entry | Sequence[Entry]"
Translation: TypeAlias = "Callable[[Application], Translated]"

SMALL = 4096
"""Tensors of at most so many elements are evaluated while the graph is read, where their operands are constant."""

MOST_SYMBOLS = 8
"""An operand of at most so many sizes may be computed as the model runs."""

TRANSLATIONS: dict[tuple[str, str], Translation] = {}
"""Translation rules by (domain, operator); the modules of `operators` fill it."""


class Declined(CaptureError):
    """A rule does not cover the node; it stays as it is. The message says why."""


class OneOperator(Declined):
    """A node is best left to an engine that has its operator."""


MOST_LISTED = 1 << 24


def listable(count: int, what: str) -> int:
    """A number of elements that a rule may list.

    Raises:
        Declined: more than fit into memory several times.
    """
    if count > MOST_LISTED:
        raise Declined(f"{what} of {count} elements")
    return count


class NeedsValue(Declined):
    """A rule needs the contents of an operand, which are not known before the model runs.

    name: of the ONNX tensor.
    """

    def __init__(self, name: str, operator: str) -> None:
        super().__init__(f"{operator} needs the contents of {name!r}, which are computed as the model runs")
        self.name = name


def translates(*names: str, domain: str = "") -> Callable[[Translation], Translation]:
    """Register a translation rule for operators of a domain."""

    def register(function: Translation) -> Translation:
        for name in names:
            if (domain, name) in TRANSLATIONS:
                raise ValueError(f"two translations of {domain}.{name}")
            TRANSLATIONS[domain, name] = function
        return function

    return register


@dataclass
class Application:
    """A node with what its inputs stand for.

    version: the opset version since which the operator is as the file means it. nested: what reads graphs among the
    attributes.
    """

    node: onnx.NodeProto
    version: int
    inputs: tuple[Entry, ...]
    attributes: Mapping[str, Any]
    builder: Builder
    nested: Reader | None = None

    @property
    def reader(self) -> Reader:
        """What reads graphs among the attributes."""
        assert self.nested is not None
        return self.nested

    def compose(self) -> None:
        """Say that the node becomes several operators that together do the same.

        Raises:
            OneOperator: what is read will run in an engine for ONNX, which has the operator itself.
        """
        if self.nested is not None and self.nested.native:
            raise OneOperator(f"{self.name} is one operator of ONNX, and several of PyTorch")

    @property
    def name(self) -> str:
        """The operator's name."""
        return str(self.node.op_type)

    @property
    def num_outputs(self) -> int:
        """How many outputs the node has, those without a name included."""
        return len(self.node.output)

    def uses(self, index: int) -> bool:
        """True if the output has a name, so that something may use it."""
        return index < len(self.node.output) and bool(self.node.output[index])

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute as a Python number, string, list or tensor; `default` if absent."""
        return self.attributes.get(name, default)

    # Operands

    def has(self, index: int) -> bool:
        """True if the operand is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def __getitem__(self, index: int) -> Value:
        """An operand as a value. Known contents become nodes."""
        entry = self.inputs[index] if index < len(self.inputs) else None
        if isinstance(entry, Value):
            return entry
        if entry is None:
            raise Declined(f"{self.name} has no input {index}")
        return self.value(entry)

    def get(self, index: int) -> Value | None:
        """An operand as a value, or None if it is absent."""
        return self[index] if self.has(index) else None

    def values(self) -> list[Value]:
        """All operands as values."""
        return [self[i] for i in range(len(self.inputs))]

    def type(self, index: int) -> TensorType:
        """The type of an operand."""
        return tensor_type(self[index])

    def sequence(self, index: int) -> list[Value]:
        """The elements of an operand that is a sequence of known length."""
        entry = self.inputs[index]
        if not isinstance(entry, Sequence_):
            raise Declined(f"the length of the sequence {self.node.input[index]!r} is not known")
        return [self.value(item) for item in entry.items]

    def value(self, entry: Entry) -> Value:
        """What an entry stands for, as a value."""
        if isinstance(entry, Value):
            return entry
        if isinstance(entry, Known):
            return self._materialized(entry)
        raise Declined(f"{self.name} takes a tensor, not {type(entry).__name__}")

    def contents(self, index: int) -> Known | None:
        """The elements of a small integer operand, if they are known: numbers and dims."""
        entry = self.inputs[index] if index < len(self.inputs) else None
        if isinstance(entry, Known):
            return entry
        if isinstance(entry, Value) and entry.constant is not None:
            tensor = entry.constant.tensor
            if tensor.numel() <= SMALL and not tensor.is_floating_point() and not tensor.is_complex():
                return known(tensor.reshape(-1).tolist(), tuple(tensor.shape), from_torch(tensor.dtype))
        return None

    def dims(self, index: int) -> list[Dim]:
        """The elements of an integer operand, which must be known.

        Raises:
            NeedsValue: they are not.
        """
        found = self.contents(index)
        if found is None:
            raise NeedsValue(self.node.input[index], self.name)
        return found.flat

    def sizes(self, index: int) -> list[Dim]:
        """The elements of an operand that are sizes. Computed ones become symbols, bound as the model runs.

        Raises:
            NeedsValue: they are an input's, or how many there are is not known.
        """
        found = self.contents(index)
        if found is not None:
            return found.flat
        value, type_ = self[index], self.type(index)
        count = type_.numel
        if value.is_input or not isinstance(count, int) or count > MOST_SYMBOLS or not type_.dtype.is_integer:
            raise NeedsValue(self.node.input[index], self.name)
        flat = self.reshape(value, (count,))
        return [self.size(self.emit("aten.select.int", flat, 0, i)) for i in range(count)]

    def size(self, value: Value) -> Dim:
        """A size that is computed as the model runs, from a 0-dim integer tensor that is not negative."""
        result = ScalarType(ScalarKind.INT, placeholder(0, 0))
        (number,) = self.builder.call("aten.item", [value], types=[result])
        assert isinstance(number.type, ScalarType) and isinstance(number.type.value, Expr)
        return number.type.value

    def numbers(self, index: int) -> list[Any]:
        """The elements of a small constant operand, of any type.

        Raises:
            NeedsValue: the operand is not constant.
        """
        entry = self.inputs[index]
        if isinstance(entry, Value) and entry.constant is not None and entry.constant.tensor.numel() <= SMALL:
            return list(entry.constant.tensor.reshape(-1).tolist())
        if isinstance(entry, Known) and entry.is_static:
            return entry.flat
        raise NeedsValue(self.node.input[index], self.name)

    def ints(self, name: str, index: int) -> list[int] | None:
        """Integers that are an attribute up to some opset and an input from there on; None if absent."""
        if name in self.attributes:
            return list(self.attributes[name])
        return list(self.numbers(index)) if self.has(index) else None

    # Emission

    def emit(self, op: str, *args: Any, **kwargs: Any) -> Value:
        """Append an application of an IR operator, and return its first result."""
        return self.emit_all(op, *args, **kwargs)[0]

    def emit_all(self, op: str, *args: Any, **kwargs: Any) -> tuple[Value, ...]:
        """Append an application of an IR operator. If all its operands are small constants, so are its results."""
        operator = registry.get(op)
        operands, attributes = bind(operator, args, kwargs)
        types = infer_types(operator, operands, attributes)
        if self._is_small(operator, operands) and all(map(_is_small_type, types)):
            tensors = [None if v is None else v.constant.tensor for v in operands]
            evaluated = _evaluated(operator, tensors, attributes)
            if evaluated is not None:
                results = tuple([self.constant(t) for t in evaluated])
                if any(t is not None and t.is_floating_point() for t in tensors):
                    # What is computed from parameters is to follow when they are trained.
                    derived = Derived(operator, tuple(operands), attributes, self.builder.location, results)
                    self.builder.derived.append(derived)
                return results
        return self.builder.append(operator, operands, attributes, types)

    def constant(self, tensor: torch.Tensor, name: str = "") -> Value:
        """Store a tensor."""
        type_ = TensorType(from_torch(tensor.dtype), tuple(tensor.shape))
        return self.builder.graph.add_constant(name or "constant", type_, Constant(tensor))

    def constant_of(self, number: bool | int | float, dtype: DType) -> Value:
        """A 0-dim constant of a dtype."""
        return self.constant(torch.tensor(number, dtype=dtype.torch))

    def constant_bool(self, value: bool) -> Value:
        """A 0-dim bool."""
        return self.constant_of(value, DType.BOOL)

    def scalar(self, number: bool | int | float, like: Value) -> Value:
        """A 0-dim constant of the dtype of `like`."""
        return self.constant(torch.tensor(number, dtype=tensor_type(like).dtype.torch))

    def cast(self, value: Value, dtype: DType) -> Value:
        """Convert to a dtype, if the value has another."""
        if (is_packed(dtype) or dtype is DType.F8E8M0) and tensor_type(value).dtype is not dtype:
            raise Declined(f"PyTorch does not convert to {dtype.value}")
        return value if tensor_type(value).dtype is dtype else self.emit("aten.to.dtype", value, dtype)

    def reshape(self, value: Value, shape: Sequence[Dim]) -> Value:
        """Give a value another shape of as many elements, unless it has it."""
        return value if tensor_type(value).shape == tuple(shape) else self.emit("aten.reshape", value, tuple(shape))

    @staticmethod
    def _is_small(operator: Op, operands: Sequence[Any]) -> bool:
        for value in operands:
            if value is not None and (value.constant is None or value.constant.tensor.numel() > SMALL):
                return False
        return (
            bool(operands)
            and operator.dialect != "graphopt"  # quantized numbers keep their form
            and Trait.PURE in operator.traits
            and operator.evaluate is not None
            and not any(v is not None and is_packed(tensor_type(v).dtype) for v in operands)
        )

    def _materialized(self, entry: Known) -> Value:
        if entry.is_static:
            return self.constant(torch.tensor(entry.flat, dtype=entry.dtype.torch).reshape(entry.shape))
        items = [self.builder.one("aten.scalar_tensor", dim, dtype=entry.dtype) for dim in entry.flat]
        if entry.shape == ():
            return items[0]
        stacked = self.builder.one("aten.stack", items)
        return self.reshape(stacked, entry.shape)


def tensor_type(value: Value) -> TensorType:
    """The type of a value that must be a tensor."""
    if not isinstance(value.type, TensorType):
        raise Declined(f"%{value.name} is no tensor, but {value.type!r}")
    return value.type


def _is_small_type(type_: Type) -> bool:
    """True unless values are known to be large: a few numbers may say that a result has many."""
    count = type_.numel if isinstance(type_, TensorType) else 0
    return not isinstance(count, int) or count <= SMALL


def numbers_of(dims: Sequence[Dim], what: str) -> list[int]:
    """Dims that must be numbers.

    Raises:
        Declined: some are not known before the model runs; `what` says what needs them.
    """
    found = [d for d in dims if isinstance(d, int)]
    if len(found) < len(dims):
        raise Declined(f"{what} of a dim whose size is not known before the model runs")
    return found


def _evaluated(operator: Op, tensors: Sequence[Any], attributes: Mapping[str, Any]) -> list[torch.Tensor] | None:
    """The results on small constants; None if they aren't small, or depend on symbols."""
    if getattr(attributes, "symbols", ()):
        return None
    args, kwargs = torch_arguments(operator, tensors, attributes, _no_size)
    assert operator.evaluate is not None
    try:
        result = operator.evaluate(*args, **kwargs)
    except (RuntimeError, IndexError, TypeError, ValueError):
        return None  # type inference will say what is wrong
    results = list(result) if isinstance(result, list | tuple) else [result]
    if not all(isinstance(r, torch.Tensor) and r.numel() <= SMALL for r in results):
        return None
    return [r.contiguous().clone() for r in results]


def _no_size(dim: Expr) -> Any:
    raise Declined(f"the size {dim} is not known before the model runs")
