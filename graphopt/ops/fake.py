"""Type inference for any operator: run it on fake tensors, with the IR's symbols as symbolic sizes.

PyTorch decides questions about a symbolic size (is it 1? does it divide?) by an example size, its hint, and notes
a guard. Three precautions keep that from becoming a wrong type: hints are distinct and differ from the sizes in the
call; a symbol that a guard fixes to one size is an error; and where guards were noted, a second run with other
hints must give the same shapes.

A size that depends on data comes back as a placeholder symbol; see `graphopt.ir.placeholder`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from graphopt.errors import GraphOptError, TypeInferenceError
from graphopt.ir import Call, Expr, ScalarKind, ScalarType, Symbol, TensorType, Type, from_torch
from graphopt.ir.dims import Dim, evaluate, from_symbol, symbols_of
from graphopt.ir.fresh import placeholder
from graphopt.ir.infer import refusal
from graphopt.ir.types import type_symbols
from graphopt.ops.quiet import quiet
from graphopt.ops.schema import torch_arguments
from graphopt.ops.sympy_bridge import dim_from_sympy

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


def infer_by_fake(call: Call) -> tuple[Type, ...]:
    """Return the result types of `call` by running its PyTorch overload on fake tensors.

    Devices are the IR's: the run itself is on CPU fakes, and results take the device of the operands (or of the
    `device` attribute).

    Raises:
        TypeInferenceError: PyTorch refuses the call, or its result type depends on the sizes of symbols.
    """
    symbols = _symbols(call)
    if symbols:
        return _symbolic(call, symbols)
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

    try:
        return _static(call)
    except (DataDependentOutputException, DynamicOutputShapeException):
        return _symbolic(call, ())


def _static(call: Call) -> tuple[Type, ...]:
    with _mode(None), _explained(call, {}):
        operands = [None if t is None else _empty(t, lambda d: evaluate(d, {})) for t in call.operand_types]
        result = _run(call, operands, lambda e: evaluate(e, {}))
    return _types(call, result, {}, None)


def _symbolic(call: Call, symbols: tuple[Symbol, ...]) -> tuple[Type, ...]:
    types, guarded = _symbolic_run(call, symbols, _hints(call, symbols, 19))
    if guarded:
        try:
            others, _ = _symbolic_run(call, symbols, _hints(call, symbols, 3))
        except TypeInferenceError:
            return types  # too small for a kernel or window: says nothing about the sizes that fit
        _require_same(call, types, others)
    return types


def _symbolic_run(call: Call, symbols: tuple[Symbol, ...], hints: Mapping[str, int]) -> tuple[tuple[Type, ...], bool]:
    """The result types, and whether PyTorch noted guards on the symbols."""
    from torch._dynamo.source import ConstantSource
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
    from torch.utils._sympy.numbers import int_oo
    from torch.utils._sympy.value_ranges import ValueRanges

    env = ShapeEnv()
    sizes: dict[str, Any] = {}
    names: dict[str, Dim] = {}
    for sym in symbols:
        hint, source = hints[sym.name], ConstantSource(f"__{sym.name}")
        created = env.create_symbol(hint, source, DimDynamic.DYNAMIC, positive=True if sym.min > 0 else None)
        env.var_to_range[created] = ValueRanges(sym.min, int_oo if sym.max is None else sym.max)
        sizes[sym.name] = env.create_symintnode(created, hint=hint, source=source)
        names[str(created)] = from_symbol(sym)

    def size(dim: Dim) -> Any:
        return dim if isinstance(dim, int) else evaluate(dim, sizes)

    with _mode(env), _explained(call, names):
        operands = [None if t is None else _empty(t, size) for t in call.operand_types]
        result = _run(call, operands, size)
    for created, value in env.replacements.items():
        if str(created) in names and value.is_Integer:
            raise TypeInferenceError(refusal(call, f"it fixes the size {names[str(created)]} to {value}"))
    return _types(call, result, names, env), bool(env.guards)


def _mode(env: Any) -> Any:
    """A fake-tensor mode without PyTorch's cache, which can answer a second call otherwise than the first."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode(shape_env=env, allow_non_fake_inputs=False)
    mode.cache_enabled = False
    return mode


