"""The options of `graphopt.compile`, resolved and checked once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from graphopt.device_targets import placing_passes, uses_devices
from graphopt.errors import GraphOptError, unknown_name
from graphopt.passmanager import Budget, Pipeline
from graphopt.targets import Target, get_target, target_names

Validate = Literal["each", "end"] | bool
OnFailure = Literal["rollback", "raise"]
OnError = Literal["bisect", "locate", "no"] | None

DYNAMIC_WORDS = ("batch", "auto")
NEWEST_OPERATORS = 23
"""The ONNX opset of the newest operators that passes write for ONNX Runtime; with a lower one the passes are those for
any runtime."""


@dataclass(frozen=True)
class CompileOptions:
    """See `graphopt.compile` for the meaning of each field."""

    target: Target
    passes: Pipeline = field(default_factory=Pipeline)
    engines: tuple[str, ...] = ()
    dynamic_shapes: Any = None
    trainable: bool = False
    validate: Validate = "each"
    on_failure: OnFailure = "rollback"
    on_error: OnError = None
    budget: Budget | None = None
    calibration: Iterable[Any] | None = None
    opset: int | None = None
    share_weights: bool = False
    instruments: tuple[Any, ...] = ()
    reproducers: str | os.PathLike[str] | None = None
    trust: bool = False
    simulate: bool = False


def make_options(
    target: str | Target,
    trainable: bool | None = None,
    engines: Sequence[str] | str | None = None,
    passes: Any = "none",
    budget: float | Budget | None = None,
    **rest: Any,
) -> CompileOptions:
    """Resolve target, passes and budget, and check the choices.

    Raises:
        UnknownNameError: an unknown target, pass, word or choice; the message suggests near names.
        ParseError: malformed pipeline text.
        GraphOptError: a value that an option does not take.
    """
    from graphopt.pipelines import resolve_passes  # imports every pass; `import graphopt` is to stay quick

    if not isinstance(target, str | Target):
        raise GraphOptError(f"target takes a name ({', '.join(target_names())}) or a Target, got {target!r}")
    resolved = get_target(target)
    _check_choices(rest)
    if engines and not resolved.engines:
        raise GraphOptError(f"target {resolved.name!r} runs no engine; leave engines out, or use target='cpu'")
    chosen = (engines,) if isinstance(engines, str) else tuple(engines or resolved.engines)
    trains = resolved.trainable if trainable is None else trainable
    limit = _budget(budget)
    low = (rest.get("opset") or NEWEST_OPERATORS) < NEWEST_OPERATORS
    pipeline = resolve_passes(passes, "onnx" if low and resolved.name == "onnxruntime" else resolved.name, trains)
    if passes == "default" and uses_devices(resolved):
        pipeline = placing_passes(pipeline, resolved, limit)
    return CompileOptions(
        target=resolved,
        passes=pipeline,
        engines=chosen,
        trainable=trains,
        budget=limit,
        **rest,
    )


def check_arguments(args: Any, kwargs: Any) -> None:
    """Hold example inputs to the form that they have in a call.

    Raises:
        GraphOptError: args is no tuple, or kwargs no mapping of names.
    """
    if args is not None and not isinstance(args, tuple | list):
        raise GraphOptError(
            f"args must be a tuple of example inputs, got {type(args).__name__}; write (x,) for one input"
        )
    if kwargs is not None and not (isinstance(kwargs, Mapping) and all(isinstance(name, str) for name in kwargs)):
        raise GraphOptError(f"kwargs must be a mapping of names to example inputs, got {type(kwargs).__name__}")


def check_dynamic(dynamic_shapes: Any) -> None:
    """Hold `dynamic_shapes` to the words that there are, if it is a word.

    Raises:
        UnknownNameError: another word.
        GraphOptError: a number.
    """
    if isinstance(dynamic_shapes, int | float) and not isinstance(dynamic_shapes, bool):
        raise GraphOptError(f"dynamic_shapes cannot be {dynamic_shapes!r}. {_DYNAMIC_HINT}")
    if isinstance(dynamic_shapes, str) and dynamic_shapes not in DYNAMIC_WORDS:
        raise unknown_name("word for dynamic_shapes", dynamic_shapes, DYNAMIC_WORDS, _DYNAMIC_HINT)


_DYNAMIC_HINT = 'Use "batch", "auto", or a specification by argument, as torch.export takes it.'


def _check_choices(options: dict[str, Any]) -> None:
    for name, allowed in (
        ("validate", ("each", "end", True, False)),
        ("on_failure", ("rollback", "raise")),
        ("on_error", (None, "bisect", "locate", "no")),
    ):
        value = options.get(name, allowed[0])
        if any(value is a or (isinstance(a, str) and value == a) for a in allowed):
            continue
        if isinstance(value, str):
            raise unknown_name(f"value of {name}", value, [a for a in allowed if isinstance(a, str)])
        raise GraphOptError(f"{name} takes one of {', '.join(map(repr, allowed))}, got {value!r}")
    opset = options.get("opset")
    if opset is not None and (not isinstance(opset, int) or isinstance(opset, bool)):
        raise GraphOptError(f"opset takes a whole number, got {opset!r}")
    calibration = options.get("calibration")
    if isinstance(calibration, str) or (calibration is not None and not isinstance(calibration, Iterable)):
        raise GraphOptError(f"calibration takes batches, in a list or a data loader, got {calibration!r}")
    check_dynamic(options.get("dynamic_shapes"))
    options["instruments"] = tuple(options.get("instruments", ()))


def _budget(given: Any) -> Budget | None:
    if given is not None and (isinstance(given, bool) or not isinstance(given, int | float | Budget)):
        raise GraphOptError(f"budget takes a number (the largest relative error) or a Budget, got {given!r}")
    return Budget.of(given)
