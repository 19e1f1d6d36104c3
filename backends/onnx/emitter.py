"""The emitter: what lowerings build ONNX operations with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch

from graphopt.backends.onnx.kernels import compute_dtype
from graphopt.backends.onnx.records import Body, Operation, Tensor
from graphopt.backends.onnx.shaping import broadcast_shape
from graphopt.backends.onnx.sizes import Sizes
from graphopt.ir import DType, Expr, Node, TensorType, Value, from_torch, symbol
from graphopt.ir.dims import Dim

ELEMENTWISE = frozenset(
    [
        "Abs",
        "Add",
        "And",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
        "Ceil",
        "Clip",
        "Cos",
        "Div",
        "Elu",
        "Equal",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "Log",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "Pow",
        "Reciprocal",
        "Relu",
        "Round",
        "Sigmoid",
        "Sign",
        "Sin",
        "Softplus",
        "Sqrt",
        "Sub",
        "Tanh",
        "Where",
        "Xor",
    ]
)
"""Operators whose result has the shape to which their inputs broadcast."""

Input: TypeAlias = "Tensor | None | bool | int | float | Sequence[Dim]"

_KEY_INPUT = {"Where": 1}
"""The first input of an operator that has the type of its elements, where it isn't input 0."""


class Emitter:
    """Appends operations to the body under construction.

    opset: the version of the standard operators. widen_floats: compute half-precision types in f32 (for a runtime
    that has no kernels for them).
    """

    def __init__(self, opset: int, *, widen_floats: bool = False) -> None:
        self.opset = opset
        self.widen_floats = widen_floats
        self.body = Body("main")
        self.origin: Node | None = None
        self.sizes = Sizes(self)
        self._constants: dict[Any, Tensor] = {}
        self._stored: dict[int, Tensor] = {}
        self._fresh = 0
        self._seen: set[tuple[Dim, ...]] = set()
        self._derived: dict[tuple[Tensor, Any], Tensor] = {}

    # Operations

    def op(
        self,
        op_type: str,
        *inputs: Input,
        dtype: DType | None = None,
        shape: Sequence[Dim] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> Tensor:
        """Append an operation with one result.

        inputs: tensors; numbers (scalars of the first tensor's dtype); sequences of dims (vectors of i64).
        dtype: of the result; by default the first tensor's. Attributes that are None are left out; one whose name is
        taken here is given with an underscore (`dtype_`).
        """
        return self.ops(op_type, *inputs, dtypes=(dtype,), shapes=(shape,), domain=domain, **attributes)[0]

    def ops(
        self,
        op_type: str,
        *inputs: Input,
        dtypes: Sequence[DType | None],
        shapes: Sequence[Sequence[Dim] | None] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> tuple[Tensor, ...]:
        """Append an operation with one result for each entry of `dtypes`."""
        first = _KEY_INPUT.get(op_type, 0)
        tensors = self._inputs(inputs, first)
        key = next((t for t in tensors[first:] if t is not None), None)
        native = key.dtype if key is not None else dtypes[0]
        assert native is not None
        wide = compute_dtype(op_type, native, self.widen_floats)
        if wide is not native:
            widened = [self.cast(t, wide) if t is not None and t.dtype is native else t for t in tensors[first:]]
            tensors = [*tensors[:first], *widened]
        outputs = []
        for index, dtype in enumerate(dtypes):
            shape = None if shapes is None else shapes[index]
            if shape is None and op_type in ELEMENTWISE:
                shape = _broadcast(tensors)
            outputs.append(Tensor(wide if dtype is None else dtype, None if shape is None else tuple(shape)))
        kept = {name.rstrip("_"): value for name, value in attributes.items() if value is not None}
        self.body.operations.append(Operation(op_type, tensors, outputs, kept, domain, self.origin))
        if wide is native:
            return tuple(outputs)
        wanted = [native if dtype is None else dtype for dtype in dtypes]
        return tuple(self.cast(t, dtype) for t, dtype in zip(outputs, wanted))

    def _inputs(self, inputs: Sequence[Input], key: int) -> list[Tensor | None]:
        dtype = next((i.dtype for i in inputs[key:] if isinstance(i, Tensor)), None)
        return [i if i is None or isinstance(i, Tensor) else self._literal(i, dtype) for i in inputs]

    def _literal(self, value: Any, dtype: DType | None) -> Tensor:
        if isinstance(value, tuple | list):
            return self.sizes.vector(value)
        assert dtype is not None, "a number needs a tensor beside it that says its type"
        return self.scalar(value, dtype)

    def cast(self, x: Tensor, dtype: DType) -> Tensor:
        """Convert to `dtype`; numbers outside of an integer's range wrap as in PyTorch."""
        if x.dtype is dtype:
            return x
        if x.data is not None and x.data.numel() <= 1024:
            return self.constant(x.data.to(dtype.torch))
        from graphopt.ops.onnx_dtypes import ONNX_CODES

        out = Tensor(dtype, x.shape)
        self.body.operations.append(Operation("Cast", [x], [out], {"to": ONNX_CODES[dtype]}, "", self.origin))
        return out

    # Constants

    def scalar(self, value: bool | int | float | Dim, dtype: DType) -> Tensor:
        """A tensor without dims."""
        if isinstance(value, Expr):
            return self.cast(self.op("Squeeze", self.sizes.dim(value), [0], shape=()), dtype)
        return self._small(value, dtype, ())

    def ints(self, values: Sequence[int]) -> Tensor:
        """A vector of i64."""
        return self._small(tuple(values), DType.I64, (len(values),))

    def _small(self, value: Any, dtype: DType, shape: tuple[int, ...]) -> Tensor:
        key = (dtype, shape, value, math.copysign(1.0, value) if isinstance(value, float) else None)
        found = self._constants.get(key)
        if found is None or value != value:
            found = self.constant(torch.tensor(value, dtype=dtype.torch).reshape(shape))
            self._constants[key] = found
        return found

    def constant(self, data: torch.Tensor, name: str = "constant") -> Tensor:
        """An initializer."""
        return Tensor(from_torch(data.dtype), tuple(data.shape), name, data)

    def derived(self, source: Tensor, key: Any, compute: Any) -> Tensor:
        """An initializer computed from another one, made once for each (source, key). A view costs nothing until it
        is written."""
        found = self._derived.get((source, key))
        if found is None:
            assert source.data is not None
            with torch.no_grad():
                data = compute(source.data.detach())
            found = self.constant(data, f"{source.name}_{key}")
            self._derived[source, key] = found
        return found

    def fresh_dim(self, name: str) -> Dim:
        """A size that no type names; an operation's result must be recorded to tell it."""
        self._fresh += 1
        return symbol(f"{name}_{self._fresh}")

    def once(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        """What `make` builds, made once and visible in this body and those inside it."""
        found = self.made(key)
        if found is None:
            found = self.body.made[key] = make()
        return found

    def made(self, key: Any) -> Tensor | None:
        """What was made under a key, if it is visible here."""
        return next((body.made[key] for body in self.body.chain() if key in body.made), None)

    # Values and bodies

    def bind(self, value: Value, tensor: Tensor) -> None:
        """Say which tensor an IR value is."""
        if not tensor.name:
            if isinstance(value.type, TensorType):
                tensor.shape = value.type.shape
            tensor.name = value.name or ("" if value.producer is None else value.producer.op.name.split(".")[1])
        self.body.values[value] = tensor
        if tensor.shape not in self._seen or self.body.parent is not None:
            self.body.record_shape(tensor, value.is_input)
            if tensor.shape is not None:
                self._seen.add(tensor.shape)

    def tensor(self, value: Value) -> Tensor:
        """The tensor of an IR value."""
        for body in self.body.chain():
            found = body.values.get(value)
            if found is not None:
                return found
        assert value.constant is not None, f"{value!r} is used before it is defined"
        found = self._stored.get(id(value.constant))  # regions share the constants that they use with the graph around
        if found is None:
            tensor = value.constant.tensor
            dtype = value.type.dtype if isinstance(value.type, TensorType) else from_torch(tensor.dtype)
            found = self._stored[id(value.constant)] = Tensor(dtype, tuple(tensor.shape), value.name, tensor)
        self.root.values[value] = found
        return found

    @property
    def root(self) -> Body:
        """The outermost body."""
        return list(self.body.chain())[-1]

    @contextmanager
    def inside(self, name: str) -> Iterator[Body]:
        """Build a subgraph."""
        body = Body(name, self.body)
        self.body = body
        try:
            yield body
        finally:
            assert body.parent is not None
            self.body = body.parent


def _broadcast(tensors: Sequence[Tensor | None]) -> tuple[Dim, ...] | None:
    shapes = [t.shape for t in tensors if t is not None]
    known = [shape for shape in shapes if shape is not None]
    return broadcast_shape(*known) if len(known) == len(shapes) else None
