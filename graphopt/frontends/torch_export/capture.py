"""The entry point of the PyTorch front end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.export import ExportedProgram

from graphopt.frontends.torch_export.program import import_program
from graphopt.frontends.torch_export.training import modes_of, traced_in_eval
from graphopt.ir import Graph


def capture(
    model: Any,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
) -> Graph:
    """Capture a model."""
    if isinstance(model, ExportedProgram):
        return import_program(model)
    modes = modes_of(model)
    with traced_in_eval(model):
        program = torch.export.export(model, args, dict(kwargs or {}), dynamic_shapes=dynamic_shapes, strict=False)
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    names: dict[int, tuple[str, ...]] = {}
    for name, tensor in tensors.items():
        names[id(tensor)] = (*names.get(id(tensor), ()), name)
    return import_program(program, modes=modes, tensors=tensors, aliases=names)
