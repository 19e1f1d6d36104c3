"""`graphopt bisect`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from graphopt.api import trace
from graphopt.commands.judges import Judge
from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Node
from graphopt.model_source import resolve_model
from graphopt.options import CompileOptions, make_options
from graphopt.passmanager import BaseInstrument, Budget, Culprit, Pass, PassContext, PassManager
from graphopt.passmanager.bisection import bisect
from graphopt.passmanager.explanation import Finding, shrink_failure
from graphopt.passmanager.pipeline import as_pipeline
from graphopt.passmanager.pipeline_text import print_pipeline
from graphopt.passmanager.reproducer import Recipe, opt_command, write_reproducer
from graphopt.passmanager.settings import Settings
from graphopt.passmanager.shrink import Case, Shrunk, shrink
from graphopt.program import pass_context
from graphopt.rewrite import Contract

ANY = Budget(max_abs=0.0)
"""A rewrite that is judged bad is shrunk to a graph whose numbers it changes at all."""


@dataclass
class Bisection:
    """What a bisection found.

    found: None if nothing is wrong. steps: passes that ran. applications: `(number, pass, rule, node)` of each.
    """

    title: str
    found: Finding | None = None
    steps: int = 0
    applications: list[tuple[int, str, str, str]] = field(default_factory=list)
    note: str = ""

    def text(self, numbers: bool = False) -> str:
        """What is printed. numbers: list every application."""
        lines = [f"{self.title}; {self.steps} passes made {len(self.applications)} rule applications"]
        if numbers:
            lines += [f"  {number:>5}  {pass_}  {rule}  {node}" for number, pass_, rule, node in self.applications]
        return "\n".join([*lines, str(self.found) if self.found is not None else self.note])


class _Numbers(BaseInstrument):
    """Numbers every rule application over the whole pipeline."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str, str, str]] = []
        self.steps = 0
        self._pass = ""

    def before_pass(self, pass_: Pass, graph: Graph) -> None:
        self._pass = print_pipeline(pass_)
        self.steps += 1

    def allow(self, rule: str, node: Node) -> bool:
        self.found.append((len(self.found) + 1, self._pass, rule, f"{node!r} from {node.location}"))
        return True


def bisect_model(
    text: str,
    *,
    target: str,
    passes: str,
    dynamic_shapes: Any,
    judge: Judge,
    folder: Path,
    trust: bool,
    values: Sequence[str] = (),
) -> Bisection:
    """Find the first rewrite of a model after which it is bad, shrink it, and write a reproducer to `folder`.

    text: names the model. values: inputs of an ONNX file. judge: says what is bad; by default that is whatever breaks
    the promise of a pass.

    Raises:
        GraphOptError: the model is bad before any pass; whatever tracing it or judging it raises.
    """
    options = make_options(target, passes=passes)
    source = resolve_model(text, values, trust=trust).opened(trust)
    graph = trace(source.model, source.args, source.kwargs, dynamic_shapes=dynamic_shapes, trust=trust)
    context = pass_context(graph, options, (source.args, source.kwargs))
    done = Bisection(f"{text}: {len(graph)} nodes")
    if judge.given:
        _judged(done, graph, options, context, judge, folder)
    else:
        _promised(done, graph, options, context, folder)
    return done


def _promised(done: Bisection, graph: Graph, options: CompileOptions, context: PassContext, folder: Path) -> None:
    """Run the pipeline up to the first pass that fails a check."""
    numbers = _Numbers()
    manager = PassManager(
        options.passes, on_failure="raise", on_error="bisect", reproducers=folder, instruments=[numbers]
    )
    try:
        manager.run(graph, context)
    except GraphOptError as error:
        if error.finding is None:
            raise
        done.found = error.finding
    done.steps, done.applications = numbers.steps, numbers.found
    done.note = (
        "every pass keeps its promise on these inputs. If the result is wrong all the same, judge it by what an engine "
        "computes (--engine onnxruntime), or by a function of your own (--check script.py:function)"
    )


def _judged(
    done: Bisection, graph: Graph, options: CompileOptions, context: PassContext, judge: Judge, folder: Path
) -> None:
    """Search for the first pass, and the first application in it, after which the judge complains."""
    complain = judge.complaints(graph, context.samples[0] if context.samples else None)
    numbers = _Numbers()
    manager = PassManager(options.passes, validate=False, on_failure="raise", instruments=[numbers])
    final, _ = manager.run(graph, replace(context, properties=set(context.properties)))
    done.steps, done.applications = numbers.steps, numbers.found
    done.note = f"the result is good: {shlex.join(judge.options)} finds no fault with it"
    message = complain(final)
    if message is None:
        return
    before = complain(graph)
    if before is not None:
        raise GraphOptError(f"the model is bad before any pass has run, so no pass is to blame: {before}")
    culprit = bisect(options.passes, graph, lambda g: complain(g) is not None, context)
    if culprit is None:
        done.note = f"the result is bad ({message}), but no pass made it so when they ran again"
        return
    done.found = _finding(message, culprit, context, judge, folder)


def _finding(message: str, culprit: Culprit, context: PassContext, judge: Judge, folder: Path) -> Finding:
    pass_ = as_pipeline(culprit.pass_).passes[0]
    message = f"{message}\n  since pass {culprit.pass_!r} (step {culprit.step})"
    shrunk, words = _shrunk(pass_, culprit, context, judge)
    graph, inputs = shrunk.case.graph, shrunk.case.inputs
    budget = ANY if pass_.contract is Contract.LOSSY and shrunk.fails and judge.engine is None else None
    recipe = Recipe(pass_, context.target, context.trainable, budget)
    found = Finding(message, "judge", culprit, shrunk)
    path = write_reproducer(folder, graph, recipe, [inputs] if inputs is not None else [], found.fault)
    command = " ".join([opt_command(path, pass_), *([shlex.join(words)] if words else [])])
    return replace(found, path=path, command=command)


def _shrunk(pass_: Pass, culprit: Culprit, context: PassContext, judge: Judge) -> tuple[Shrunk, list[str]]:
    """A small graph that shows the culprit, and the options that judge it.

    An engine can judge any graph. A user's function knows the whole model alone, so a rewrite that it blames is shrunk
    to a graph whose numbers it changes, if it may change numbers.
    """
    samples = list(context.samples)
    inputs = list(samples[0]) if samples else None
    if judge.engine is not None:
        engine = Judge(engine=judge.engine)

        def fails(case: Case) -> bool:
            try:
                complain = engine.complaints(case.graph, case.inputs)
                return complain(case.graph) is None and complain(pass_(case.graph, context)) is not None
            except GraphOptError:
                return False

        return shrink(Case(culprit.before, inputs), culprit.roots, fails), engine.options
    if pass_.contract is Contract.LOSSY:
        shrunk = shrink_failure(pass_, "budget", culprit.before, samples, culprit, context, Settings(budget=ANY))
        if shrunk.fails:
            return shrunk, []
    return Shrunk(Case(culprit.before, inputs), False, 0, 0.0), judge.options
