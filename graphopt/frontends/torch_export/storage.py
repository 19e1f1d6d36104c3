"""Alias tracking: which traced tensors share memory, so that in-place writes become SSA values.

A `Storage` is one piece of memory; its root view holds the whole of it. A `View` is another way to see the same
memory, reached from its parent by a `Step`. Writing to a view writes to its parent through the step's inverse, up to
the root; every other view is then stale, and is made again from the root when it is next read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from graphopt.ir import Value
from graphopt.ir.types import TensorType


class Step(Protocol):
    """How a view is seen from its parent, and how a new value of the view changes the parent."""

    def forward(self, parent: Value) -> Value:
        """Return the view of `parent`."""

    def inverse(self, parent: Callable[[], Value], value: Value) -> Value:
        """Return the parent's new value when the view becomes `value`. `parent()` reads the old one."""


class Storage:
    """One piece of memory. `version` counts the writes."""

    __slots__ = ("version",)

    def __init__(self) -> None:
        self.version = 0


class View:
    """A way to see a storage; its cached value holds for `version`."""

    __slots__ = ("storage", "type", "parent", "step", "value", "version")

    def __init__(
        self, storage: Storage, type_: TensorType, value: Value, parent: View | None = None, step: Step | None = None
    ) -> None:
        self.storage = storage
        self.type = type_
        self.value = value
        self.parent = parent
        self.step = step
        self.version = storage.version

    def read(self) -> Value:
        """Return the current value, made anew from the parent if another view was written since."""
        if self.version != self.storage.version and self.parent is not None and self.step is not None:
            self.value = self.step.forward(self.parent.read())
            self.version = self.storage.version
        return self.value

    def write(self, value: Value) -> None:
        """Make `value` the view's value, and write it through to the root."""
        chain = [(self, value)]
        view = self
        while view.parent is not None and view.step is not None:
            value = view.step.inverse(view.parent.read, value)
            view = view.parent
            chain.append((view, value))
        self.storage.version += 1
        for view, value in chain:
            view.value, view.version = value, self.storage.version


class TensorRef:
    """A tensor object of the traced program. In-place changes of its shape (`t_`, `unsqueeze_`) give it another view.

    differentiable: whether a gradient of the model's parameters could flow through it.
    """

    __slots__ = ("view", "differentiable")

    def __init__(self, view: View, differentiable: bool = False) -> None:
        self.view = view
        self.differentiable = differentiable

    @property
    def type(self) -> TensorType:
        """The tensor's type."""
        return self.view.type

    def read(self) -> Value:
        """The tensor's current value."""
        return self.view.read()
