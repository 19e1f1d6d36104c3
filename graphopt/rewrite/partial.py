"""Partial matches: how much of a pattern a node matches, and what doesn't.

This is the slow path. It matches anew, past the first failure, and says at each one what stands there and what the
rule wants; it finds no failure exactly where `OpPattern.match_node` matches, and binds the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

from graphopt.ir import MISSING, Node, ParamKind, Value
from graphopt.ir.attributes import attribute_key
from graphopt.rewrite.pattern import (
    Either,
    Literal,
    Match,
    Number,
    OpPattern,
    Optional,
    Pattern,
    Produced,
    Stored,
    Var,
    wants_single_use,
)
from graphopt.rewrite.plan import Plan, Step
from graphopt.rewrite.uniform import uniform_value


@dataclass
class Finding:
    """How much of a pattern matched: `matched` of `total` parts. A part is an operator, a number, a stored tensor, a
    single use, or a condition. reasons: why the others did not, in the order of the pattern; none if all of it matches.
    """

    matched: int = 0
    total: int = 0
    reasons: list[str] = field(default_factory=list)

    @property
    def matches(self) -> bool:
        """True if the whole pattern matches."""
        return not self.reasons

    @property
    def closeness(self) -> float:
        """The share of parts that matched, from 0 to 1."""
        return self.matched / self.total if self.total else 1.0

    def part(self, holds: bool, reason: str) -> None:
        """Count a part."""
        self.total += 1
        self.matched += holds
        if not holds:
            self.reasons.append(reason)

    def add(self, other: Finding) -> None:
        """Count the parts of a pattern inside."""
        self.matched += other.matched
        self.total += other.total
        self.reasons += other.reasons


def explain_match(pattern: OpPattern, node: Node, match: Match) -> Finding:
    """Match a node as the root of a pattern, as `pattern.match_node` does, and say what fails.

    >>> from graphopt.ops import parse
    >>> from graphopt.rewrite import Match, aten, var
    >>> graph = parse('''input %x: f32[2]
    ... %y = aten.mul.Tensor(%x, %x)
    ... %z = aten.add.Tensor(%x, %y)
    ... return %z''')
    >>> root = graph.nodes[-1]
    >>> explain_match(aten.add(var("a"), 0), root, Match(root)).reasons
    ['operand 1 is %y of aten.mul.Tensor, the rule wants the number 0']
    """
    return _node(pattern, node, match, is_root=True)


def size(pattern: Pattern) -> int:
    """The number of parts of a pattern."""
    if isinstance(pattern, OpPattern):
        return 1 + pattern.single_use + sum(map(size, (*pattern.args, *(p for _, p in pattern.kwargs))))
    if isinstance(pattern, Produced):
        return 1 + pattern.single_use
    if isinstance(pattern, Var):
        return int(pattern.where is not None)
    if isinstance(pattern, Optional):
        return size(pattern.inner)
    if isinstance(pattern, Either):
        return max(map(size, pattern.choices))
    return 1


@singledispatch
def explain_value(pattern: Pattern, value: Any, match: Match, where: str) -> Finding:
    """Match an operand or attribute, as `pattern.match` does, and say what fails. A new kind of pattern may register
    its own form; without one it is a single part."""
    found = Finding()
    found.part(pattern.match(value, match), _differs(where, value, pattern))
    return found


@explain_value.register
def _(pattern: Var, value: Any, match: Match, where: str) -> Finding:
    found = Finding()
    if pattern.name in match.bindings:
        bound = match.bindings[pattern.name]
        same = bound is value or attribute_key(bound) == attribute_key(value)
        found.part(same, f"{where} is {described(value)}, the rule wants {described(bound)} again")
        return found
    if pattern.where is not None:
        found.part(_accepts(pattern.where, value), f"{where} is {described(value)}, {condition_text(pattern.where)}")
    if found.matches:
        match.bindings[pattern.name] = value
    return found


@explain_value.register
def _(pattern: Number, value: Any, match: Match, where: str) -> Finding:
    found = Finding()
    found.part(pattern.match(value, match), _differs(where, value, pattern) + _why_no_number(value, match))
    return found


@explain_value.register
def _(pattern: Stored, value: Any, match: Match, where: str) -> Finding:
    found = Finding()
    found.part(pattern.match(value, match), _differs(where, value, pattern) + _why_not_fixed(value, match))
    return found


@explain_value.register
def _(pattern: Produced, value: Any, match: Match, where: str) -> Finding:
    found = Finding()
    producer = value.producer if isinstance(value, Value) else None
    if producer is None or producer.op.base not in pattern.bases or value.index:
        return Finding(0, size(pattern), [_differs(where, value, pattern)])
    found.part(True, "")
    if pattern.single_use:
        _single_use(found, value)
    match.bindings[pattern.name] = producer
    match.nodes.append(producer)
    return found


@explain_value.register
def _(pattern: OpPattern, value: Any, match: Match, where: str) -> Finding:
    producer = value.producer if isinstance(value, Value) else None
    if producer is None or pattern.base not in (producer.op.name, producer.op.base):
        return Finding(0, size(pattern), [_differs(where, value, pattern)])
    if value.index != pattern.result:
        wanted = f"{where} is result {value.index} of {producer.op.name}, the rule wants result {pattern.result}"
        return Finding(0, size(pattern), [wanted])
    found = Finding()
    if pattern.single_use:
        _single_use(found, value)
    found.add(_node(pattern, producer, match, is_root=False))
    return found


@explain_value.register
def _(pattern: Optional, value: Any, match: Match, where: str) -> Finding:
    return _best((pattern.inner, pattern.op), (pattern.op, pattern.inner), value, match, where)


@explain_value.register
def _(pattern: Either, value: Any, match: Match, where: str) -> Finding:
    return _best(pattern.choices, pattern.choices, value, match, where)


def _accepts(guard: Callable[[Any], bool], value: Any) -> bool:
    """Ask a guard, which may see here what the parts before it keep from it otherwise."""
    try:
        return bool(guard(value))
    except (AttributeError, TypeError, LookupError, ValueError):
        return False


def _best(preferred: Iterable[Pattern], tried: Iterable[Pattern], value: Any, match: Match, where: str) -> Finding:
    """The first of the patterns tried that matches; else the closest, by preference where several are."""
    mark = match.mark()
    findings: dict[int, Finding] = {}
    for choice in tried:
        found = findings[id(choice)] = explain_value(choice, value, match, where)
        if found.matches:
            return found
        match.reset(mark)
    return max((findings[id(choice)] for choice in preferred), key=lambda f: f.closeness)


def _node(pattern: OpPattern, node: Node, match: Match, *, is_root: bool) -> Finding:
    plan = pattern._planned(node.op)
    if plan is None:
        return Finding(0, size(pattern), [f"{node.op.name} has not the arguments that the rule names"])
    match.nodes.append(node)
    if pattern.name:
        match.bindings[pattern.name] = node
    found = Finding(1, 1)
    suffix = "" if is_root else f" of {_named(node)}"
    found.reasons += _not_default(plan, node, suffix)
    found.add(_arguments(plan, node, match, suffix))
    return found


def _arguments(plan: Plan, node: Node, match: Match, suffix: str) -> Finding:
    """The arguments in the order that matches; else in the one that comes closest."""
    mark = match.mark()
    findings: list[Finding] = []
    for order in plan.orders:
        if findings and plan.alpha and node.attributes.get("alpha", 1) != 1:
            break
        match.reset(mark)
        found = Finding()
        for step in order:
            where = _where(plan, node, step) + suffix
            found.add(explain_value(step.pattern, _argument(plan, node, step), match, where))
        if found.matches:
            return found
        findings.append(found)
    return max(findings, key=lambda f: f.closeness)


def _argument(plan: Plan, node: Node, step: Step) -> Any:
    if step.operand >= 0:
        return node._operands[step.operand] if step.operand < len(node._operands) else None
    attributes: Any = node.arguments() if plan.variadic else node.attributes
    return attributes.get(step.name, step.default)


def _where(plan: Plan, node: Node, step: Step) -> str:
    if step.operand >= 0:
        return f"operand {step.operand}"
    kinds = {param.name: param.kind for param in node.op.params}
    return f"{'attribute' if kinds[step.name] is ParamKind.ATTRIBUTE else 'operand'} {step.name!r}"


def _not_default(plan: Plan, node: Node, suffix: str) -> list[str]:
    """What is given though the pattern does not name it, so that it must have its default."""
    found = []
    for name, default in plan.defaults:
        value = node.attributes.get(name, default)
        if value != default or default is MISSING:
            wanted = "does not name it" if default is MISSING else f"wants {default!r}"
            found.append(f"attribute {name!r}{suffix} is {value!r}, the rule {wanted}")
    for index in plan.absent:
        name = node.op.operand_params[index].name
        if node.arguments()[name]:
            found.append(f"operand {name!r}{suffix} is given, the rule wants none")
    return found


def _single_use(found: Finding, value: Value) -> None:
    uses = value.num_uses
    found.part(uses == 1, wants_single_use(value, uses - 1))


def _differs(where: str, value: Any, pattern: Pattern) -> str:
    return f"{where} is {described(value)}, the rule wants {wanted_text(pattern)}"


def _why_no_number(value: Any, match: Match) -> str:
    if not isinstance(value, Value) or value.constant is None:
        return ""
    if not match.surroundings.is_fixed(value):
        return _why_not_fixed(value, match)
    uniform = uniform_value(value)
    return " (its elements differ)" if uniform is None else f" (it holds {uniform:g})"


def _why_not_fixed(value: Any, match: Match) -> str:
    if not isinstance(value, Value) or value.constant is None:
        return ""
    return " (the graph updates it)" if value.name in match.surroundings.updated else " (it is to be trained)"


def described(value: Any) -> str:
    """What an operand or attribute is, in a few words."""
    if value is None:
        return "none"
    if isinstance(value, Value):
        name = f"%{value.name or '?'}"
        if value.producer is not None:
            return f"{name} of {value.producer.op.name}"
        return f"the input {name}" if value.constant is None else f"the stored tensor {name}"
    return _named(value) if isinstance(value, Node) else repr(value)


def wanted_text(pattern: Pattern) -> str:
    """What a pattern wants, in a few words."""
    if isinstance(pattern, OpPattern):
        return pattern.base
    if isinstance(pattern, Produced):
        return _listed(sorted(pattern.bases))
    if isinstance(pattern, Number):
        return f"the number {pattern.number:g}" + (", rounded" if pattern.rounded else "")
    if isinstance(pattern, Stored):
        return "a stored tensor"
    if isinstance(pattern, Literal):
        return "none" if pattern.value is None else repr(pattern.value)
    if isinstance(pattern, Optional):
        return _listed([wanted_text(pattern.op), wanted_text(pattern.inner)])
    if isinstance(pattern, Either):
        return _listed([wanted_text(choice) for choice in pattern.choices])
    return "any value" if isinstance(pattern, Var) else type(pattern).__name__


def _listed(names: list[str]) -> str:
    if len(names) > 4:
        names = [*names[:3], f"one of {len(names) - 3} others"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def condition_text(condition: Callable[..., Any]) -> str:
    """A condition that is code, by its name or its place."""
    name = getattr(condition, "__name__", "")
    code = getattr(condition, "__code__", None)
    if name and name != "<lambda>":
        return f"which {name.strip('_')!r} refuses"
    return f"which the condition at {code.co_filename}:{code.co_firstlineno} refuses" if code else "which is refused"


def pattern_text(pattern: Any) -> str:
    """A pattern as it is written.

    >>> from graphopt.rewrite import aten, var
    >>> pattern_text(aten.mul(var("x"), aten.sigmoid(var("x")).once))
    'aten.mul(x, aten.sigmoid(x).once)'
    """
    if isinstance(pattern, OpPattern):
        given = [*map(pattern_text, pattern.args), *(["..."] if pattern.rest else [])]
        given += [f"{name}={pattern_text(argument)}" for name, argument in pattern.kwargs]
        return f"{pattern.base}({', '.join(given)}){'.once' if pattern.single_use else ''}"
    if isinstance(pattern, Var | Stored):
        return pattern.name
    if isinstance(pattern, Produced):
        return f"{pattern.name}: {' | '.join(sorted(pattern.bases))}{' once' if pattern.single_use else ''}"
    if isinstance(pattern, Optional):
        return f"optional({pattern_text(pattern.op)})"
    if isinstance(pattern, Either):
        return f"either({', '.join(map(pattern_text, pattern.choices))})"
    if isinstance(pattern, Number):
        return f"{pattern.number:g}"
    return repr(pattern.value) if isinstance(pattern, Literal) else type(pattern).__name__


def _named(node: Node) -> str:
    name = node.results[0].name if node.results else ""
    return f"%{name or '?'} ({node.op.name})"
