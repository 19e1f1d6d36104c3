"""Judging a graph otherwise than by the promises of its passes: by a user's function, or by what an engine computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.errors import GraphOptError
from graphopt.ir import Graph
from graphopt.model_source import load_function, user_error

Complain = Callable[[Graph], "str | None"]
"""Returns what is wrong with a graph, or None."""


@dataclass(frozen=True)
class Judge:
    """How graphs are judged. check: `file.py:function`. engine: an engine's text. Neither: by the passes' promises."""

    check: str | None = None
    engine: str | None = None

    @property
    def given(self) -> bool:
        """Whether there is anything to judge by."""
        return self.check is not None or self.engine is not None

    @property
    def options(self) -> list[str]:
        """The options of the command line that say this."""
        words = ["--check", self.check] if self.check is not None else []
        return words + (["--engine", self.engine] if self.engine is not None else [])

    def complaints(self, original: Graph, inputs: Sequence[Any] | None) -> Complain:
        """Return what judges graphs that were made from `original`.

        Raises:
            GraphOptError: there is no such function or engine; an engine needs inputs, and there are none.
        """
        found: list[Complain] = []
        if self.check is not None:
            found.append(_by_function(self.check))
        if self.engine is not None:
            if inputs is None:
                raise GraphOptError("an engine is judged by what it computes, so give the model's inputs")
            found.append(_by_engine(self.engine, original, inputs))
        return lambda graph: next((c for complain in found if (c := complain(graph)) is not None), None)


def _by_function(text: str) -> Complain:
    """The function gets an FX module of the graph, which is called as the model is."""
    function = load_function(text)

    def complain(graph: Graph) -> str | None:
        from graphopt.backends.fx import emit_fx

        module = emit_fx(graph)
        try:
            verdict = function(module)
        except AssertionError as error:
            return f"{text} says: {error}" if str(error) else f"{text} fails an assertion"
        except Exception as error:
            raise user_error(f"calling {text}", error) from error
        return None if verdict is None or bool(verdict) else f"{text} returns {verdict!r}"

    return complain


def _by_engine(text: str, original: Graph, inputs: Sequence[Any]) -> Complain:
    from graphopt.debugging.engines import parse_engines, run_engine
    from graphopt.validation import copies, output_check

    (name, engine), *others = parse_engines(text).items()
    if others:
        raise GraphOptError(f"give one engine to judge by, got {text!r}")
    check = output_check(original, inputs)
    count = len(original.outputs)

    def complain(graph: Graph) -> str | None:
        found = check(run_engine(engine, graph, copies(inputs))[:count])
        return None if found is None else f"{name}: {found}"

    return complain
