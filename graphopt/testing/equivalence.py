"""Whether two implementations compute the same, with float64 as the referee."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from graphopt.analysis import Interpreter
from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Trait, walk
from graphopt.passmanager.compare import (
    distance,
    exact_difference,
    flat,
    form_difference,
    is_inexact,
    special_difference,
    ulp,
    wide,
)
from graphopt.passmanager.guard import interface_difference, new_inexact_constants
from graphopt.passmanager.runner import Runner
from graphopt.passmanager.stability import jumps, rounding
from graphopt.passmanager.validation import Mismatch, Validator
from graphopt.rewrite import Contract
from graphopt.testing.inputs import sample_bindings, sample_inputs

ENGINE_ERRORS = 16.0
ENGINE_ULPS = 64.0
"""An engine fuses and reorders more than a pass: its error may be 16 times the interpreter's own, plus 64 ulp."""

Implementation = Graph | Callable[..., Any]


class Difference(AssertionError):
    """Two implementations that compute different things. `output` is the index of the first that differs, or None."""

    def __init__(self, message: str, output: int | None = None) -> None:
        super().__init__(message)
        self.output = output


def assert_equivalent(
    a: Graph,
    b: Implementation,
    inputs: Sequence[Any] | None = None,
    contract: Contract = Contract.REASSOCIATING,
    *,
    special: bool | None = None,
    seed: int = 0,
) -> None:
    """Hold `b` to `a`.

    b: a graph, held to the contract as the pass manager holds a pass to it; or a module or function that takes the
        inputs of `a` in order and returns its outputs (and perhaps what it updates, behind them), held to 16 times
        the interpreter's own error plus 64 ulp.
    inputs: one set of flat inputs. By default, `sample_inputs` at each of `sample_bindings`: two sizes of every symbol.
    special: also try NaN, infinities and denormals. By default, where the contract is about every value.

    Raises:
        Difference: an AssertionError that names the first output that differs, and by how much.

    >>> from graphopt.ops import parse
    >>> graph = parse('''input %x: f32[N, 4]
    ... %y = relu(%x)
    ... return %y''')
    >>> assert_equivalent(graph, torch.nn.ReLU())
    >>> assert_equivalent(graph, torch.nn.SiLU())
    Traceback (most recent call last):
        ...
    graphopt.testing.equivalence.Difference: output 0: the error 0.278 exceeds 1.53e-05 (the original's own is 0) ...
    """
    exact = contract <= Contract.VALUE_EXACT
    sets = (
        [list(inputs)] if inputs is not None else list(_sample_sets(a, seed, (exact if special is None else special)))
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if isinstance(b, Graph):
            _graphs(a, b, sets, contract)
        else:
            for given in sets:
                _engine(a, b, given)


def _sample_sets(graph: Graph, seed: int, special: bool) -> Iterable[list[Any]]:
    for index, sizes in enumerate(sample_bindings(graph)):
        yield sample_inputs(graph, sizes, seed=seed + index)
        if special:
            yield sample_inputs(graph, sizes, seed=seed + index, special=True)


def _graphs(a: Graph, b: Graph, sets: Sequence[Sequence[Any]], contract: Contract) -> None:
    changed = interface_difference(a, b)
    if changed is not None:
        raise Difference(f"{changed}\nbefore\n{a}\nafter\n{b}")
    try:
        Validator(a, sets).check(b, contract, rounded=new_inexact_constants(a, b))
    except Mismatch as error:
        raise Difference(f"not {contract.label}: {error}\nbefore\n{a}\nafter\n{b}", error.output) from error


def _engine(graph: Graph, run: Callable[..., Any], inputs: Sequence[Any]) -> None:
    count = len(graph.returned)
    random = any(node.op.has(Trait.RANDOM) and node.attributes.get("train", True) is True for node in walk(graph))
    with torch.random.fork_rng(devices=[]) if random else nullcontext():
        before = Interpreter(graph).run(*_copies(inputs))[:count]
        reference = Interpreter(graph, float64=True).run(*_copies(inputs))[:count]
        outputs = outputs_of(run(*_copies(inputs)))
    if len(outputs) not in (len(graph.outputs), count):
        raise Difference(f"{len(outputs)} outputs in place of {len(graph.outputs)}\n{graph}")
    for index, (got, old, want) in enumerate(zip(outputs, before, reference)):
        found = form_difference(old, got)
        if found is None and not random:
            found, gap = _engine_difference(got, old, want)
            if gap is not None and _is_rounding(graph, inputs, index, gap):
                continue
        if found is not None:
            raise Difference(f"output {index}: {found}\ninputs: {_shapes(inputs)}\n{graph}", index)


def _is_rounding(graph: Graph, inputs: Sequence[Any], index: int, gap: torch.Tensor) -> bool:
    """True if the graph itself moves as much by rounding alone: much cancels, or there is a tie."""
    runner = Runner(graph)
    if gap.numel() and gap.max().item() <= ENGINE_ERRORS * rounding(runner, graph, inputs, index):
        return True
    return jumps(runner, graph, inputs, index, gap)


def outputs_of(result: Any) -> list[Any]:
    """The flat outputs of a call."""
    return flat(result if isinstance(result, list | tuple) else [result])


def _engine_difference(got: Any, old: Any, want: Any) -> tuple[str | None, torch.Tensor | None]:
    """What is wrong with an output, and by how much each element breaks the bound, where that may be a tie."""
    if not is_inexact(got):
        message = exact_difference(old, got, bitwise=False)
        gap = (got.double() - old.double()).abs().reshape(-1) if message and isinstance(got, torch.Tensor) else None
        return message, gap
    special = special_difference(got, old, want)
    if special is not None:
        return special, None
    error, own = distance(got, want), distance(old, want)
    allowed = ENGINE_ERRORS * own.max_abs + ENGINE_ULPS * ulp(got) * max(own.scale, error.scale)
    if error.max_abs <= allowed:
        return None, None
    gap = (wide(got) - wide(want)).abs_().nan_to_num_(nan=0.0, posinf=0.0).sub_(allowed).clamp_(min=0)
    own_error = f"the original's own is {own.max_abs:.3g}"
    return f"the error {error.max_abs:.3g} exceeds {allowed:.3g} ({own_error})", gap


def is_finite(graph: Graph, inputs: Sequence[Any]) -> bool:
    """True if every output is free of NaN and infinities in float64; otherwise a comparison says little."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            outputs = Interpreter(graph, float64=True).run(*inputs)
        except GraphOptError:
            return False
    return all(bool(wide(v).isfinite().all()) for v in flat(outputs) if is_inexact(v))


def _copies(inputs: Sequence[Any]) -> list[Any]:
    return [v.clone() if isinstance(v, torch.Tensor) else v for v in inputs]


def _shapes(inputs: Sequence[Any]) -> str:
    return ", ".join(str(list(v.shape)) if isinstance(v, torch.Tensor) else repr(v) for v in inputs) or "no inputs"
