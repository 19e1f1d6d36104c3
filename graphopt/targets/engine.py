"""What the pass manager and the API need of an engine. Backends implement it; nothing here names one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from graphopt.ir import Graph


class Executable(Protocol):
    """A loaded graph. State (mutated buffers) lives inside."""

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Run on flat inputs in graph order; return the flat outputs (updates of buffers are applied, not returned)."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Something that runs graphs: PyTorch eager, inductor, ONNX Runtime, …"""

    @property
    def name(self) -> str:
        """The name that targets list it under."""
        ...

    def missing(self) -> str | None:
        """Return why the engine cannot run on this machine and what remedies it, or None."""
        ...

    def unsupported(self, graph: Graph) -> str | None:
        """Return why the engine cannot run this graph, or None."""
        ...

    def load(self, graph: Graph) -> Executable:
        """Emit and load a graph.

        Raises:
            EmissionError: the graph has something that the engine cannot express.
        """
        ...


@runtime_checkable
class Tunable(Engine, Protocol):
    """An engine with settings that are worth trying, and whose measured times are worth keeping.

    packages: the distributions that its times depend on.
    """

    packages: ClassVar[tuple[str, ...]]

    @property
    def settings(self) -> str:
        """What is set otherwise than the engine does by itself, in words; "" for nothing."""
        ...

    def variants(self, graph: Graph) -> Sequence[Engine]:
        """Return the engine in other settings that may suit a graph better."""
        ...


@runtime_checkable
class Neighbourly(Engine, Protocol):
    """An engine whose threads can leave the cores to others."""

    def beside_others(self) -> Engine:
        """Return the engine as it should be where other engines run parts of the same model."""
        ...


@dataclass(frozen=True)
class Kernel:
    """What an engine runs: the name of its operator, and of the values that it reads and gives."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@runtime_checkable
class ShowsKernels(Engine, Protocol):
    """An engine that says what it makes of a graph."""

    def kernels(self, graph: Graph) -> list[Kernel]:
        """Return what runs after the engine's own optimizations. Values keep their names where they are left.

        Raises:
            EmissionError: the graph has something that the engine cannot express.
        """
        ...
