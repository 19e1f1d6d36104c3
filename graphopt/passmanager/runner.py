"""Running graphs for validation: in the working precision or in float64, with fixed seeds, and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from graphopt.analysis import Interpreter
from graphopt.analysis.interpreter import Observer
from graphopt.ir import Graph, Node, Trait, Value, walk
from graphopt.passmanager.compare import Distance, distance, flat, is_inexact
from graphopt.passmanager.noise import STEPS, NoisyInterpreter
from graphopt.passmanager.samples import SEED


class Runner:
    """Runs graphs in the interpreter, operands contiguous, and counts the runs.

    random: whether the outputs depend on random numbers; each run then sees the same state of the global generators,
        which are put back afterwards. draws: whether any value inside may.
    """

    def __init__(self, graph: Graph) -> None:
        self.runs = 0
        self.random = self.draws = any(map(draws_random, walk(graph)))
        self.seed = SEED

    def work(self, graph: Graph, inputs: Sequence[Any], observer: Observer | None = None) -> list[Any]:
        """Run in the working precision."""
        return self._run(Interpreter(graph, contiguous=True, observer=observer), inputs)

    def wide(self, graph: Graph, inputs: Sequence[Any], observer: Observer | None = None) -> list[Any]:
        """Run in float64."""
        return self._run(Interpreter(graph, contiguous=True, float64=True, observer=observer), inputs)

    def given(
        self, graph: Graph, inputs: Sequence[Any], given: Mapping[Value, Any], observer: Observer | None = None
    ) -> list[Any]:
        """Run in float64, with the given results of some nodes in place of their own."""
        return self._run(_Given(graph, given, observer), inputs)

    def noisy(
        self,
        graph: Graph,
        inputs: Sequence[Any],
        generator: torch.Generator,
        unit: float | None,
        steps: float = STEPS,
    ) -> list[Any]:
        """Run with random rounding errors of up to `steps` ulp: in float64 if `unit`, the size of an ulp, is given."""
        noisy = NoisyInterpreter(graph, generator, float64=unit is not None, unit=unit, steps=steps)
        return self._run(noisy, inputs)

    def _run(self, interpreter: Interpreter, inputs: Sequence[Any]) -> list[Any]:
        self.runs += 1
        with _Seeded(self.seed, inputs) if self.random else nullcontext():
            return flat(interpreter.run(*inputs))


class _Given(Interpreter):
    """Runs a graph in float64 with some results given; what comes before them no longer matters."""

    def __init__(self, graph: Graph, given: Mapping[Value, Any], observer: Observer | None) -> None:
        super().__init__(graph, contiguous=True, float64=True, observer=observer)
        self.given = given

    def _evaluate(self, node: Node, operands: list[Any], bindings: dict[str, int]) -> Sequence[Any]:
        results = super()._evaluate(node, operands, bindings)
        return [self.given.get(value, result) for value, result in zip(node.results, results)]


def draws_random(node: Node) -> bool:
    """True unless the node draws no random numbers, or is known not to here (dropout in evaluation, or of nothing)."""
    if Trait.RANDOM not in node.op.traits:
        return False
    attributes = node.attributes
    off = any(attributes.get(name) in (False, "follow") for name in ("train", "training"))
    return not off and not any(attributes.get(name) == 0 for name in ("p", "dropout_p"))


class _Seeded(AbstractContextManager[None]):
    """Fixes the global generators of the devices in use, and puts them back."""

    def __init__(self, seed: int, inputs: Sequence[Any]) -> None:
        self.seed = seed
        self._devices = sorted({x.device.index or 0 for x in inputs if isinstance(x, torch.Tensor) and x.is_cuda})
        self._fork = torch.random.fork_rng(devices=self._devices)

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.default_generator.manual_seed(self.seed)
        for device in self._devices:
            torch.cuda.default_generators[device].manual_seed(self.seed)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)


@dataclass
class Baseline:
    """A graph that later ones are held against, with its outputs on each sample set.

    work: in the working precision. reference: in float64, made when first needed; None where the graph cannot run so.
    """

    graph: Graph
    work: list[list[Any]]
    reference: list[list[Any] | None] = field(default_factory=list)
    _own: dict[int, list[Distance | None]] = field(default_factory=dict)

    def own(self, index: int) -> list[Distance | None]:
        """The graph's own error on a set, for each output; None for integers, or without a reference."""
        if index not in self._own:
            reference = self.reference[index]
            work = self.work[index]
            self._own[index] = (
                [None] * len(work)
                if reference is None
                else [distance(w, r) if is_inexact(w) else None for w, r in zip(work, reference)]
            )
        return self._own[index]
