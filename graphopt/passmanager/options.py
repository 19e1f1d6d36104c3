"""Options of passes: which there are, and the conversion of text values by a field's annotation."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from graphopt.errors import unknown_name
from graphopt.passmanager.base import FunctionPass, Pass

REQUIRED: Any = dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a pass: its annotation, and its default (`REQUIRED` if there is none)."""

    name: str
    annotation: Any
    default: Any = REQUIRED


def options_of(factory: Any) -> dict[str, Option]:
    """Return the options of a pass class, pass, or function that makes one."""
    if isinstance(factory, FunctionPass):
        return _of_parameters(factory.function, factory.option_parameters())
    if isinstance(factory, Pass):
        return {}
    if isinstance(factory, type) and dataclasses.is_dataclass(factory):
        hints = _hints(factory)
        found = [f for f in dataclasses.fields(factory) if f.init and f.repr]
        return {f.name: Option(f.name, hints.get(f.name, Any), _default(f)) for f in found}
    return _of_parameters(factory, inspect.signature(factory).parameters)


def check_names(factory: Any, title: str, names: Iterable[str]) -> None:
    """Refuse options that a pass does not have.

    Raises:
        UnknownNameError: the message suggests near names.
    """
    known = options_of(factory)
    for name in names:
        if name not in known:
            has = f"It has {', '.join(known)}." if known else "It has no options."
            raise unknown_name(f"option of {title}", name, known, has)


def _default(f: dataclasses.Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default


def _of_parameters(function: Callable[..., Any], parameters: Mapping[str, inspect.Parameter]) -> dict[str, Option]:
    hints = _hints(function)
    return {
        name: Option(name, hints.get(name, Any), REQUIRED if p.default is p.empty else p.default)
        for name, p in parameters.items()
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    }


def _hints(owner: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(owner)
    except NameError:  # an annotation that is only imported for type checkers
        return {}


def convert(value: Any, annotation: Any) -> Any:
    """Convert a parsed value (None, bool, int, float, str, tuple or dict) to an annotation's type.

    Raises:
        ValueError: the value does not fit; the message says what would.

    >>> convert(1, float), convert((1, 2), tuple[int, ...]), convert("a", Literal["a", "b"])
    (1.0, (1, 2), 'a')
    """
    if annotation is Any or annotation is inspect.Parameter.empty:
        return value
    origin = get_origin(annotation)
    if origin is typing.ClassVar or origin is typing.Annotated or origin is typing.Final:
        return convert(value, get_args(annotation)[0])
    if origin is Literal:
        return _choice(value, get_args(annotation))
    if origin in (Union, types.UnionType):
        return _first(value, get_args(annotation))
    if annotation is None or annotation is type(None):
        return _require(value, value is None, "none")
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _member(value, annotation)
    return _plain(value, origin or annotation, get_args(annotation))


def _plain(value: Any, kind: Any, args: tuple[Any, ...]) -> Any:
    if kind is bool:
        return _require(value, isinstance(value, bool), "true or false")
    if kind is int:
        return _require(value, isinstance(value, int) and not isinstance(value, bool), "an integer")
    if kind is float:
        return float(_require(value, isinstance(value, int | float) and not isinstance(value, bool), "a number"))
    if kind is str:
        return _require(value, isinstance(value, str), "a word or a quoted string")
    if isinstance(kind, type) and issubclass(kind, tuple | list | frozenset | set):
        return kind(_elements(value, kind, args))
    if isinstance(kind, type) and issubclass(kind, dict | Mapping):
        _require(value, isinstance(value, dict), "{name=value, …}")
        key, item = args or (Any, Any)
        return {convert(k, key): convert(v, item) for k, v in value.items()}
    if getattr(kind, "__module__", "") == "collections.abc":
        return tuple(_elements(value, tuple, args[:1]))
    return value


def _elements(value: Any, kind: type, args: tuple[Any, ...]) -> list[Any]:
    items = value if isinstance(value, tuple) else (value,)
    if kind is tuple and args and args[-1] is not Ellipsis and len(args) != 1:
        _require(value, len(items) == len(args), f"{len(args)} values in parentheses")
        return [convert(item, a) for item, a in zip(items, args)]
    element = args[0] if args else Any
    return [convert(item, element) for item in items]


def _first(value: Any, choices: tuple[Any, ...]) -> Any:
    """The first alternative that fits; one of the value's own type is preferred, so that 1 stays an int."""
    ordered = sorted(choices, key=lambda c: c is not type(value))
    reasons = []
    for choice in ordered:
        try:
            return convert(value, choice)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(" or ".join(dict.fromkeys(reasons)))


def _choice(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    raise ValueError(f"takes one of {', '.join(map(str, choices))}")


def _member(value: Any, cls: type[enum.Enum]) -> enum.Enum:
    for member in cls:
        if value == member.value or (isinstance(value, str) and value.lower().replace("-", "_") == member.name.lower()):
            return member
    raise ValueError(f"takes one of {', '.join(member_text(m) for m in cls)}")


def member_text(member: enum.Enum) -> str:
    """The text of an enum member: its value if that is a word, else its name in kebab case."""
    return member.value if isinstance(member.value, str) else member.name.lower().replace("_", "-")


def _require(value: Any, fits: bool, what: str) -> Any:
    if not fits:
        raise ValueError(f"takes {what}")
    return value
