"""Reading `.pt2` files without running code that they bring along.

`torch.export.load` unpickles parts of an archive, evaluates its size expressions with sympy, and loads compiled
libraries. Each archive is therefore read first, with the same reader: what holds nothing but tensors, JSON and plain
arithmetic is loaded; anything else only with the caller's `trust=True`.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch.export import ExportedProgram

from graphopt.errors import CaptureError
from graphopt.ops.quiet import quiet

_EXPRESSION = re.compile(r"[A-Za-z0-9_ ,()+\-*/<>=!&|~%.]*")
_NAME = re.compile(r"[A-Za-z_]\w*")
_SYMBOL = re.compile(r"z?[a-z]{1,3}\d+")
_QUOTED = re.compile(rf"'({_SYMBOL.pattern}|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)'")
_FUNCTIONS = frozenset(
    {
        *("Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv", "Max", "Min", "ModularIndexing", "Identity", "Abs"),
        *("Symbol", "Integer", "Rational", "Float", "Add", "Mul", "true", "false", "precision"),
        *("integer", "positive", "negative", "nonnegative", "nonpositive", "nonzero", "real", "finite", "even", "odd"),
        *("Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan"),
        *("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "Where", "True", "False", "int_oo", "oo"),
        *("IntTrueDiv", "FloatTrueDiv", "FloatPow", "PowByNatural", "Pow", "floor", "ceiling", "LShift", "RShift"),
        *("ToFloat", "TruncToInt", "TruncToFloat", "RoundToInt", "RoundDecimal", "CeilToInt", "FloorToInt"),
        *(f"OpaqueUnaryFn_{name}" for name in ("sqrt", "exp", "log", "log2", "sin", "cos", "tan", "tanh")),
        *(f"BitwiseFn_bitwise_{name}" for name in ("and", "or", "xor")),
    }
)


def load_archive(path: str | os.PathLike[str], *, trust: bool = False) -> ExportedProgram:
    """Load an exported program.

    Args:
        path: a file written by `torch.export.save`.
        trust: load it even if it holds pickled objects, which can run any code.

    Raises:
        CaptureError: no such file, no such format, or one that needs trust.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise CaptureError(f"there is no file {path!r}")
    reason = None if trust else reason_for_trust(path)
    if reason is not None:
        raise CaptureError(
            f"{path!r} {reason}, and loading it could run any code; "
            "pass trust=True only if you trust where it came from"
        )
    try:
        with quiet("torch.export", "torch.export.pt2_archive._package"):
            return torch.export.load(path)
    except Exception as error:
        raise CaptureError(f"{path!r} is not a program that torch.export.save wrote: {_first_line(error)}") from error


def reason_for_trust(path: str) -> str | None:
    """Return why an archive cannot be loaded without trusting it, or None.

    Raises:
        CaptureError: the file is no archive at all.
    """
    try:
        reader = torch._C.PyTorchFileReader(path)
        names = {name.partition("/")[2] or name for name in reader.get_all_records()} | set(reader.get_all_records())
    except Exception as error:
        raise CaptureError(f"{path!r} is not a .pt2 archive: {_first_line(error)}") from error
    if "archive_format" not in names:
        return "is not in the current .pt2 format"
    for name in sorted(reader.get_all_records()):
        reason = _reason(reader, name)
        if reason is not None:
            return reason
    return None


def _reason(reader: Any, name: str) -> str | None:
    if name.startswith(("data/aotinductor", "data/executorch")):
        return f"holds compiled code ({name})"
    if "custom_obj" in name or "opaque_obj" in name:
        return f"holds a pickled object ({name})"
    if name.endswith(".pt") and not _is_plain(reader.get_record(name)):
        return f"holds pickled objects ({name})"
    if name.endswith("_config.json"):
        return _config_reason(reader, name)
    if name.startswith("models/") and name.endswith(".json"):
        bad = next(_strange_expressions(json.loads(reader.get_record(name))), None)
        return None if bad is None else f"holds a size expression that is not plain arithmetic ({bad[:60]!r})"
    return None


def _config_reason(reader: Any, name: str) -> str | None:
    folder = os.path.dirname(name)
    for payload in json.loads(reader.get_record(name)).get("config", {}).values():
        record = f"{folder}/{payload['path_name']}"
        if payload.get("use_pickle") and not _is_plain(reader.get_record(record)):
            return f"holds pickled objects ({record})"
    return None


def _is_plain(data: bytes) -> bool:
    """True if a pickle holds only tensors and plain containers: the restricted unpickler takes it."""
    if not data:
        return True
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception:
        return False
    return True


def _strange_expressions(item: Any) -> Iterator[str]:
    if isinstance(item, dict):
        for key, value in item.items():
            if key == "expr_str" and not _is_arithmetic(value):
                yield str(value)
            else:
                yield from _strange_expressions(value)
    elif isinstance(item, list):
        for value in item:
            yield from _strange_expressions(value)


def _is_arithmetic(expression: Any) -> bool:
    """True for numbers, size symbols, operators and the arithmetic functions that PyTorch writes."""
    if not isinstance(expression, str):
        return False
    expression = _QUOTED.sub(r"\1", expression)
    if not _EXPRESSION.fullmatch(expression) or "__" in expression:
        return False
    if re.search(r"\.\s*[A-Za-z_(]|[A-Za-z_)]\s*\.", expression):
        return False
    return all(_SYMBOL.fullmatch(name) or name in _FUNCTIONS for name in _NAME.findall(expression))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
