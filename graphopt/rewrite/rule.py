"""Rewrite rules, in two forms: a line of algebra, and a class with pattern, check and rewrite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.ir import Value, types_known_equal
from graphopt.rewrite.contract import Contract
from graphopt.rewrite.pattern import Literal, Match, Number, OpPattern, Pattern, Var
from graphopt.rewrite.rewriter import Rewriter

Replacement = Value | Sequence[Value] | str | None
Condition = Callable[[Match], "str | None"]


class Rule:
    """A rule of the second form. A subclass gives `name`, `contract`, `pattern`, `check` and `rewrite`.

    pattern: what the rule matches; its root is the node to be replaced.
    inference_only: whether the rule is left out where the result is to be trained.
    """

    name: ClassVar[str] = ""
    inference_only: ClassVar[bool] = False
    contract: ClassVar[Contract] = Contract.REASSOCIATING
    pattern: ClassVar[OpPattern | tuple[OpPattern, ...]]

    @property
    def patterns(self) -> tuple[OpPattern, ...]:
        """The alternatives of the pattern."""
        return self.pattern if isinstance(self.pattern, tuple) else (self.pattern,)

    @property
    def label(self) -> str:
        """The name in statistics, locations and messages."""
        return self.name or type(self).__name__

    @property
    def promise(self) -> Contract:
        """What the rule promises about numbers."""
        return self.contract

    def guard(self, match: Match) -> bool:
        """A silent part of the pattern, for what its structure cannot say: False is no match at all."""
        return True

    def check(self, match: Match) -> str | None:
        """Return why the rule declines this match ("weight has 2 other uses"), or None to accept it."""
        return None

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Build the replacement of the root's results.

        Returns: a value for each result; None if the graph was changed in place; a string, the reason, to decline after
        all ("" says nothing; what was created is removed again).
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Algebra(Rule):
    """A rule of the first form: `pattern → replacement`.

    replacement: a pattern built from the same variables, or one of them.
    where: a silent condition, part of the pattern. when: a condition that returns a reason to decline, or None.

    >>> from graphopt.rewrite.pattern import aten, var
    >>> x = var("x")
    >>> Algebra("add-zero", aten.add(x, 0), x, Contract.VALUE_EXACT).label
    'add-zero'
    """

    title: str
    left: OpPattern
    right: Pattern
    level: Contract
    when: Condition | None = None
    where: Callable[[Match], bool] | None = None

    @property
    def patterns(self) -> tuple[OpPattern, ...]:
        return (self.left,)

    @property
    def label(self) -> str:
        return self.title

    @property
    def promise(self) -> Contract:
        return self.level

    def guard(self, match: Match) -> bool:
        return self.where is None or self.where(match)

    def check(self, match: Match) -> str | None:
        return self.when(match) if self.when is not None else None

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        result = build(self.right, match, rewriter)
        # In an overload such as `sub.Scalar(x, 2)` a variable may have matched the number.
        return result if isinstance(result, Value) else ""


def build(pattern: Pattern, match: Match, rewriter: Rewriter) -> Any:
    """Create what a replacement describes, from what the match bound."""
    if isinstance(pattern, Var):
        return match[pattern.name]
    if isinstance(pattern, Number):
        return pattern.number
    if isinstance(pattern, Literal):
        return pattern.value
    assert isinstance(pattern, OpPattern)
    args = [build(argument, match, rewriter) for argument in pattern.args]
    kwargs = {name: build(argument, match, rewriter) for name, argument in pattern.kwargs}
    return rewriter.create(pattern.base, *args, **kwargs).results[pattern.result]


def type_reason(old: Sequence[Value], new: Sequence[Value]) -> str | None:
    """Return why `new` cannot stand for `old` (a type is not known to be equal), or None."""
    for before, after in zip(old, new):
        old_type, new_type = before.type, after.type
        if old_type is not new_type and old_type != new_type and not types_known_equal(old_type, new_type):
            return f"the type would change from {before.type!r} to {after.type!r}"
    return None
