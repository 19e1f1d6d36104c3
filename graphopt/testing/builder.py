"""The graph under construction: a pool of typed values with what is known of their numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from graphopt.ir import Constant, ConstantKind, DType, Graph, Location, TensorType, Value, bind, infer_types, symbol
from graphopt.ir.dims import Dim, bounds, known_equal, product
from graphopt.ir.value import Node
from graphopt.ops import registry
from graphopt.ops.traits import is_commutative
from graphopt.testing.domain import Domain
from graphopt.testing.inputs import input_domain, random_tensor
from graphopt.testing.source import Source

T = TypeVar("T")

F32, F64, F16, I64, I32, BOOL = DType.F32, DType.F64, DType.F16, DType.I64, DType.I32, DType.BOOL
FLOATS = (F32, F64)
INTEGERS = (I64, I32)
NUMBERS = (*FLOATS, *INTEGERS)
ANY = (*NUMBERS, BOOL)

MAX_ELEMENTS = 4096
BOUND = 64.0
"""Operators that grow numbers take values up to this magnitude, so that nothing overflows on the way."""

Where = Callable[[Value], bool]


class GraphBuilder:
    """What samplers draw from and build with.

    graph: the graph so far. op: the operator that the sampler was asked for. symbols: the symbolic sizes at hand.
    """

    def __init__(self, source: Source, symbols: Sequence[Dim] = (), dtypes: Sequence[DType] = ANY) -> None:
        self.source = source
        self.graph = Graph()
        self.symbols = tuple(symbols)
        self.dtypes = tuple(dtypes)
        self.op = ""
        self.pool: list[Value] = []
        self._domains: dict[Value, Domain] = {}
        self._leaves = 0

    # Choices

    def one(self, options: Sequence[T]) -> T:
        """One of the options; the first is the simplest."""
        return self.source.choice(options)

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high]; the low end is the simplest."""
        return self.source.integer(low, high)

    def chance(self, one_in: int) -> bool:
        """True once in so many times; False is the simpler."""
        return self.source.integer(0, one_in - 1) == one_in - 1

    def flag(self) -> bool:
        """True or False; False is the simpler."""
        return self.source.integer(0, 1) == 1

    def some(self, options: Sequence[T]) -> tuple[T, ...]:
        """Any subset, in order."""
        return tuple(option for option in options if self.flag())

    def axis(self, rank: int) -> int:
        """A dim of a tensor of this rank, counted from either end."""
        axis = self.integer(0, max(rank, 1) - 1)
        return axis - max(rank, 1) if self.chance(3) else axis

    def axes(self, rank: int) -> tuple[int, ...]:
        """Some dims of a tensor of this rank, each counted from either end."""
        return tuple(a - rank if self.chance(3) else a for a in self.some(range(rank)))

    # Shapes

    def dim(self, least: int = 1, *, static: bool = False) -> Dim:
        """A small size of at least `least`."""
        sizes: list[Dim] = [d for d in (1, 2, 3, 5, 4) if d >= least]
        if not static:
            sizes += [s for s in self.symbols if low(s) >= least]
        return 0 if least == 0 and self.chance(40) else self.one(sizes)

    def shape(self, ranks: tuple[int, int] = (0, 4), *, static: bool = False, least: int = 0) -> tuple[Dim, ...]:
        """A shape of small sizes."""
        return tuple(self.dim(least, static=static) for _ in range(self.integer(*ranks)))

    def broadcastable(self, shape: Sequence[Dim]) -> tuple[Dim, ...]:
        """A shape that broadcasts to `shape`: leading dims dropped, some dims 1."""
        kept = tuple(shape[self.integer(0, len(shape)) :]) if self.chance(3) else tuple(shape)
        return tuple(1 if self.chance(4) else d for d in kept)

    # Values

    def domain(self, value: Value) -> Domain:
        """What is known of a value's numbers."""
        return self._domains[value]

    def find(
        self,
        dtypes: Sequence[DType] = FLOATS,
        ranks: tuple[int, int] = (0, 6),
        where: Where | None = None,
        *,
        bound: float = BOUND,
        exact: bool = False,
    ) -> Value | None:
        """A value of the pool that meets the wishes, or None. Recent ones are preferred, so that graphs grow deep."""
        found = [v for v in self.pool if self._fits(v, dtypes, ranks, where, bound, exact)]
        if not found:
            return None
        return self.one((found[-1:], found, found[-1:], found[-3:])[self.integer(0, 3)])

    def _fits(
        self,
        value: Value,
        dtypes: Sequence[DType],
        ranks: tuple[int, int],
        where: Where | None,
        bound: float,
        exact: bool,
    ) -> bool:
        domain = self._domains[value]
        return (
            value.dtype in dtypes
            and ranks[0] <= len(value.shape) <= ranks[1]
            and domain.magnitude <= bound
            and (domain.exact or not exact)
            and (where is None or where(value))
        )

    def tensor(
        self,
        dtypes: Sequence[DType] = FLOATS,
        ranks: tuple[int, int] = (0, 4),
        where: Where | None = None,
        *,
        bound: float = BOUND,
        exact: bool = False,
        make: Callable[[], Sequence[Dim]] | None = None,
        least: int = 0,
    ) -> Value:
        """A value of the pool that meets the wishes, else (and now and then) a new leaf.

        make: draws the shape of a new leaf. least: the size that every dim must have.
        """
        if not self.chance(8):
            found = self.find(dtypes, ranks, _nonempty(where, least), bound=bound, exact=exact)
            if found is not None:
                return found
        shape = tuple(make()) if make is not None else self.shape(ranks, least=least)
        return self.leaf(TensorType(self.dtype(dtypes), shape))

    def dtype(self, dtypes: Sequence[DType]) -> DType:
        """One of the dtypes: f32 half of the time, f64 seldom."""
        allowed = [d for d in dtypes if d in self.dtypes] or list(dtypes)
        if F32 not in allowed:
            return self.one(allowed)
        chosen = self.one(allowed) if self.flag() else F32
        return F32 if chosen is F64 and not self.chance(4) else chosen

    def match(
        self, x: Value, *more: Value, dtypes: Sequence[DType] | None = None, bound: float = BOUND, exact: bool = False
    ) -> Value:
        """A value that broadcasts with `x` (and with more), of the dtype of `x` unless others are allowed."""
        wanted = (x.dtype,) if dtypes is None else dtypes
        if not self.chance(3):
            shapes = [v.shape for v in (x, *more)]
            found = self.find(
                wanted, (0, 6), lambda v: all(broadcasts(v.shape, s) for s in shapes), bound=bound, exact=exact
            )
            if found is not None:
                return found
        return self.leaf(TensorType(self.dtype(wanted), self.broadcastable(x.shape)))

    def like(self, type_: TensorType, *, bound: float = BOUND, exact: bool = False) -> Value:
        """A value of exactly this type: of the pool, or a new leaf."""
        if not self.chance(3):
            found = self.find(
                (type_.dtype,), where=lambda v: same_shape(v.shape, type_.shape), bound=bound, exact=exact
            )
            if found is not None:
                return found
        return self.leaf(type_)

    def at_least(self, dim: Dim, least: int) -> bool:
        """True if a dim is known to be at least so large."""
        return low(dim) >= least

    # Leaves

    def leaf(self, type_: TensorType) -> Value:
        """A new input or, if the shape is static, perhaps a stored tensor."""
        static = all(isinstance(d, int) for d in type_.shape)
        kind = self.integer(0, 3) if static else 0
        if kind <= 1:
            return self._pooled(self.graph.add_input(self._name("x"), type_), input_domain(type_))
        return self.stored(type_, input_domain(type_))

    def stored(
        self, type_: TensorType, domain: Domain, *, kind: ConstantKind | None = None, uniform: bool | None = None
    ) -> Value:
        """A new stored tensor with numbers in a domain: random ones, one number throughout, or a copy of another's."""
        kind = self.one(tuple(ConstantKind)) if kind is None else kind
        if kind is ConstantKind.PARAMETER and not type_.dtype.is_floating:
            kind = ConstantKind.BUFFER
        tensor = self._copied(type_, domain) if self.chance(5) else None
        if tensor is None:
            tensor = self._filled(type_, domain, self.chance(4) if uniform is None else uniform)
            tensor = self._laid_out(tensor)
        if kind is ConstantKind.PARAMETER:
            tensor = torch.nn.Parameter(tensor)
        name = self._name({"parameter": "w", "buffer": "b", "constant": "c"}[kind.value])
        names = () if kind is ConstantKind.CONSTANT else (f"layer.{name}",)
        constant = Constant(tensor, kind, names, tensor.requires_grad, version=tensor._version)
        return self._pooled(self.graph.add_constant(name, type_, constant), domain)

    def weight(self, dtype: DType, *shape: Dim, bound: float = 1.0) -> Value:
        """A new parameter (rarely a buffer, constant or input) with numbers in [-bound, bound]."""
        type_ = TensorType(dtype, shape)
        if not all(isinstance(d, int) for d in shape):
            return self._pooled(self.graph.add_input(self._name("x"), type_), input_domain(type_))
        kind = self.one((ConstantKind.PARAMETER, ConstantKind.PARAMETER, ConstantKind.BUFFER, ConstantKind.CONSTANT))
        return self.stored(type_, Domain(-bound, bound), kind=kind)

    def _copied(self, type_: TensorType, domain: Domain) -> torch.Tensor | None:
        for value in self.graph.constants.values():
            if value.type == type_ and self._domains[value].within(domain.low, domain.high) and value.constant:
                return value.constant.tensor.detach().clone()
        return None

    def _laid_out(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same numbers, seldom with other strides, as views of weights have them."""
        if tensor.dim() < 2 or not self.chance(8):
            return tensor
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)

    def _filled(self, type_: TensorType, domain: Domain, uniform: bool) -> torch.Tensor:
        shape = tuple(int(d) for d in type_.shape)  # type: ignore[arg-type]
        if uniform:
            numbers = [n for n in (0.0, 1.0, -0.0, 2.0, 0.5) if domain.low <= n <= domain.high] or [domain.high]
            return torch.full(shape, self.one(numbers), dtype=torch.float64).to(type_.dtype.torch)
        generator = torch.Generator().manual_seed(self.integer(0, 255))
        return random_tensor(domain, shape, type_.dtype, generator)

    def _name(self, prefix: str) -> str:
        self._leaves += 1
        return f"{prefix}{self._leaves}"

    def _pooled(self, value: Value, domain: Domain) -> Value:
        self._domains[value] = domain
        self.pool.append(value)
        return value

    # Nodes

    def emit(
        self,
        op: str,
        *args: Any,
        domain: Domain | Sequence[Domain],
        regions: tuple[Graph, ...] = (),
        **attributes: Any,
    ) -> Any:
        """Append a node, called as the operator's schema says; its results join the pool.

        domain: what is known of the numbers of the result, or of each result. Returns the result, or the tuple of them.
        """
        op_object = registry.find(f"aten.{op}") or registry.get(op)
        operands, bound = bind(op_object, args, attributes)
        types = infer_types(op_object, operands, bound, regions)
        node = Node(op_object, operands, bound, types, regions=regions, location=self._location())
        self.graph.append(node)
        domains = [domain] * len(types) if isinstance(domain, Domain) else list(domain)
        for value, known in zip(node.results, domains, strict=True):
            self._keep(value, known)
        return node.results[0] if len(node.results) == 1 else node.results

    def drop(self, value: Value) -> None:
        """Keep a value from being used or returned."""
        self.pool = [v for v in self.pool if v is not value]

    def repeat(self, node: Node) -> Value:
        """Append a call like `node`, with its operands swapped where that makes no difference."""
        operands = list(node.operands)
        if is_commutative(node) and len(operands) == 2 and self.flag():
            operands.reverse()
        types = infer_types(node.op, operands, node.attributes)
        copy = self.graph.append(Node(node.op, operands, node.attributes, types, location=self._location()))
        self._keep(copy.result, self._domains[node.result])
        return copy.result

    def _keep(self, value: Value, domain: Domain) -> None:
        self._domains[value] = domain
        if isinstance(value.type, TensorType) and elements(value.shape) <= MAX_ELEMENTS and value.dtype in (*ANY, F16):
            self.pool.append(value)

    def _location(self) -> Location:
        if not self.chance(6):
            return Location()
        scope = self.one(("", "layer1.conv", 'say "hi"'))
        return Location("model.py", self.integer(1, 99), scope, self.one(((), ("rule-a",), ("rule-a", "rule-b"))))

    # Bringing values into a domain

    def positive(self, x: Value) -> Value:
        """A positive value made from `x`, away from zero and below 16."""
        if self.domain(x).low >= 0.125 and self.domain(x).high <= 16:
            return x
        way = self.integer(0, 2)
        if way == 0:
            return self.clamp(x, 0.25, 4.0)
        if way == 1:
            return self._shifted(self.emit("sigmoid", x, domain=Domain(0.0, 1.0, False)))
        bounded = self.within(x, 3.0)
        absolute = self.emit("abs", bounded, domain=Domain(0.0, 3.0, self.domain(bounded).exact))
        return self._shifted(absolute)

    def _shifted(self, x: Value) -> Value:
        known = self.domain(x)
        return self.emit("add.Scalar", x, 0.5, domain=Domain(known.low + 0.5, known.high + 0.5, False))

    def within(self, x: Value, bound: float) -> Value:
        """A value of magnitude at most `bound` made from `x`."""
        return x if self.domain(x).magnitude <= bound else self.clamp(x, -bound, bound)

    def clamp(self, x: Value, least: float, most: float) -> Value:
        """`x` brought into [least, most], which are integers for integers."""
        if x.dtype.is_integer:
            least, most = int(least), int(most)
        return self.emit("clamp", x, min=least, max=most, domain=self.domain(x).clamp(least, most))


def low(dim: Dim) -> int:
    """The least value of a dim."""
    return bounds(dim)[0] or 0


def high(dim: Dim) -> int:
    """The largest value of a dim; generated symbols are bounded."""
    found = bounds(dim)[1]
    return 16 if found is None else found


def elements(shape: Sequence[Dim]) -> int:
    """The largest number of elements of a shape."""
    return high(product(shape))


def same_shape(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    """True if two shapes are equal for every binding."""
    return len(a) == len(b) and all(map(known_equal, a, b))


def broadcasts(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    """True if two shapes are known to broadcast."""
    return all(x == 1 or y == 1 or known_equal(x, y) for x, y in zip(reversed(a), reversed(b)))


def _nonempty(where: Where | None, least: int) -> Where | None:
    if not least:
        return where
    return lambda v: all(low(d) >= least for d in v.shape) and (where is None or where(v))


def make_symbols(source: Source) -> tuple[Dim, ...]:
    """None, one, two or three symbols with small ranges."""
    every = (symbol("N", 1, 8), symbol("M", 2, 8), symbol("K", 4, 12, 4))
    return every[: source.choice((0, 0, 1, 1, 2, 3))]
