"""Inputs of an ONNX file on the command line: `--value NAME=FILE.npy`, `--value shape=1,3,8` or `--value x=[[1,2]]`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from graphopt.errors import GraphOptError

if TYPE_CHECKING:
    import onnx


def parse_values(path: Path, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the inputs that options give, by name, with the element types that the file has for them.

    Raises:
        GraphOptError: there is no such input, or the text is no value for it.
    """
    if not texts:
        return {}
    from graphopt.frontends.onnx import open_onnx

    file = open_onnx(path)
    types = {value.name: value.type.tensor_type for value in file.model.graph.input if value.name in file.inputs}
    found = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or name not in types:
            known = ", ".join(types)
            raise GraphOptError(f"--value takes NAME=VALUE with the name of an input ({known}), got {text!r}")
        found[name] = _tensor(name, value, types[name])
    return found


def _tensor(name: str, text: str, type_: onnx.TypeProto.Tensor) -> torch.Tensor:
    from graphopt.frontends.onnx.tensors import dtype_of

    dtype = dtype_of(type_.elem_type, f"input {name!r}").storage
    data = read_array(name, text) if text.endswith(".npy") else _literal(name, text, type_)
    try:
        tensor = torch.as_tensor(data)
    except (ValueError, TypeError, RuntimeError) as error:
        raise GraphOptError(f"--value {name}={text} is no tensor: {error}") from error
    whole = not (tensor.is_floating_point() or tensor.is_complex())
    if not whole and not (dtype.is_floating_point or dtype.is_complex):
        raise GraphOptError(f"--value {name}={text}: the input takes {dtype}, got {tensor.dtype}")
    return tensor.to(dtype)


def read_array(name: str, text: str) -> Any:
    """Read a `.npy` file that an option names.

    Raises:
        GraphOptError: the file cannot be read.
    """
    import numpy as np

    try:
        return np.load(text, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise GraphOptError(f"--value {name}={text}: the file cannot be read: {error}") from error


def _literal(name: str, text: str, type_: onnx.TypeProto.Tensor) -> Any:
    """Numbers between commas are a vector, or one number where the input has no dims; the rest is JSON."""
    scalar = type_.HasField("shape") and not type_.shape.dim
    plain = text if text.startswith("[") or scalar else f"[{text}]"
    try:
        return json.loads(plain.lower() if plain.lower().strip("[]") in ("true", "false") else plain)
    except ValueError as error:
        raise GraphOptError(
            f"--value {name}={text} is neither a .npy file nor numbers, such as 1,3,8 or [[1,2],[3,4]]"
        ) from error
