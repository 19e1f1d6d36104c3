"""Every error that graphopt raises on purpose.

Each message is one clear sentence: what is wrong, where, and what to do. Catch `GraphOptError` to catch them all.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class GraphOptError(Exception):
    """The base class of all errors raised by graphopt.

    finding: what is known of a pass that failed (`passmanager.explanation.Finding`), where that is what went wrong.
    requested: what the caller asked of a pass cannot be had; such an error is raised, and never rolled back.
    located: the message already names the node. certain: what cannot be read would run, whatever the
    inputs are.
    """

    finding: Any = None
    requested: bool = False
    located: bool = False
    certain: bool = False


class GraphOptWarning(UserWarning):
    """Something that a user should know of, though the result is right: a pass that was rolled back."""


class ParseError(GraphOptError):
    """Text (IR or pipeline) that does not parse; the message underlines the token."""

    def __init__(self, message: str, text: str = "", position: int = 0) -> None:
        self.text, self.position = text, position
        super().__init__(f"{message}\n{underline(text, position)}" if text else message)


class VerificationError(GraphOptError):
    """A graph that breaks an invariant of the IR."""


class TypeInferenceError(GraphOptError):
    """Operands and attributes for which an operator has no result type."""


class UnknownNameError(GraphOptError):
    """A name (operator, pass, target, option) that nothing is registered under."""


class CaptureError(GraphOptError):
    """A model that cannot be traced into the IR."""


class PassError(GraphOptError):
    """A pass that raised, returned a broken graph, or was put in a wrong order."""


class ValidationError(GraphOptError):
    """A pass whose numbers left the contract that it declares."""


class RuleError(GraphOptError):
    """A rewrite rule that raised; the message names the rule, the node and its origin."""


class RewriteLimitError(GraphOptError):
    """Rules that rewrite without end; the message names the rules that undo each other."""


class EmissionError(GraphOptError):
    """A graph that a backend cannot express."""


class TargetError(GraphOptError):
    """A target, engine or device that is unknown or missing on this machine."""


class InputError(GraphOptError):
    """Arguments that a compiled model cannot take."""


class SerializationError(GraphOptError):
    """A file that cannot be read or written."""


class ServingError(GraphOptError):
    """A request that a server does not take."""


class QueueFullError(ServingError):
    """A server has as many requests waiting as it may; try later."""


class ServerClosedError(ServingError):
    """A request to a server that was closed."""


@contextmanager
def requested() -> Iterator[None]:
    """Blame what the caller asked for, and not the pass, for the errors that are raised on purpose within."""
    try:
        yield
    except GraphOptError as error:
        error.requested = True
        raise


def underline(text: str, position: int) -> str:
    """Return the line of `text` that holds `position`, with a caret below the character."""
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    line = text[start : end if end >= 0 else len(text)]
    number = text.count("\n", 0, position) + 1
    prefix = f"  line {number}: "
    return f"{prefix}{line}\n{' ' * (len(prefix) + position - start)}^"


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> UnknownNameError:
    """Build the error for an unknown name, with the nearest known names."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    suggestion = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return UnknownNameError(f"Unknown {kind} {name!r}.{suggestion}{' ' + hint if hint else ''}")
