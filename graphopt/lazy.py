"""Models captured at the first call, and captured anew for a new kind of arguments."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from graphopt.ambient import autocast_state
from graphopt.errors import CaptureError, InputError
from graphopt.program import Program

MAX_CAPTURES = 8
"""After this many captures, the dims that differ turn dynamic."""

MAX_KEYS = 1024
"""How many sizes are remembered with their program; others are found by trying each capture."""

Build = Callable[[tuple[Any, ...], dict[str, Any], Any], Program]
"""Captures and compiles for `(args, kwargs, dynamic_shapes)`."""
Contents = Callable[[tuple[Any, ...], dict[str, Any]], Hashable]


class _Kind(NamedTuple):
    """What must agree for two calls to share a capture, sizes aside."""

    state: Hashable
    spec: Hashable
    leaves: tuple[Hashable, ...]


class CaptureCache:
    """Finds the program for a call, or builds one.

    A program is found by a key: the structure of the arguments; dtype, rank, device and sizes of each tensor; the
    value of anything else; training and autocast state, and the grad state where the result trains. A lock guards
    building; calls of built programs don't take it. If the model's weights changed between two captures, the older
    captures are dropped, so that all calls run on the same weights.

    trains: whether results carry gradients. dynamic_shapes: as for `graphopt.compile`. contents: of a model with inputs
    whose contents decide shapes, returns those of the ones known so far; its dims are dynamic where it says so.
    """

    def __init__(
        self, build: Build, trains: bool, dynamic_shapes: Any = None, contents: Contents | None = None
    ) -> None:
        self._build = build
        self._trains = trains
        self._dynamic_shapes = dynamic_shapes
        self._contents = contents
        self._programs: dict[Hashable, Program] = {}
        self._captures: list[tuple[_Kind, Program]] = []
        self._seen: dict[Hashable, list[tuple[Any, ...]]] = {}
        self._lock = threading.RLock()

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> Program:
        """Return the program for these arguments.

        Raises:
            CaptureError: the model cannot be captured, or there are too many kinds of arguments.
        """
        kind, sizes = self._key(args, kwargs, training)
        program = self._programs.get((kind, sizes, self._held(args, kwargs)))
        if program is not None:
            return program
        with self._lock:
            program = self._programs.get((kind, sizes, self._held(args, kwargs))) or self._accepting(kind, args, kwargs)
            if program is None:
                program = self._capture(kind, sizes, args, kwargs)
            if len(self._programs) < MAX_KEYS:
                self._programs[kind, sizes, self._held(args, kwargs)] = program
        return program

    def add(self, program: Program) -> None:
        """Take in a program that was captured otherwise. Only for a model that is captured by contents."""
        self._captures.append((_Kind((), None, ()), program))

    def _held(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        return None if self._contents is None else self._contents(args, kwargs)

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> tuple[_Kind, tuple[Any, ...]]:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        # What a file says does not depend on the mode in which it is read.
        state = (
            (training, self._trains and torch.is_grad_enabled(), *autocast_state()) if self._contents is None else ()
        )
        kinds: list[Hashable] = []
        sizes: list[Any] = []
        for leaf in leaves:
            if isinstance(leaf, torch.Tensor):
                kinds.append((leaf.dtype, leaf.dim(), leaf.device))
                sizes.append(tuple(leaf.shape))
            else:
                kinds.append(_guard(leaf))
        return _Kind(state, spec, tuple(kinds)), tuple(sizes)

    def _accepting(self, kind: _Kind, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program | None:
        """A capture that takes these arguments though they were passed otherwise, or have other dynamic sizes."""
        for known, program in self._captures:
            if known.state == kind.state:
                try:
                    program.convention.flatten(args, kwargs)
                except InputError:
                    continue
                return program
        return None

    def _capture(self, kind: _Kind, sizes: tuple[Any, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program:
        self._drop_stale()
        count = len(self._captures)
        if count > MAX_CAPTURES:
            remedy = (
                "pass dynamic_shapes to graphopt.compile, and keep numbers and strings among the arguments constant"
                if self._contents is None
                else "keep the contents of the inputs that decide shapes to few, or compile the model for each"
            )
            raise CaptureError(
                f"the model was captured {count} times, each time for another kind of arguments; {remedy}"
            )
        seen = [*self._seen.get(kind, ()), sizes]
        if count == MAX_CAPTURES and self._dynamic_shapes is None and self._contents is None:
            program = self._build_dynamic(args, kwargs, seen)
        else:
            program = self._build(args, kwargs, self._dynamic_shapes)
        self._seen[kind] = seen
        self._captures.append((kind, program))
        return program

    def _build_dynamic(self, args: tuple[Any, ...], kwargs: dict[str, Any], seen: list[tuple[Any, ...]]) -> Program:
        """Capture with the dims that differed among the calls seen left free."""
        args, kwargs, shapes = _differing(args, kwargs, seen)
        return self._build(args, kwargs, shapes)

    def _drop_stale(self) -> None:
        if any(program.source is not None and program.source.changed for _, program in self._captures):
            self._programs.clear()
            self._captures.clear()
            self._seen.clear()


def _guard(leaf: Any) -> Hashable:
    """The kind of a non-tensor argument. `repr` tells 0.0 from -0.0, and knows NaN again."""
    if isinstance(leaf, float):
        return float, repr(leaf)
    if not isinstance(leaf, Hashable):
        raise InputError(
            f"an argument is a {type(leaf).__name__}, which can be neither traced nor compared between calls; pass "
            "tensors, numbers, strings, or containers of these"
        )
    return type(leaf), leaf


def _differing(
    args: tuple[Any, ...], kwargs: dict[str, Any], seen: list[tuple[Any, ...]]
) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Return arguments to trace with, and the dims that differed as free ones.

    Tracing fixes a size of 0 or 1, so such a dim is repeated to 2.
    """
    from torch.export import Dim, ShapesCollection

    leaves, spec = pytree.tree_flatten((args, kwargs))
    shapes = ShapesCollection()
    position = 0
    for index, leaf in enumerate(leaves):
        if not isinstance(leaf, torch.Tensor):
            continue
        axes = [axis for axis in range(leaf.dim()) if len({sizes[position][axis] for sizes in seen}) > 1]
        leaves[index] = _traceable(leaf, axes)
        if axes:
            shapes[leaves[index]] = dict.fromkeys(axes, Dim.AUTO)
        position += 1
    made_args, made_kwargs = pytree.tree_unflatten(leaves, spec)
    return made_args, made_kwargs, shapes


def _traceable(tensor: torch.Tensor, axes: list[int]) -> torch.Tensor:
    """A tensor object of its own (shapes are collected by object), with no size below 2 along `axes`."""
    made = tensor.detach().view_as(tensor)
    for axis in axes:
        if made.shape[axis] == 1:
            made = made.repeat_interleave(2, axis)
        elif made.shape[axis] == 0:
            made = made.new_zeros([2 if a == axis else size for a, size in enumerate(made.shape)])
    return made
