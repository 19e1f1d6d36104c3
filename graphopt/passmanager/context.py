"""What a pass may ask of its surroundings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.ir import Node
from graphopt.rewrite import Listener
from graphopt.rewrite.driver import Gate
from graphopt.targets import Capability, Engine


@dataclass
class PassContext:
    """The surroundings of a pass: the target, sample inputs, and hooks of the manager.

    target: the name of the target that the graph is compiled for.
    trainable: whether the result is to be trained; batch norms are then left unfolded.
    samples: sets of flat example inputs in graph order, for passes that need data and for numeric validation.
    calibration: an iterable of further inputs for passes that need data, as the caller gave it.
    listeners: told of every mutation. gate: asked before each rule application.
    removable: whether a node without uses may be dropped; None means the driver's own test (a pure operator).
    engine: what will run the result, for passes that measure; None if nothing does.
    features: instruction sets of the device that it will run on; none are those of this machine.
    capabilities: what the target's devices can run, for passes that ask what it does with an operator.
    properties: what is known to hold of the graph ("quantized"); the manager keeps it up to date.
    """

    target: str = "cpu"
    trainable: bool = False
    samples: Sequence[Sequence[Any]] = ()
    calibration: Iterable[Any] | None = None
    listeners: list[Listener] = field(default_factory=list)
    gate: Gate | None = None
    removable: Callable[[Node], bool] | None = None
    engine: Engine | None = None
    features: tuple[str, ...] = ()
    capabilities: tuple[Capability, ...] = ()
    properties: set[str] = field(default_factory=set)
