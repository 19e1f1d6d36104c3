"""Explaining a pass: what it did, what it left alone and why, and where the nodes of the result came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graphopt.compiled import CompiledModel
from graphopt.debugging.explanation import Applied, Candidate, Explanation, NodeHistory
from graphopt.debugging.find import Search, find_nodes
from graphopt.debugging.places import source_line
from graphopt.debugging.runs import Run, kept_history, pipeline_run
from graphopt.debugging.turns import Turns, rule_counts
from graphopt.ir import Graph, Node, Value, walk
from graphopt.passmanager import Pass, Pipeline, RulePass, as_pipeline
from graphopt.passmanager.explains import Explains
from graphopt.passmanager.pipeline import PassLike
from graphopt.pipelines import resolve_passes
from graphopt.rewrite import RuleSet
from graphopt.rewrite.attempts import Attempt, Attempts
from graphopt.targets import get_target


def explain(
    model: Any,
    pass_: PassLike,
    node: str | None = None,
    *,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    passes: Any = None,
    target: str = "cpu",
    trainable: bool | None = None,
    dynamic_shapes: Any = None,
    trust: bool = False,
    **options: Any,
) -> Explanation:
    """Say what a pass did to a model, what it left alone and why, and where each node of the result came from.

    model: a `Graph`; what `graphopt.compile` takes, with `args` and `kwargs`; or a `CompiledModel`.
    pass_: its name (with options, if it isn't part of `passes`), a pass, or a rule.
    node: only this node: its result's name, operator, module or source line (see `find_nodes`).
    passes: the pipeline that runs; the pass is explained on the graph after its last turn there, or at the end if it
        has none. By default the `default` pipeline for a model, and the pass alone for a graph. Of a model that was
        compiled with `instruments=[Provenance()]` the pipeline runs again; of any other the pass runs on what is left.
    options: further options of `PassManager`, such as `validate`.

    For each node that is the root of a rule, the rules are matched again with explanations: how many parts of the
    pattern match, and why the others don't. Of a pass without rules its own words are taken (`Explains`, notes).

    Raises:
        UnknownNameError: no such pass or node; the message suggests near names.
        GraphOptError: whatever capture or the passes raise.

    >>> from graphopt.ops import parse
    >>> from graphopt.passmanager import rewrite
    >>> from graphopt.rewrite import aten, constant, var
    >>> @rewrite(aten.add(var("x"), constant("c")))
    ... def add_constant(x, c):
    ...     return "it is just an example"
    >>> graph = parse('''input %x: f32[2]
    ... %a = aten.mul.Tensor(%x, %x)
    ... %b = aten.add.Tensor(%x, %a)
    ... return %b''')
    >>> print(*explain(graph, add_constant).candidates[0].attempts)
    add-constant (1 of 2 parts match): operand 1 is %a of aten.mul.Tensor, the rule wants a stored tensor
    """
    chosen = get_target(target)
    trains = chosen.trainable if trainable is None else trainable
    wanted = _leaf(resolve_passes(pass_, chosen.name, trains))
    graph, arguments, passes = _source(model, args, kwargs, passes, dynamic_shapes, trust)
    options.setdefault("validate", "each" if arguments is not None else False)
    pipeline = _including(as_pipeline([]) if passes is None else resolve_passes(passes, chosen.name, trains), wanted)
    turns = Turns(wanted.name)
    run = pipeline_run(
        graph, arguments, instruments=[turns], target=chosen.name, passes=pipeline, trainable=trains, **options
    )
    return _Explainer(run, turns, trains, node or "").explanation()


def _source(
    model: Any, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, passes: Any, shapes: Any, trust: bool
) -> tuple[Graph, tuple[tuple[Any, ...], dict[str, Any]] | None, Any]:
    """The graph to start from, the arguments if there are any, and the pipeline."""
    given = None if args is None and kwargs is None else (tuple(args or ()), dict(kwargs or {}))
    if isinstance(model, Graph):
        return model, given, passes
    if isinstance(model, CompiledModel):
        history = kept_history(model)
        if history is None or not history.steps:
            return model.graph, given, passes
        return history.graphs[0], given, model._options.passes if passes is None else passes
    from graphopt.api import trace

    graph = trace(model, *(given or ()), dynamic_shapes=shapes, trust=trust)
    return graph, given, "default" if passes is None else passes


def _leaf(pipeline: Pipeline) -> Pass:
    return next(iter(pipeline.leaves()))


def _including(pipeline: Pipeline, wanted: Pass) -> Pipeline:
    if any(leaf.name == wanted.name for leaf in pipeline.leaves()):
        return pipeline
    return Pipeline((*pipeline.passes, wanted))


class _Explainer:
    """Puts an explanation together from the last turn of a pass."""

    def __init__(self, run: Run, turns: Turns, trainable: bool, wanted: str) -> None:
        self.run = run
        self.turns = turns.turns
        self.trainable = trainable
        self.last = self.turns[-1]
        self.graph = self.last.after
        self.wanted = wanted
        self.search = Search(run, self.last.steps, wanted) if wanted else None
        self.nodes = list(walk(self.graph)) if self.search is None else self.search.nodes

    def explanation(self) -> Explanation:
        """The whole of it."""
        name = self.last.pass_.name
        return Explanation(
            pass_=name,
            where=self._where(),
            node=self.wanted,
            applied=list(self._applied(name)),
            candidates=sorted(self._candidates(), key=lambda c: c.closeness, reverse=True),
            fates=self.search.fates if self.search is not None else [],
            histories=self._histories(),
            rules=rule_counts(self.run.report, name),
            notes=self._notes(),
        )

    def _where(self) -> str:
        kept = self.run.provenance.steps[: self.last.steps]
        return (
            f"the graph after step {len(kept)} ({kept[-1].pass_.name})"
            if kept and kept[-1].pass_
            else "the original graph"
        )

    def _applied(self, name: str) -> Iterator[Applied]:
        wanted = {repr(node) for graph in self.run.graphs for node in find_nodes(graph, self.wanted)}
        for step in self.run.provenance.steps:
            if step.pass_ is None or step.pass_.name != name:
                continue
            for one in step.applications:
                if not self.wanted or one.node in wanted:
                    yield Applied(step.number, one.number, one.rule, one.node, str(one.location))

    def _candidates(self) -> Iterator[Candidate]:
        pass_ = self.last.pass_
        rules = RuleSet(pass_.rules()) if isinstance(pass_, RulePass) else None
        attempts: dict[Graph, Attempts] = {}
        for node in self.nodes:
            assert node.graph is not None
            found: tuple[Attempt, ...] = ()
            if rules is not None:
                if node.graph not in attempts:
                    attempts[node.graph] = Attempts(node.graph, rules, trainable=self.trainable)
                found = tuple(attempts[node.graph].at(node))
            reason = pass_.explain(self.graph, node) if isinstance(pass_, Explains) else None
            if found or reason:
                yield _candidate(node, found, reason or "")

    def _histories(self) -> list[NodeHistory]:
        final, steps = self.run.final, self.run.provenance.steps
        if not self.wanted:
            return [self._history(node) for node in walk(final)]
        found = dict.fromkeys(find_nodes(final, self.wanted))
        for node in self.nodes:
            for value in node.results:
                image: Value | None = value
                for step in steps[self.last.steps :]:
                    image = None if image is None else step.forward(image)
                if image is not None and image.producer is not None:
                    found[image.producer] = None
        return [self._history(node) for node in found]

    def _history(self, node: Node) -> NodeHistory:
        location = node.location
        place = source_line(location)
        name = node.results[0].name if node.results else ""
        if not self.run.provenance.steps:
            return NodeHistory(repr(node), name, place, location.scope, repr(node), (), ())
        history = self.run.provenance.history(node)
        original = repr(history.original) if history.original is not None else ""
        rules = dict.fromkeys(event.rule or event.pass_ for event in history.events)
        return NodeHistory(
            repr(node), name, place, location.scope, original, tuple(map(str, history.events)), tuple(rules)
        )

    def _notes(self) -> list[str]:
        notes = []
        for turn in self.turns:
            record = turn.record
            if record.reason:
                notes.append(f"{record.name} was {record.status.value}: {record.reason}")
            notes += [note for note in record.notes if note not in notes]
        if not isinstance(self.last.pass_, RulePass | Explains):
            notes.append(f"{self.last.pass_.name} is not made of rules and does not explain itself; its notes are all")
        return notes


def _candidate(node: Node, attempts: tuple[Attempt, ...], reason: str) -> Candidate:
    location = node.location
    name = node.results[0].name if node.results else ""
    return Candidate(repr(node), name, node.op.name, source_line(location), location.scope, attempts, reason)
