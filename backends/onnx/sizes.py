"""Runtime sizes: dims as i64 tensors, made only where an operator needs them and once for each body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphopt.backends.onnx.records import Tensor
from graphopt.errors import EmissionError
from graphopt.ir import DType, Expr, Symbol
from graphopt.ir.dim_expr import Atom, Extremum, FloorDiv
from graphopt.ir.dims import Dim, bounds

if TYPE_CHECKING:
    from graphopt.backends.onnx.emitter import Emitter


class Sizes:
    """Dims and shapes as tensors. All are vectors: a single dim is a vector of one element."""

    def __init__(self, emitter: Emitter) -> None:
        self.emitter = emitter

    def vector(self, dims: Sequence[Dim]) -> Tensor:
        """The dims as one i64 vector."""
        if all(isinstance(dim, int) for dim in dims):
            return self.emitter.ints([int(dim) for dim in dims])  # type: ignore[arg-type]
        return self.emitter.once(("vector", tuple(dims)), lambda: self._vector(tuple(dims)))

    def dim(self, dim: Dim) -> Tensor:
        """One dim, as a vector of one element."""
        if isinstance(dim, int):
            return self.emitter.ints([dim])
        return self.emitter.once(dim, lambda: self._dim(dim))

    def _vector(self, dims: tuple[Dim, ...]) -> Tensor:
        for body in self.emitter.body.chain():
            if dims in body.shapes:
                return self.emitter.op("Shape", body.shapes[dims], dtype=DType.I64, shape=(len(dims),))
        if len(dims) == 1:
            return self.dim(dims[0])
        pieces: list[Tensor] = []
        run: list[int] = []
        for dim in dims:
            if isinstance(dim, int):
                run.append(dim)
                continue
            if run:
                pieces.append(self.emitter.ints(run))
                run = []
            pieces.append(self.dim(dim))
        if run:
            pieces.append(self.emitter.ints(run))
        return self.emitter.op("Concat", *pieces, axis=0, shape=(len(dims),))

    def _dim(self, dim: Expr) -> Tensor:
        for body in self.emitter.body.chain():
            if dim in body.axes:
                return self._read(*body.axes[dim])
        total: Tensor | None = None
        constant = 0
        for monomial, coefficient in dim.terms:
            if not monomial:
                constant = coefficient
                continue
            term = self._monomial(monomial, abs(coefficient))
            if total is None:
                total = term if coefficient > 0 else self._apply("Neg", term)
            else:
                total = self._apply("Add" if coefficient > 0 else "Sub", total, term)
        assert total is not None
        if constant:
            total = self._apply("Add" if constant > 0 else "Sub", total, self.emitter.ints([abs(constant)]))
        return total

    def _monomial(self, monomial: tuple[Atom, ...], coefficient: int) -> Tensor:
        product: Tensor | None = None
        for atom in monomial:
            if isinstance(atom, Symbol) and coefficient % atom.multiple_of == 0:
                coefficient //= atom.multiple_of
                factor = self._symbol(atom)
            else:
                factor = self._atom(atom)
            product = factor if product is None else self._apply("Mul", product, factor)
        assert product is not None
        return product if coefficient == 1 else self._apply("Mul", product, self.emitter.ints([coefficient]))

    def _atom(self, atom: Atom) -> Tensor:
        if isinstance(atom, Symbol):
            unit = self._symbol(atom)
            return unit if atom.multiple_of == 1 else self._apply("Div", unit, self.emitter.ints([atom.multiple_of]))
        if isinstance(atom, Extremum):
            args = [self.dim(arg) for arg in atom.args]
            return self._apply("Max" if atom.largest else "Min", *args)
        return self._floor_div(atom)

    def _floor_div(self, atom: FloorDiv) -> Tensor:
        top, bottom = self.dim(atom.numerator), self.dim(atom.divisor)
        low, divisor_low = bounds(atom.numerator)[0], bounds(atom.divisor)[0]
        if low is None or low < 0 or divisor_low is None or divisor_low <= 0:
            # Div rounds towards zero, Mod has the divisor's sign: taking the remainder away makes the division exact.
            top = self._apply("Sub", top, self._apply("Mod", top, bottom))
        return self._apply("Div", top, bottom)

    def _symbol(self, symbol: Symbol) -> Tensor:
        return self.emitter.once(("symbol", symbol.name), lambda: self._find_symbol(symbol))

    def _find_symbol(self, symbol: Symbol) -> Tensor:
        for body in self.emitter.body.chain():
            if symbol.name in body.solvable:
                tensor, axis, factor, offset = body.solvable[symbol.name]
                size = self._read(tensor, axis)
                if offset:
                    size = self._apply("Sub", size, self.emitter.ints([offset]))
                return size if factor == 1 else self._apply("Div", size, self.emitter.ints([factor]))
        raise EmissionError(
            f"the size {symbol.name!r} cannot be read off any input or earlier result; "
            "give the model an input with a dim of that size"
        )

    def _read(self, tensor: Tensor, axis: int) -> Tensor:
        if axis < 0:  # a number, not a dim of a tensor
            return self.emitter.op("Reshape", self.emitter.cast(tensor, DType.I64), [1], shape=(1,))
        return self.emitter.once(
            (tensor, axis),
            lambda: self.emitter.op("Shape", tensor, dtype=DType.I64, shape=(1,), start=axis, end=axis + 1),
        )

    def _apply(self, op_type: str, *inputs: Tensor) -> Tensor:
        return self.emitter.op(op_type, *inputs, shape=(1,))
