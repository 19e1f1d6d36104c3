"""Types of values. All are frozen, so nodes, clones and caches share them safely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from graphopt.ir.dims import Dim, Symbol, equal, known_equal, product, substitute, symbols_of
from graphopt.ir.dtypes import DType


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dense tensor: element type, shape (ints or dim expressions) and device.

    >>> TensorType(DType.F32, (2, 3))
    f32[2, 3]
    """

    dtype: DType
    shape: tuple[Dim, ...]
    device: str = "cpu"
    _symbols: tuple[Symbol, ...] | None = field(default=None, init=False, repr=False, compare=False)
    _hash: int | None = field(default=None, init=False, repr=False, compare=False)

    def __hash__(self) -> int:
        if self._hash is None:
            object.__setattr__(self, "_hash", hash((self.dtype, self.shape, self.device)))
        return self._hash  # type: ignore[return-value]

    def __reduce__(self) -> tuple[type[TensorType], tuple[DType, tuple[Dim, ...], str]]:
        return TensorType, (self.dtype, self.shape, self.device)  # hashes differ from process to process

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """The symbols in the shape, in first-seen order."""
        if self._symbols is None:
            found = dict.fromkeys(s for dim in self.shape if not isinstance(dim, int) for s in symbols_of(dim))
            object.__setattr__(self, "_symbols", tuple(found))
        return self._symbols  # type: ignore[return-value]

    def __repr__(self) -> str:
        device = "" if self.device == "cpu" else f"@{self.device}"
        return f"{self.dtype.value}[{', '.join(map(str, self.shape))}]{device}"

    @property
    def rank(self) -> int:
        """The number of dims."""
        return len(self.shape)

    @property
    def numel(self) -> Dim:
        """The number of elements."""
        return product(self.shape)

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        """Return this type with another shape."""
        return TensorType(self.dtype, tuple(shape), self.device)

    def with_dtype(self, dtype: DType) -> TensorType:
        """Return this type with another element type."""
        return TensorType(dtype, self.shape, self.device)


class ScalarKind(Enum):
    """The kinds of Python number that a graph can carry."""

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"


@dataclass(frozen=True, slots=True)
class ScalarType:
    """A Python number. `value` is the dim expression that it equals, when it is an integer the IR can name."""

    kind: ScalarKind
    value: Dim | None = None

    def __repr__(self) -> str:
        return self.kind.value if self.value is None else f"{self.kind.value}({self.value})"


@dataclass(frozen=True, slots=True)
class SequenceType:
    """An ONNX sequence."""

    element: Type

    def __repr__(self) -> str:
        return f"seq<{self.element!r}>"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """An ONNX optional."""

    element: Type

    def __repr__(self) -> str:
        return f"optional<{self.element!r}>"


@dataclass(frozen=True, slots=True)
class UnrankedType:
    """A tensor of which only the element type is known: an element of an ONNX sequence, say."""

    dtype: DType

    def __repr__(self) -> str:
        return f"{self.dtype.value}[*]"


@dataclass(frozen=True, slots=True)
class NoneType:
    """The type of a value that carries nothing (an effect's token, a missing result)."""

    def __repr__(self) -> str:
        return "none"


Type: TypeAlias = TensorType | ScalarType | SequenceType | OptionalType | UnrankedType | NoneType


def type_symbols(type_: Type) -> tuple[Symbol, ...]:
    """Return the symbols in a type, in first-seen order."""
    if isinstance(type_, TensorType):
        return type_.symbols
    if isinstance(type_, ScalarType) and type_.value is not None:
        return symbols_of(type_.value)
    if isinstance(type_, SequenceType | OptionalType):
        return type_symbols(type_.element)
    return ()


def substitute_type(type_: Type, mapping: Mapping[str, Dim]) -> Type:
    """Return the type with dims in the place of the symbols so named; other symbols stay."""
    if isinstance(type_, TensorType):
        if not type_.symbols:
            return type_
        return type_.with_shape(tuple([substitute(dim, mapping) for dim in type_.shape]))
    if isinstance(type_, ScalarType) and type_.value is not None:
        return ScalarType(type_.kind, substitute(type_.value, mapping))
    if isinstance(type_, SequenceType | OptionalType):
        return type(type_)(substitute_type(type_.element, mapping))
    return type_


def on_device(type_: Type, device: str) -> Type:
    """Return the type with its tensors on another device.

    >>> on_device(TensorType(DType.F32, (2,)), "gpu:0")
    f32[2]@gpu:0
    """
    if isinstance(type_, TensorType):
        return type_ if type_.device == device else TensorType(type_.dtype, type_.shape, device)
    if isinstance(type_, SequenceType | OptionalType):
        return type(type_)(on_device(type_.element, device))
    return type_


def types_compatible(declared: Type, inferred: Type) -> bool:
    """True unless the two types are known to differ. Dims are compared three-valued: unknown is compatible."""
    if declared == inferred:
        return True
    if isinstance(declared, TensorType) and isinstance(inferred, TensorType):
        return (
            declared.dtype is inferred.dtype
            and declared.device == inferred.device
            and len(declared.shape) == len(inferred.shape)
            and all(equal(a, b) is not False for a, b in zip(declared.shape, inferred.shape))
        )
    if isinstance(declared, ScalarType) and isinstance(inferred, ScalarType):
        return declared.kind is inferred.kind
    if isinstance(declared, UnrankedType) or isinstance(inferred, UnrankedType):
        return getattr(declared, "dtype", None) is getattr(inferred, "dtype", None)
    if isinstance(declared, SequenceType | OptionalType):
        return type(declared) is type(inferred) and types_compatible(declared.element, inferred.element)
    return False


def types_known_equal(a: Type, b: Type) -> bool:
    """True if the two types are the same for every binding of their symbols."""
    if isinstance(a, TensorType) and isinstance(b, TensorType):
        return (
            a.dtype is b.dtype
            and a.device == b.device
            and len(a.shape) == len(b.shape)
            and all(known_equal(x, y) for x, y in zip(a.shape, b.shape))
        )
    return a == b
