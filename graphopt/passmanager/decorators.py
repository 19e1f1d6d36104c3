"""Rules and passes from functions: enough for a first custom pass.

A rule, and a pass:

    x = var("x")

    @rewrite(aten.relu(aten.relu(x)), contract=Contract.BITWISE)
    def relu_once(x):                       # what the pattern bound, by name
        return aten.relu(x)                 # a value, or operators applied to values

    @pass_(contract=Contract.BITWISE)
    def drop_dropout(graph, rewriter, *, rate=1.0):         # keyword-only parameters are options
        for node in graph: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, overload

from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Value
from graphopt.passmanager.base import FunctionPass, Rewrites, as_pass, kebab_case
from graphopt.passmanager.context import PassContext
from graphopt.rewrite import Contract, Match, Rewriter, Rule
from graphopt.rewrite.pattern import OpPattern
from graphopt.rewrite.rule import Replacement, build

SPECIAL = ("match", "rewriter")


class FunctionRule(Rule):
    """A rule from a function. It can stand wherever a pass can, and be called on a graph."""

    def __init__(
        self, function: Callable[..., Any], patterns: tuple[OpPattern, ...], name: str, contract: Contract
    ) -> None:
        self.function = function
        self.parameters = tuple(inspect.signature(function).parameters)
        self._patterns = patterns
        self._label = name
        self._promise = contract
        self.__doc__ = function.__doc__

    @property
    def patterns(self) -> tuple[OpPattern, ...]:
        return self._patterns

    @property
    def label(self) -> str:
        return self._label

    @property
    def promise(self) -> Contract:
        return self._promise

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        given = {"match": match, "rewriter": rewriter}
        values = [given[n] if n in SPECIAL else match.bindings.get(n) for n in self.parameters]
        made = self.function(*values)
        if made is None:
            return ""
        if isinstance(made, Value | OpPattern | str):
            return _built(made, match, rewriter)
        if isinstance(made, Sequence):
            return [_value(m, match, rewriter) for m in made]
        raise GraphOptError(
            f"rule {self.label!r} returned {made!r}; return a value, an operator applied to values, a list of these, "
            "a reason to decline, or None"
        )

    def as_pass(self) -> Rewrites:
        """A pass of this rule alone."""
        return as_pass(self)

    def __call__(self, graph: Graph, context: PassContext | None = None) -> Graph:
        """Return a rewritten copy of `graph`."""
        return self.as_pass()(graph, context)


def _built(made: Value | OpPattern | str, match: Match, rewriter: Rewriter) -> Replacement:
    return made if isinstance(made, str) else _value(made, match, rewriter)


def _value(made: Any, match: Match, rewriter: Rewriter) -> Value:
    value = build(made, match, rewriter) if isinstance(made, OpPattern) else made
    if not isinstance(value, Value):
        raise GraphOptError(f"{value!r} cannot replace a result; return a value, or an operator applied to values")
    return value


def rewrite(
    *patterns: OpPattern, contract: Contract = Contract.REASSOCIATING, name: str = ""
) -> Callable[[Callable[..., Any]], FunctionRule]:
    """Make a rewrite rule of a function that takes what the pattern bound, by name, and returns the replacement.

    patterns: alternatives; the root is the node to be replaced.
    contract: what the rule promises about numbers. name: by default the function's, in kebab case.

    The function's parameters are names of variables (or of named operators) in the pattern; a name that the match did
    not bind gives None. `rewriter` and `match` give these objects. It returns a value, or operators of `aten` applied
    to values, which are then created; a list of these for several results; a string, the reason, or None to decline.

    >>> from graphopt.ops import parse
    >>> from graphopt.rewrite import aten, var
    >>> x, a, b = var("x"), var("a"), var("b")
    >>> @rewrite(aten.mul(aten.mul(x, a), b))
    ... def merge_factors(x, a, b):
    ...     if not (isinstance(a, float) and isinstance(b, float)):
    ...         return "a factor is no number"
    ...     return aten.mul.Scalar(x, a * b)
    >>> graph = parse('''input %x: f32[8]
    ... %y = aten.mul.Scalar(%x) {other=2.0}
    ... %z = aten.mul.Scalar(%y) {other=3.0}
    ... return %z''')
    >>> print(merge_factors(graph))
    graph main {
      input %x: f32[8]
      %z: f32[8] = aten.mul.Scalar(%x) {other=6.0} @ <- "merge-factors"
      return %z
    }
    """
    if not patterns or not all(isinstance(p, OpPattern) for p in patterns):
        raise GraphOptError(f"@rewrite takes patterns of operators, such as @rewrite(aten.relu(x)), got {patterns!r}")

    def decorate(function: Callable[..., Any]) -> FunctionRule:
        _check_parameters(function, patterns)
        return FunctionRule(function, patterns, name or kebab_case(function.__name__), contract)

    return decorate


def _check_parameters(function: Callable[..., Any], patterns: Sequence[OpPattern]) -> None:
    """Refuse a parameter that no pattern can bind, which would always be None."""
    bound = {n for p in patterns for n in pattern_names(p)}
    for parameter in inspect.signature(function).parameters:
        if parameter not in bound and parameter not in SPECIAL:
            names = ", ".join(sorted(bound)) or "nothing"
            raise GraphOptError(f"{function.__name__} takes {parameter!r}, but its pattern binds {names}")


def pattern_names(pattern: Any) -> set[str]:
    """The names that a pattern may bind."""
    found: set[str] = set()
    name = getattr(pattern, "name", "")
    if isinstance(name, str) and name:
        found.add(name)
    inner = [
        *getattr(pattern, "args", ()),
        *(p for _, p in getattr(pattern, "kwargs", ())),
        *getattr(pattern, "choices", ()),
    ]
    inner += [getattr(pattern, part) for part in ("op", "inner") if hasattr(pattern, part)]
    for part in inner:
        found |= pattern_names(part)
    return found


@overload
def pass_(function: Callable[..., Any], /) -> FunctionPass: ...


@overload
def pass_(
    *, name: str = "", contract: Contract = Contract.REASSOCIATING
) -> Callable[[Callable[..., Any]], FunctionPass]: ...


def pass_(
    function: Callable[..., Any] | None = None, /, *, name: str = "", contract: Contract = Contract.REASSOCIATING
) -> Any:
    """Make a pass of a function `f(graph, rewriter)` that rewrites the graph in place through the rewriter.

    name: by default the function's, in kebab case. contract: what the pass promises about numbers.

    Keyword-only parameters are the pass's options; a parameter `context` gets the `PassContext`. What the function
    returns or yields, if anything, are sentences for the report.

    >>> from graphopt.ops import parse
    >>> @pass_(contract=Contract.BITWISE)
    ... def drop_contiguous(graph, rewriter, *, keep=0):
    ...     for node in graph.nodes[keep:]:
    ...         if node.op.name == "aten.contiguous":
    ...             rewriter.replace(node, [node.operands[0]])
    >>> graph = parse('''input %x: f32[8]
    ... %y = aten.contiguous(%x)
    ... %z = aten.relu(%y)
    ... return %z''')
    >>> print(drop_contiguous(graph))
    graph main {
      input %x: f32[8]
      %z: f32[8] = aten.relu(%x)
      return %z
    }
    >>> drop_contiguous.with_options(keep=1)(graph) is graph
    False
    """

    def decorate(given: Callable[..., Any]) -> FunctionPass:
        _check_pass_parameters(given)
        return FunctionPass(given, name, contract)

    return decorate if function is None else decorate(function)


def _check_pass_parameters(function: Callable[..., Any]) -> None:
    """Refuse a function that cannot be called as a pass is."""
    parameters = inspect.signature(function).parameters.values()
    positional = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY and p.name != "context"]
    undefaulted = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if len(positional) != 2 or [name for name in undefaulted if name != "context"]:
        line = function.__code__.co_firstlineno
        raise GraphOptError(
            f"{function.__name__} ({function.__code__.co_filename}:{line}) takes {inspect.signature(function)}; "
            "a pass takes (graph, rewriter), options after a * with defaults, and context if it needs one"
        )
