"""The proof that one ONNX file computes what another does: both in ONNX Runtime, its own optimizations off (on, they
can hide a fault in both)."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from graphopt.analysis import bind_sizes
from graphopt.errors import GraphOptError
from graphopt.ir import DType, Graph, TensorType, walk
from graphopt.onnx_sessions import FileSession
from graphopt.ops.control_flow import COND
from graphopt.passmanager.compare import (
    distance,
    exact_difference,
    form_difference,
    is_inexact,
    special_difference,
    ulp,
)
from graphopt.passmanager.runner import draws_random
from graphopt.passmanager.samples import variations
from graphopt.validation import ENGINE_FACTOR, ENGINE_ULP, UNREFEREED_ULP

Referee = Callable[[Sequence[Any]], "list[Any] | None"]
"""Returns the outputs in float64, or None where they cannot be had."""


UNSEEN = "which branch of an If runs depends on computed values: branches that no run took are not proven"
SIZES = 2
"""At how many sizes files are compared."""


@dataclass(frozen=True)
class ProofRun:
    """One run of both files. sizes: of the inputs. error, scale: the largest |difference| and |output|.

    problem: what makes the outputs differ beyond rounding, or "".
    """

    sizes: str
    error: float = 0.0
    scale: float = 0.0
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"{self.sizes}: {self.problem}"
        relative = f" ({self.error / self.scale:.1e} of the scale)" if self.error and self.scale else ""
        return f"{self.sizes}: max error {self.error:.1e}{relative}"


@dataclass
class Proof:
    """What the runs showed. reason: why there is none. note: what they leave open."""

    runs: list[ProofRun] = field(default_factory=list)
    reason: str = ""
    note: str = ""

    @property
    def problem(self) -> str:
        """The first difference beyond rounding, or ""."""
        return next((str(run) for run in self.runs if run.problem), "")

    def __str__(self) -> str:
        if not self.runs:
            return f"none: {self.reason}"
        return "\n".join([*map(str, self.runs), *([self.note] if self.note else [])])


def prove(old: Path, new: Path, graph: Graph, samples: Sequence[Any] | None, referee: Referee) -> Proof:
    """Run both files on the samples, on the same with each condition that is an input the other way, and at other
    sizes.

    graph: of the old file; its stored tensors are not looked at. samples: its inputs in order. referee: is asked only
    where the difference is larger than rounding in the last places explains (16 times the old file's own error is
    fine), or where only the old file runs: sizes that are none by the definitions of the operators don't count.
    """
    if samples is None:
        return Proof(reason=_no_inputs(graph))
    if any(map(draws_random, walk(graph))):
        return Proof(reason="the outputs depend on random numbers")
    names = [value.name for value in graph.inputs]
    asked = _conditions(graph)
    turned = [_turned(samples, index) for index in asked.inputs]
    try:
        expected = _expected(old, names, [samples, *turned, *_others(graph, samples)])
    except GraphOptError as error:
        return Proof(reason=str(error))
    gc.collect()  # one file in memory at a time
    session = FileSession(new, optimization="off")
    found: list[ProofRun] = []
    for inputs, want in expected:
        try:
            got = session.run(dict(zip(names, inputs)))
        except GraphOptError as error:
            if referee(inputs) is not None:
                found.append(ProofRun(_sizes(names, inputs), problem=str(error)))
            continue
        found.append(_compared(_sizes(names, inputs), got, want, partial(referee, inputs)))
        if len(found) == SIZES + len(turned):
            break
    return Proof(found, note=UNSEEN if asked.others else "")


class _Conditions(NamedTuple):
    """The inputs that decide which branch runs, by position; and whether something else decides of branches, too."""

    inputs: list[int]
    others: bool


def _conditions(graph: Graph) -> _Conditions:
    position = {value: index for index, value in enumerate(graph.inputs)}
    deciding = [node.operands[0] for node in walk(graph) if node.op is COND]
    inputs = {position[value] for value in deciding if value is not None and value in position}
    return _Conditions(
        sorted(inputs), any(v is not None and v.constant is None and v not in position for v in deciding)
    )


def _turned(samples: Sequence[Any], index: int) -> list[Any]:
    """The samples with one condition the other way."""
    turned = list(samples)
    turned[index] = torch.as_tensor(samples[index]).logical_not()
    return turned


def _no_inputs(graph: Graph) -> str:
    """Why there are no inputs."""
    odd = [v.name for v in graph.inputs if not isinstance(v.type, TensorType) or v.type.dtype is DType.STRING]
    if odd:
        return f"for inputs that are no tensors of numbers ({', '.join(odd)}) none are made up; give them with --value"
    return "no inputs were given, and none were made up on which the model runs; give them with --value"


def _expected(path: Path, names: Sequence[str], sets: Sequence[Sequence[Any]]) -> list[tuple[Sequence[Any], list[Any]]]:
    """Each set of inputs that a file takes, with its outputs.

    Raises:
        GraphOptError: the file cannot be loaded, or does not run on the first set.
    """
    session = FileSession(path, optimization="off")
    found: list[tuple[Sequence[Any], list[Any]]] = []
    for inputs in sets:
        try:
            found.append((inputs, session.run(dict(zip(names, inputs)))))
        except GraphOptError:  # sizes that the model does not take
            if not found:
                raise
    return found


def _others(graph: Graph, samples: Sequence[Any]) -> list[list[Any]]:
    """The samples at other sizes; where no size is free, other numbers."""
    given = bind_sizes(graph.inputs, samples)
    made = list(variations(graph, samples))
    return [inputs for inputs, sizes in sorted(made, key=lambda one: one[1] == given)]


def _sizes(names: Sequence[str], inputs: Sequence[Any]) -> str:
    return ", ".join(_shown(name, x) if isinstance(x, torch.Tensor) else name for name, x in zip(names, inputs))


def _shown(name: str, tensor: torch.Tensor) -> str:
    """An input by its sizes; a condition by its value."""
    if tensor.dtype is torch.bool and tensor.numel() == 1:
        return f"{name}={str(bool(tensor)).lower()}"
    return f"{name}[{', '.join(map(str, tensor.shape))}]"


def _compared(sizes: str, got: Sequence[Any], want: Sequence[Any], referee: Callable[[], list[Any] | None]) -> ProofRun:
    if len(got) != len(want):
        return ProofRun(sizes, problem=f"{len(got)} outputs in place of {len(want)}")
    error = scale = 0.0
    exact: list[Any] | None = None
    for index, (new, old) in enumerate(zip(got, want)):
        problem = form_difference(old, new)
        if problem is None and not is_inexact(old):
            problem = exact_difference(old, new, bitwise=False)
        if problem is None and is_inexact(old):
            problem = special_difference(new, old, old)
            far = distance(new, old)
            error, scale = max(error, far.max_abs), max(scale, far.scale)
            if problem is None and far.max_abs > UNREFEREED_ULP * ulp(old) * far.scale:
                exact = referee() if exact is None else exact
                problem = _beyond_rounding(new, old, None if exact is None else exact[index])
        if problem is not None:
            return ProofRun(sizes, problem=f"output {index}: {problem}")
    return ProofRun(sizes, error, scale)


def _beyond_rounding(new: Any, old: Any, exact: Any) -> str | None:
    far = distance(new, old)
    if exact is None:
        return f"the error is {far.max_abs:.3g} at a scale of {far.scale:.3g}"
    error, own = distance(new, exact), distance(old, exact)
    allowed = ENGINE_FACTOR * own.max_abs + ENGINE_ULP * ulp(old) * max(own.scale, error.scale)
    if error.max_abs <= allowed:
        return None
    return f"the error {error.max_abs:.3g} exceeds {allowed:.3g} (the original's own is {own.max_abs:.3g})"
