"""Type inference for any operator: run it on fake tensors, with the IR's symbols as symbolic sizes.

PyTorch decides questions about a symbolic size (is it 1? does it divide?) by an example size, its hint, and notes
a guard. Precautions keep that from becoming a wrong type: hints are distinct and differ from the sizes in the call;
where guards were noted, a second run with other hints must give the same shapes; and where it does not, or a guard
fixed a symbol to its hint, sizes are learnt from runs at several numbers instead (see `examples`).

A size that depends on data, or on symbols in a way that was not found, comes back as a placeholder symbol; see
`graphopt.ir.fresh`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch

from graphopt.errors import GraphOptError, TypeInferenceError
from graphopt.ir import Call, Expr, ScalarKind, ScalarType, Symbol, TensorType, Type, from_torch
from graphopt.ir.dims import Dim, evaluate, from_symbol, symbols_of
from graphopt.ir.fresh import placeholder
from graphopt.ir.infer import refusal
from graphopt.ir.types import type_symbols
from graphopt.ops.examples import agree, at_sizes, examples, fit, hints
from graphopt.ops.quiet import quiet
from graphopt.ops.schema import torch_arguments
from graphopt.ops.sympy_bridge import dim_from_sympy

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


def infer_by_fake(call: Call) -> tuple[Type, ...]:
    """Return the result types of `call` by running its PyTorch overload on fake tensors.

    Devices are the IR's: the run itself is on CPU fakes, and results take the device of the operands (or of the
    `device` attribute).

    Raises:
        TypeInferenceError: PyTorch refuses the call.
    """
    symbols = _symbols(call)
    if symbols:
        return _of_schema(call) or _symbolic(call, symbols)
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

    try:
        return _static(call)
    except (DataDependentOutputException, DynamicOutputShapeException):
        return _of_schema(call) or _symbolic(call, ())


def _of_schema(call: Call) -> tuple[Type, ...]:
    """The result types if they are Python floats or bools whatever the operands, else nothing."""
    schema = getattr(call.op.evaluate, "_schema", None)
    kinds = [] if schema is None else [_SCALARS.get(str(r.type)) for r in schema.returns]
    return () if None in kinds else tuple([ScalarType(kind) for kind in kinds if kind is not None])


_SCALARS = {"bool": ScalarKind.BOOL, "float": ScalarKind.FLOAT}


def _static(call: Call) -> tuple[Type, ...]:
    with _mode(None), _explained(call, None):
        operands = [None if t is None else _empty(t, lambda d: evaluate(d, {})) for t in call.operand_types]
        result = _run(call, operands, lambda e: evaluate(e, {}))
    return _types(call, result, {}, None)


def _symbolic(call: Call, symbols: tuple[Symbol, ...]) -> tuple[Type, ...]:
    try:
        types, guarded = _first_run(call, symbols)
    except _Specialized:
        return _from_examples(call, symbols)
    if guarded:
        try:
            others, _ = _symbolic_run(call, symbols, hints(call, symbols, 3))
        except TypeInferenceError:
            return types  # too small for a kernel or window: says nothing about the sizes that fit
        except _Specialized:
            return _from_examples(call, symbols)
        if not _same(types, others):
            return _from_examples(call, symbols)
    return types


def _first_run(call: Call, symbols: tuple[Symbol, ...]) -> tuple[tuple[Type, ...], bool]:
    try:
        return _symbolic_run(call, symbols, hints(call, symbols, 19))
    except TypeInferenceError as error:
        try:  # an operator may want one size to be no larger than another
            return _symbolic_run(call, symbols, hints(call, symbols[::-1], 19))
        except TypeInferenceError:
            raise error from None


class _Specialized(Exception):
    """PyTorch fixed a symbol to its hint."""


def _from_examples(call: Call, symbols: tuple[Symbol, ...]) -> tuple[Type, ...]:
    """Result types whose sizes are fitted to runs at numbers."""
    found: list[tuple[Mapping[str, int], tuple[Type, ...]]] = []
    refused: TypeInferenceError | None = None
    for sizes in examples(call, symbols):
        try:
            found.append((sizes, infer_by_fake(at_sizes(call, sizes))))
        except TypeInferenceError as error:
            refused = error
    if refused is not None and len(found) < 3:
        raise refused
    sizes_of_runs, runs = zip(*found)
    if len({len(run) for run in runs}) > 1:
        raise TypeInferenceError(refusal(call, "the number of results depends on the sizes of its symbols"))
    unknown = count()
    return tuple([_fitted(call, symbols, sizes_of_runs, types, unknown) for types in zip(*runs)])


def _fitted(
    call: Call,
    symbols: tuple[Symbol, ...],
    sizes: tuple[Mapping[str, int], ...],
    types: tuple[Type, ...],
    unknown: Iterator[int],
) -> Type:
    first = types[0]
    if not isinstance(first, TensorType):
        return ScalarType(first.kind) if isinstance(first, ScalarType) else first
    if any(not isinstance(t, TensorType) or t.rank != first.rank for t in types):
        raise TypeInferenceError(refusal(call, "the rank of a result depends on the sizes of its symbols"))
    shape = []
    for dims in zip(*[t.shape for t in types]):  # type: ignore[union-attr]
        dim = fit(symbols, sizes, dims) if all(isinstance(d, int) for d in dims) else None
        shape.append(placeholder(next(unknown)) if dim is None else dim)
    return first.with_shape(tuple(shape))


def _same(types: tuple[Type, ...], others: tuple[Type, ...]) -> bool:
    """True if two runs gave the same types, perhaps written otherwise."""
    if len(types) != len(others):
        return False
    for one, other in zip(types, others):
        if not isinstance(one, TensorType) or not isinstance(other, TensorType):
            continue
        if one.rank != other.rank or not all(a == b or agree(a, b) for a, b in zip(one.shape, other.shape)):
            return False
    return True


def _symbolic_run(
    call: Call, symbols: tuple[Symbol, ...], sizes_of: Mapping[str, int]
) -> tuple[tuple[Type, ...], bool]:
    """The result types, and whether PyTorch noted guards on the symbols."""
    from torch._dynamo.source import ConstantSource
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
    from torch.utils._sympy.numbers import int_oo
    from torch.utils._sympy.value_ranges import ValueRanges

    env = ShapeEnv()
    sizes: dict[str, Any] = {}
    names: dict[str, Dim] = {}
    for sym in symbols:
        hint, source = sizes_of[sym.name], ConstantSource(f"__{sym.name}")
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
            raise _Specialized
    return _types(call, result, names, env), bool(env.guards)


def _mode(env: Any) -> Any:
    """A fake-tensor mode without PyTorch's cache, which can answer a second call otherwise than the first."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode(shape_env=env, allow_non_fake_inputs=False)
    mode.cache_enabled = False
    return mode


@contextmanager
def _explained(call: Call, names: Mapping[str, Dim] | None) -> Iterator[None]:
    """Turn PyTorch's refusal into ours, with the IR's names for symbols; keep its log quiet meanwhile.

    That a result depends on data is passed on where there are no symbols to say it with (`names` is None).
    """
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

    try:
        with quiet("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes"), torch.no_grad():
            yield
    except GraphOptError:
        raise
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        if names is None:
            raise
        raise TypeInferenceError(refusal(call, f"{error.func} depends on data")) from error
    except Exception as error:  # whatever a meta function raises is its way of refusing
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = re.sub(r"\b[a-z]+\d+\b", lambda m: str((names or {}).get(m.group(), m.group())), lines[0])
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
        return torch.empty([size(d) for d in type_.shape], dtype=type_.dtype.storage)
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
            number = sum(1 for known in names.values() if isinstance(known, Expr) and str(known).startswith('"?'))
            names[str(free)] = placeholder(number, *_range(env, free))
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
