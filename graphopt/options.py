"""The options of `graphopt.compile`, resolved and checked once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from graphopt.errors import GraphOptError, unknown_name
from graphopt.passmanager import Pass
from graphopt.targets import Target, get_target

Validate = Literal["each", "end"] | bool
OnFailure = Literal["rollback", "raise"]


@dataclass(frozen=True)
class CompileOptions:
    """See `graphopt.compile` for the meaning of each field."""

    target: Target
    passes: str | Sequence[Pass] = "default"
    engines: tuple[str, ...] = ()
    dynamic_shapes: Any = None
    trainable: bool = False
    validate: Validate = "each"
    on_failure: OnFailure = "rollback"
    budget: float | None = None
    calibration: Iterable[Any] | None = None
    opset: int | None = None
    share_weights: bool = False
    instruments: tuple[Any, ...] = field(default=())
    trust: bool = False


def make_options(
    target: str | Target, trainable: bool | None, engines: Sequence[str] | None, **rest: Any
) -> CompileOptions:
    """Resolve the target and check the choices.

    Raises:
        UnknownNameError: an unknown target.
        GraphOptError: a value that an option does not take.
    """
    resolved = get_target(target)
    for name, allowed in (("validate", ("each", "end", True, False)), ("on_failure", ("rollback", "raise"))):
        if rest[name] not in allowed:
            if isinstance(rest[name], str):
                raise unknown_name(f"value of {name}", rest[name], [a for a in allowed if isinstance(a, str)])
            raise GraphOptError(f"{name} takes one of {allowed}, got {rest[name]!r}")
    if engines and not resolved.engines:
        raise GraphOptError(f"target {resolved.name!r} runs no engine; leave engines out, or use target='cpu'")
    rest["instruments"] = tuple(rest["instruments"])
    return CompileOptions(
        target=resolved,
        engines=tuple(engines or resolved.engines),
        trainable=resolved.trainable if trainable is None else trainable,
        **rest,
    )
