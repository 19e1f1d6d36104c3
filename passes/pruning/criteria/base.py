"""The interface of criteria, and the registry of those with a name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeVar

import numpy as np

from graphopt.analysis.channels import Group
from graphopt.errors import GraphOptError, unknown_name
from graphopt.passes.pruning.criteria.evidence import Evidence

Scores = dict[str, np.ndarray]
"""The importance of each channel, by the name of its group: what is least goes first."""

ScoreFunction = Callable[[Group, Evidence], "np.ndarray"]
"""A criterion as a function of one group: an array of `group.size` numbers."""


class Criterion(Protocol):
    """Says how important channels are.

    name: what errors and reports call it. needs: "nothing" but the stored tensors, "data" to run the model on, or
    also a "loss" to differentiate.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> Literal["nothing", "data", "loss"]: ...

    def scores(self, groups: Sequence[Group], evidence: Evidence) -> Scores:
        """Return the scores of each group that the criterion can judge; groups left out are not pruned."""
        ...


@dataclass(frozen=True)
class GroupCriterion:
    """A criterion that looks at one group at a time. A subclass defines `score`."""

    needs: ClassVar[Literal["nothing", "data", "loss"]] = "nothing"

    @property
    def name(self) -> str:
        """The name under which it is registered, else that of the class."""
        return next((n for n, factory in _registered.items() if factory is type(self)), type(self).__name__)

    def score(self, group: Group, evidence: Evidence) -> np.ndarray | None:
        """Return the scores of a group, or None if the criterion cannot judge it."""
        raise NotImplementedError

    def scores(self, groups: Sequence[Group], evidence: Evidence) -> Scores:
        """Return the scores of each group."""
        found = {group.name: self.score(group, evidence) for group in groups}
        return {name: scores for name, scores in found.items() if scores is not None}


@dataclass(frozen=True)
class FunctionCriterion:
    """A criterion from a function `f(group, evidence)`; it gets at data and gradients through the evidence."""

    function: ScoreFunction
    needs: ClassVar[Literal["nothing", "data", "loss"]] = "nothing"

    @property
    def name(self) -> str:
        """The name of the function."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def scores(self, groups: Sequence[Group], evidence: Evidence) -> Scores:
        """Call the function for each group.

        Raises:
            GraphOptError: it does not take a group and evidence, or returns no numbers.
        """
        try:
            inspect.signature(self.function).bind(None, None)
        except TypeError as error:
            raise GraphOptError(f"criterion {self.name!r} is called as f(group, evidence): {error}") from None
        except ValueError:  # a built-in that does not say
            pass
        return {group.name: self._numbers(group, self.function(group, evidence)) for group in groups}

    def _numbers(self, group: Group, given: object) -> np.ndarray:
        try:
            return np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError):
            raise GraphOptError(
                f"criterion {self.name!r} gave {group.name!r} {given!r}; its {group.size} channels need one number each"
            ) from None


Factory = Callable[..., Criterion]
F = TypeVar("F", bound=Factory)

_registered: dict[str, Factory] = {}


def register_criterion(name: str) -> Callable[[F], F]:
    """Register a criterion class, or a function that makes one, under a name; for use as a decorator.

    Raises:
        GraphOptError: the name is taken.
    """

    def add(factory: F) -> F:
        if name in _registered:
            raise GraphOptError(f"criterion {name!r} is registered already; choose another name")
        _registered[name] = factory
        return factory

    return add


def criterion_names() -> tuple[str, ...]:
    """The names of all criteria, sorted."""
    return tuple(sorted(_registered))


def get_criterion(given: str | Criterion | ScoreFunction, **options: object) -> Criterion:
    """Return a criterion by name; a criterion stays as it is, and a function becomes one.

    options: those of the named criterion that it has, such as the seed; others are dropped.

    Raises:
        UnknownNameError: no criterion of that name; the message suggests near ones.
        GraphOptError: neither a name, a criterion nor a function.
    """
    if isinstance(given, str):
        if given not in _registered:
            raise unknown_name("criterion", given, _registered, f"There are {', '.join(criterion_names())}.")
        factory = _registered[given]
        known = getattr(factory, "__dataclass_fields__", {})
        return factory(**{name: value for name, value in options.items() if name in known})
    if hasattr(given, "scores") and hasattr(given, "needs"):
        return given  # type: ignore[return-value]
    if callable(given):
        return FunctionCriterion(given)
    raise GraphOptError(f"a criterion is a name, an object with `scores` and `needs`, or a function, got {given!r}")


def checked(scores: Scores, groups: Iterable[Group], name: str) -> Scores:
    """Hold scores to one finite number a channel.

    Raises:
        GraphOptError: wrong count, NaN or infinite; the message names group and channel.
    """
    for group in groups:
        found = scores.get(group.name)
        if found is None:
            continue
        if found.shape != (group.size,):
            raise GraphOptError(
                f"criterion {name!r} gave {group.name!r} scores of shape {found.shape}; its {group.size} channels need "
                f"one number each"
            )
        bad = np.flatnonzero(~np.isfinite(found))
        if bad.size:
            raise GraphOptError(
                f"criterion {name!r} scored channel {bad[0]} of {group.name!r} as {found[bad[0]]} (and {bad.size - 1} "
                "others); mend the weights or the data, or ignore the group"
            )
    return scores
