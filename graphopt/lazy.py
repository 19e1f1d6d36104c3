"""Models captured at the first call, and captured anew for a new kind of arguments."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphopt.errors import CaptureError, InputError
from graphopt.ir import from_torch
from graphopt.program import Program

MAX_CAPTURES = 8
"""After this many captures, the dims that differ turn dynamic."""

Build = Callable[[tuple[Any, ...], dict[str, Any], Any], Program]
"""Captures and compiles for `(args, kwargs, dynamic_shapes)`."""


class CaptureCache:
    """Finds the program for a call, or builds one.

    A program is found by a key: the structure of the arguments; dtype, rank, device and sizes of each tensor; the
    value of anything else; training, grad and autocast state. A lock guards building; calls of built programs
    don't take it.
    """

    def __init__(self, build: Build, signature: inspect.Signature, dynamic_shapes: Any = None) -> None:
        self._build = build
        self._signature = signature
        self._dynamic_shapes = dynamic_shapes
        self._programs: dict[Hashable, Program] = {}
        self._captures: list[tuple[Hashable, Program]] = []
        self._seen: dict[Hashable, list[tuple[Any, ...]]] = {}
        self._lock = threading.RLock()

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> Program:
        """Return the program for these arguments.

        Raises:
            CaptureError: the model cannot be captured, or there are too many kinds of arguments.
        """
        kind, sizes = _key(args, kwargs, training)
        key = (kind, sizes)
        program = self._programs.get(key)
        if program is not None:
            return program
        with self._lock:
            program = self._programs.get(key) or self._accepting(kind, args, kwargs)
            if program is None:
                program = self._capture(kind, sizes, args, kwargs)
            self._programs[key] = program
        return program

    def _accepting(self, kind: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program | None:
        for known, program in self._captures:
            if known == kind:
                try:
                    program.convention.flatten(args, kwargs)
                except InputError:
                    continue
                return program
        return None

    def _capture(
        self, kind: Hashable, sizes: tuple[Any, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Program:
        seen = self._seen.setdefault(kind, [])
        seen.append(sizes)
        dynamic = self._dynamic_shapes
        if len(self._captures) > MAX_CAPTURES:
            raise CaptureError(
                f"the model was captured {len(self._captures)} times, each time for another kind of arguments; pass "
                "dynamic_shapes to graphopt.compile, and keep numbers and strings among the arguments constant"
            )
        if len(self._captures) >= MAX_CAPTURES and dynamic is None:
            leaves = pytree.tree_leaves((args, kwargs))
            dynamic = _differing(self._signature.bind(*args, **kwargs), leaves, seen)
        program = self._build(args, kwargs, dynamic)
        self._captures.append((kind, program))
        return program


def _key(args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> tuple[Hashable, tuple[Any, ...]]:
    leaves, spec = pytree.tree_flatten((args, kwargs))
    state = (training, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled())
    kinds: list[Hashable] = []
    sizes: list[Any] = []
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            kinds.append((from_torch(leaf.dtype), leaf.dim(), str(leaf.device)))
            sizes.append(tuple(leaf.shape))
        else:
            kinds.append((type(leaf), leaf if isinstance(leaf, Hashable) else id(leaf)))
    return (spec, state, tuple(kinds)), tuple(sizes)


def _differing(bound: inspect.BoundArguments, leaves: list[Any], seen: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Return a `dynamic_shapes` for torch.export, by parameter name, in which the dims that differed are automatic."""
    from torch.export import Dim

    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    varying = {
        id(tensor): {a: Dim.AUTO for a in range(tensor.dim()) if len({shapes[i][a] for shapes in seen}) > 1}
        for i, tensor in enumerate(tensors)
    }
    return pytree.tree_map(lambda leaf: varying.get(id(leaf)), dict(bound.arguments))
