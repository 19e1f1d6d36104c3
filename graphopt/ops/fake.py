"""Type inference for any operator: run it on fake tensors, with the IR's symbols as symbolic sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from graphopt.errors import TypeInferenceError
from graphopt.ir import Call, Expr, ScalarKind, ScalarType, Symbol, TensorType, Type, from_torch, symbol
from graphopt.ir.dims import Dim, evaluate, symbols_of
from graphopt.ops.schema import torch_arguments
from graphopt.ops.sympy_bridge import dim_from_sympy


def infer_by_fake(call: Call) -> tuple[Type, ...]:
    """Return the result types of `call` by running its PyTorch overload on fake tensors.

    Devices are the IR's: the run itself is on CPU fakes, and results take the device of the operands (or of the
    `device` attribute).
    """
    symbols = _symbols(call)
    if not symbols:
        return _static(call)
    return _symbolic(call, symbols)


def _static(call: Call) -> tuple[Type, ...]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=False):
        operands = [None if t is None else _empty(t, lambda d: int(d)) for t in call.operand_types]  # type: ignore[arg-type]
        result = _run(call, operands, lambda e: evaluate(e, {}))
    return _types(call, result, {})


def _symbolic(call: Call, symbols: tuple[Symbol, ...]) -> tuple[Type, ...]:
    from torch._dynamo.source import ConstantSource
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

    env = ShapeEnv()
    sizes: dict[str, Any] = {}
    names: dict[str, Dim] = {}
    for index, sym in enumerate(symbols):
        hint = _hint(sym, index)
        source = ConstantSource(f"__{sym.name}")
        sympy_symbol = env.create_symbol(hint, source, DimDynamic.DYNAMIC, constraint_dim=None, positive=sym.min > 0)
        sizes[sym.name] = env.create_symintnode(sympy_symbol, hint=hint, source=source)
        names[str(sympy_symbol)] = _expr(sym)

    def size(dim: Dim) -> Any:
        return dim if isinstance(dim, int) else evaluate(dim, sizes)

    with FakeTensorMode(shape_env=env, allow_non_fake_inputs=False):
        operands = [None if t is None else _empty(t, size) for t in call.operand_types]
        result = _run(call, operands, size)
    return _types(call, result, names)


def _run(call: Call, operands: list[Any], size: Any) -> Any:
    attributes = {k: ("cpu" if k == "device" and v is not None else v) for k, v in call.attributes.items()}
    args, kwargs = torch_arguments(call.op, operands, attributes, size)
    evaluate_op = call.op.evaluate
    if evaluate_op is None:
        raise TypeInferenceError(f"{call.op.name} has no reference semantics to infer types from")
    with torch.no_grad():
        return evaluate_op(*args, **kwargs)


def _empty(type_: Type, size: Any) -> Any:
    if isinstance(type_, TensorType):
        return torch.empty([size(d) for d in type_.shape], dtype=type_.dtype.torch)
    if isinstance(type_, ScalarType) and type_.value is not None:
        return size(type_.value)
    raise TypeInferenceError(f"no fake value for {type_!r}")


def _types(call: Call, result: Any, names: Mapping[str, Dim]) -> tuple[Type, ...]:
    device = _device(call)
    results = result if isinstance(result, list | tuple) else (result,)
    fresh: dict[str, Dim] = dict(names)
    return tuple(_type(call, r, fresh, device) for r in results)


def _type(call: Call, result: Any, names: dict[str, Dim], device: str) -> Type:
    if isinstance(result, torch.Tensor):
        return TensorType(from_torch(result.dtype), tuple(_dim(d, names) for d in result.shape), device)
    if isinstance(result, bool | torch.SymBool):
        return ScalarType(ScalarKind.BOOL)
    if isinstance(result, int | torch.SymInt):
        return ScalarType(ScalarKind.INT, _dim(result, names))
    if isinstance(result, float | torch.SymFloat):
        return ScalarType(ScalarKind.FLOAT)
    raise TypeInferenceError(f"{call.op.name} returns a {type(result).__name__}, which is not supported")


def _dim(size: Any, names: dict[str, Dim]) -> Dim:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    for free in expression.free_symbols:
        if str(free) not in names:
            names[str(free)] = symbol(str(free))
    return dim_from_sympy(expression, names)


def _device(call: Call) -> str:
    explicit = call.attributes.get("device")
    if explicit is not None:
        return str(explicit)
    for type_ in call.operand_types:
        if isinstance(type_, TensorType):
            return type_.device
    return "cpu"


def _symbols(call: Call) -> tuple[Symbol, ...]:
    from graphopt.ir.types import type_symbols

    found: dict[Symbol, None] = {}
    for type_ in call.operand_types:
        if type_ is not None:
            found.update(dict.fromkeys(type_symbols(type_)))
    for value in call.attributes.values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Expr):
                found.update(dict.fromkeys(symbols_of(item)))
    return tuple(found)


def _hint(sym: Symbol, index: int) -> int:
    """A size in the symbol's range, distinct for each symbol and away from 0 and 1, which PyTorch specialises."""
    step = max(sym.multiple_of, 1)
    low = max(sym.min, 2)
    hint = -(-(low + 16 * (index + 1) + 2 * index + 1) // step) * step
    if sym.max is not None and hint > sym.max:
        hint = max(sym.max // step * step, low)
    return hint


def _expr(sym: Symbol) -> Dim:
    return symbol(sym.name, sym.min, sym.max, sym.multiple_of)


