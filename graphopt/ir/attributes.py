"""Attributes of a node: an immutable mapping whose equality tells 1, True and 1.0 apart, and 0.0 from -0.0."""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, TypeAlias

from graphopt.ir.dims import Expr, Symbol, symbols_of
from graphopt.ir.dtypes import DType

Attribute: TypeAlias = "None | bool | int | float | complex | str | bytes | Expr | DType | tuple[Attribute, ...]"


class Attributes(Mapping[str, Any]):
    """Named attributes, shared between a node and its clones.

    >>> Attributes({"alpha": 1}) == Attributes({"alpha": True})
    False
    """

    __slots__ = ("_items", "_key", "_hash", "_symbols", "valid_for")

    def __init__(self, items: Mapping[str, Any] | None = None) -> None:
        self._items: dict[str, Any] = dict(items) if items else {}
        self._key: Hashable | None = None
        self._hash: int | None = None
        self._symbols: tuple[Symbol, ...] | None = None
        self.valid_for: object = None  # the operator whose schema the verifier found them to fit

    def __getitem__(self, name: str) -> Any:
        return self._items[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or `default`; faster than the mixin's, which raises and catches."""
        return self._items.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Attributes({self._items!r})"

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Attributes):
            return NotImplemented
        return self.key == other.key

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(self.key)
        return self._hash

    @property
    def key(self) -> Hashable:
        """A hashable key in which every value carries its type."""
        if self._key is None:
            self._key = tuple([(name, attribute_key(self._items[name])) for name in sorted(self._items)])
        return self._key

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """The symbols that the attributes mention, in order of appearance."""
        if self._symbols is None:
            found: dict[Symbol, None] = {}
            for value in self._items.values():
                _collect_symbols(value, found)
            self._symbols = tuple(found)
        return self._symbols

    def updated(self, **changes: Any) -> Attributes:
        """Return a copy with some attributes changed."""
        return Attributes({**self._items, **changes})


EMPTY = Attributes()

_SHARED_LIMIT = 1 << 16
_shared: dict[Hashable, Attributes] = {}


def shared(items: Mapping[str, Any]) -> Attributes:
    """Attributes that are one object wherever they are equal, in the same order: hash, symbols and schema are looked
    at once."""
    key = tuple([(name, attribute_key(value)) for name, value in items.items()])
    found = _shared.get(key)
    if found is None:
        if len(_shared) >= _SHARED_LIMIT:
            _shared.clear()
        found = _shared[key] = Attributes(items)
    return found


def _collect_symbols(value: Any, found: dict[Symbol, None]) -> None:
    if isinstance(value, Expr):
        found.update(dict.fromkeys(symbols_of(value)))
    elif isinstance(value, tuple):
        for item in value:
            _collect_symbols(item, found)


def attribute_key(value: Any) -> Hashable:
    """Return a key under which two attributes are equal only if they are the same value of the same type."""
    kind = type(value)
    if kind is int or kind is bool or kind is str:
        return kind, value
    if kind is float:
        return ("f", struct.pack("<d", value))
    if kind is complex:
        return ("c", struct.pack("<dd", value.real, value.imag))
    if kind is tuple:
        return tuple, tuple([attribute_key(item) for item in value])
    if value is None:
        return None
    return kind, value


def is_of_kind(value: Any, kind: str) -> bool:
    """True if an attribute is of a schema's type, such as `float?` or `int[2]`. Types unknown here take anything."""
    if kind.endswith("?"):
        return value is None or is_of_kind(value, kind[:-1])
    if kind.endswith("]"):
        element = kind[: kind.rindex("[")]
        return isinstance(value, tuple) and all(is_of_kind(item, element) for item in value)
    if kind == "bool" and isinstance(value, str):
        return value == "follow"  # a mode that follows its module
    allowed = _KINDS.get(kind)
    if allowed is None or not isinstance(value, allowed):
        return allowed is None
    return kind not in ("int", "float") or not isinstance(value, bool)


_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int, Expr),
    "float": (float,),
    "bool": (bool,),
    "str": (str,),
    "Scalar": (int, float, complex, Expr),
    "dtype": (DType,),
    "device": (str,),
    "layout": (str,),
    "memory_format": (str,),
}