@contextmanager
def _explained(call: Call, names: Mapping[str, Dim]) -> Iterator[None]:
    """Turn PyTorch's refusal into ours, with the IR's names for symbols; keep its log quiet meanwhile."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

    try:
        with quiet("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes"), torch.no_grad():
            yield
    except GraphOptError:
        raise
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        if not names:
            raise
        raise TypeInferenceError(refusal(call, f"{error.func} depends on data")) from error
    except Exception as error:  # whatever a meta function raises is its way of refusing
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = re.sub(r"\b[a-z]+\d+\b", lambda m: str(names.get(m.group(), m.group())), lines[0])
        raise TypeInferenceError(refusal(call, reason)) from error


def _run(call: Call, operands: list[Any], size: Any) -> Any:
    attributes = {k: ("cpu" if k == "device" and v is not None else v) for k, v in call.attributes.items()}
    args, kwargs = torch_arguments(call.op, operands, attributes, size)
    evaluate_op = call.op.evaluate
    if evaluate_op is None:
        raise TypeInferenceError(f"{call.op.name} has no reference semantics to infer types from")
    return evaluate_op(*args, **kwargs)


def _empty(type_: Type, size: Any) -> Any:
    if isinstance(type_, TensorType):
        return torch.empty([size(d) for d in type_.shape], dtype=type_.dtype.torch)
    if isinstance(type_, ScalarType) and type_.value is not None:
        return size(type_.value)
    raise TypeInferenceError(f"no fake value for {type_!r}")


def _types(call: Call, result: Any, names: Mapping[str, Dim], env: Any) -> tuple[Type, ...]:
    device = result_device(call)
    results = result if isinstance(result, list | tuple) else () if result is None else (result,)
    known: dict[str, Dim] = dict(names)
    return tuple(_type(call, r, known, device, env) for r in results)


def _type(call: Call, result: Any, names: dict[str, Dim], device: str, env: Any) -> Type:
    if isinstance(result, torch.Tensor):
        shape = tuple(_dim(d, names, env) for d in result.shape)
        return TensorType(from_torch(result.dtype), shape, device)
    if isinstance(result, bool | torch.SymBool):
        return ScalarType(ScalarKind.BOOL)
    if isinstance(result, int | torch.SymInt):
        return ScalarType(ScalarKind.INT, _dim(result, names, env))
    if isinstance(result, float | torch.SymFloat):
        return ScalarType(ScalarKind.FLOAT)
    raise TypeInferenceError(f"{call.op.name} returns a {type(result).__name__}, which is not supported")


def _dim(size: Any, names: dict[str, Dim], env: Any) -> Dim:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    for free in sorted(expression.free_symbols, key=str):
        if str(free) not in names:
            count = sum(1 for known in names.values() if isinstance(known, Expr) and str(known).startswith('"?'))
            names[str(free)] = placeholder(count, *_range(env, free))
    return dim_from_sympy(expression, names)


def _range(env: Any, free: Any) -> tuple[int, int | None]:
    """The range that PyTorch knows of a data-dependent size."""
    known = env.var_to_range.get(free)
    if known is None:
        return _INT64_MIN, None
    low = int(known.lower) if known.lower.is_Integer else _INT64_MIN
    high = int(known.upper) if known.upper.is_Integer else None
    return low, None if high is not None and high >= _INT64_MAX - 1 else high


def result_device(call: Call) -> str:
    """Where results live: the `device` attribute, else the operands' device (a scalar on the CPU may meet any)."""
    explicit = call.attributes.get("device")
    if explicit is not None:
        return str(explicit)
    for type_ in call.operand_types:
        if isinstance(type_, TensorType) and (type_.shape or type_.device != "cpu"):
            return type_.device
    return "cpu"


def _symbols(call: Call) -> tuple[Symbol, ...]:
    found: dict[Symbol, None] = {}
    for type_ in call.operand_types:
        if type_ is not None:
            found.update(dict.fromkeys(type_symbols(type_)))
    for value in call.attributes.values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Expr):
                found.update(dict.fromkeys(symbols_of(item)))
    return tuple(found)


def _hints(call: Call, symbols: tuple[Symbol, ...], start: int) -> dict[str, int]:
    """An example size for each symbol: within its range, and apart from each other and the sizes in the call.

    Sizes 0 and 1 are avoided, since PyTorch specialises on them.
    """
    taken = {d for t in call.operand_types if isinstance(t, TensorType) for d in t.shape if isinstance(d, int)}
    for value in call.attributes.values():
        taken.update(d for d in (value if isinstance(value, tuple) else (value,)) if type(d) is int)
    hints: dict[str, int] = {}
    for sym in symbols:
        hints[sym.name] = _hint(sym, start + 18 * len(hints), taken)
        taken.add(hints[sym.name])
    return hints


def _hint(sym: Symbol, start: int, taken: set[int]) -> int:
    step = sym.multiple_of
    low = -(-max(sym.min, 2) // step) * step
    first = max(low, -(-(low + start - 2) // step) * step)
    if sym.max is not None and first > sym.max:
        first = low
    candidates = range(first, first + 64 * step, step) if sym.max is None else range(low, sym.max + 1, step)
    for candidate in (first, *candidates):
        if candidate not in taken:
            return candidate
    return first if sym.max is None or first <= sym.max else sym.max // step * step


def _require_same(call: Call, types: tuple[Type, ...], others: tuple[Type, ...]) -> None:
    """Refuse result types that came out differently for other example sizes."""
    if len(types) != len(others):
        raise TypeInferenceError(refusal(call, "the number of results depends on the sizes of its symbols"))
    for one, other in zip(types, others):
        if isinstance(one, TensorType) and isinstance(other, TensorType):
            for a, b in zip(one.shape, other.shape):
                if a != b and not _agree(a, b):
                    raise TypeInferenceError(refusal(call, f"a result's size is {a} or {b} as its symbols vary"))


def _agree(a: Dim, b: Dim) -> bool:
    """Compare at a few sizes: the two runs may write one expression in two ways."""
    symbols = dict.fromkeys((*symbols_of(a), *symbols_of(b)))
    for start in (0, 1, 5, 24):
        values = {s.name: _hint(s, start + 7 * i, set()) for i, s in enumerate(symbols)}
        if evaluate(a, values) != evaluate(b, values):
            return False
    return True
