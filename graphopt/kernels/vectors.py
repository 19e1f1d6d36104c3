"""A small language over `llvmlite.ir` for kernels: loops with carried values, vectors of floats, functions of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from llvmlite import ir

I1, I32, I64, F32, PTR = ir.IntType(1), ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.PointerType()
VOID = ir.VoidType()
FLOAT_BYTES = 4
Body = Callable[[ir.Value, list[ir.Value]], list[ir.Value]]


def i64(number: int) -> ir.Constant:
    """A constant."""
    return ir.Constant(I64, number)


class Kernel:
    """One function under construction. lanes: floats in a vector."""

    def __init__(self, module: ir.Module, name: str, arguments: Sequence[ir.Type], lanes: int) -> None:
        self.module, self.lanes = module, lanes
        self.vector = ir.VectorType(F32, lanes)
        self.mask = ir.VectorType(I1, lanes)
        self.function = ir.Function(module, ir.FunctionType(VOID, arguments), name)
        self.b = ir.IRBuilder(self.function.append_basic_block("entry"))

    def at(self, pointer: ir.Value, index: ir.Value, type_: ir.Type = F32) -> ir.Value:
        """The address of pointer[index]."""
        return self.b.gep(pointer, [index], source_etype=type_)

    def number(self, pointer: ir.Value, index: ir.Value, type_: ir.Type = I64) -> ir.Value:
        """An integer pointer[index], widened to 64 bits; or a float, or an address."""
        found = self.b.load(self.at(pointer, index, type_), typ=type_)
        return self.b.sext(found, I64) if type_ is I32 else found

    def loop(
        self, start: ir.Value, stop: ir.Value, carried: Sequence[ir.Value], body: Body, step: int = 1
    ) -> list[ir.Value]:
        """for i in range(start, stop, step): carried = body(i, carried); returns carried."""
        b, before = self.b, self.b.block
        head, end = self.function.append_basic_block("loop"), self.function.append_basic_block("end")
        b.cbranch(b.icmp_signed("<", start, stop), head, end)
        b.position_at_end(head)
        index = b.phi(I64)
        phis = [b.phi(value.type) for value in carried]
        after = body(index, list(phis))
        following = b.add(index, i64(step))
        last = b.block
        for phi, first, then in zip([index, *phis], [start, *carried], [following, *after]):
            phi.add_incoming(first, before)
            phi.add_incoming(then, last)
        b.cbranch(b.icmp_signed("<", following, stop), head, end)
        b.position_at_end(end)
        results = []
        for first, then in zip(carried, after):
            phi = b.phi(first.type)
            phi.add_incoming(first, before)
            phi.add_incoming(then, last)
            results.append(phi)
        return results

    def each(self, start: ir.Value, stop: ir.Value, body: Callable[[ir.Value], None], step: int = 1) -> None:
        """for i in range(start, stop, step): body(i)."""

        def run(index: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            body(index)
            return []

        self.loop(start, stop, [], run, step)

    def least(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """The smaller of two integers."""
        return self.b.select(self.b.icmp_signed("<", x, y), x, y)

    def full(self, number: float) -> ir.Constant:
        """A vector of one number."""
        return ir.Constant(self.vector, [number] * self.lanes)

    def splat(self, scalar: ir.Value) -> ir.Value:
        """A vector of one scalar."""
        type_ = ir.VectorType(scalar.type, self.lanes)
        one = self.b.insert_element(ir.Constant(type_, ir.Undefined), scalar, ir.Constant(I32, 0))
        picks = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.b.shuffle_vector(one, ir.Constant(type_, ir.Undefined), picks)

    def below(self, count: ir.Value) -> ir.Value:
        """The mask of the first `count` lanes."""
        lanes = ir.Constant(ir.VectorType(I64, self.lanes), list(range(self.lanes)))
        return self.b.icmp_signed("<", lanes, self.splat(count))

    def load(self, pointer: ir.Value, mask: ir.Value | None = None) -> ir.Value:
        """A vector from any address; zeros where a mask hides it."""
        if mask is None:
            return self.b.load(pointer, align=FLOAT_BYTES, typ=self.vector)
        name = f"llvm.masked.load.v{self.lanes}f32.p0"
        given = (pointer, ir.Constant(I32, FLOAT_BYTES), mask, self.full(0.0))
        return self.intrinsic(name, self.vector, given)

    def store(self, vector: ir.Value, pointer: ir.Value, mask: ir.Value | None = None) -> None:
        """Write a vector, or what a mask shows of it."""
        if mask is None:
            self.b.store(vector, pointer, align=FLOAT_BYTES)
        else:
            name = f"llvm.masked.store.v{self.lanes}f32.p0"
            self.intrinsic(name, VOID, (vector, pointer, ir.Constant(I32, FLOAT_BYTES), mask))

    def intrinsic(self, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
        """Call one of LLVM's own functions."""
        function = self.module.globals.get(name)
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(result, [a.type for a in arguments]), name)
        return self.b.call(function, arguments)

    def fma(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """x · y + z, rounded once."""
        return self.intrinsic(f"llvm.fma.v{self.lanes}f32", self.vector, (x, y, z))

    def of(self, name: str, *vectors: ir.Value) -> ir.Value:
        """A function of floats that LLVM knows, by lane: fabs, round, maxnum, minnum, …"""
        return self.intrinsic(f"llvm.{name}.v{self.lanes}f32", self.vector, vectors)

    def transposed(self, rows: Sequence[ir.Value]) -> list[ir.Value]:
        """The columns of a square of as many vectors as lanes: halves are exchanged, then quarters, …"""
        rows = list(rows)
        width = self.lanes // 2
        while width:
            found = list(rows)
            low = [i if not i & width else self.lanes + i - width for i in range(self.lanes)]
            high = [i + width if not i & width else self.lanes + i for i in range(self.lanes)]
            for i in range(self.lanes):
                if not i & width:
                    found[i] = self._shuffled(rows[i], rows[i + width], low)
                    found[i + width] = self._shuffled(rows[i], rows[i + width], high)
            rows = found
            width //= 2
        return rows

    def _shuffled(self, x: ir.Value, y: ir.Value, picks: Sequence[int]) -> ir.Value:
        return self.b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, self.lanes), list(picks)))

    def polynomial(self, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
        """Σ cᵢ xⁱ, highest first, by Horner's rule."""
        y: ir.Value = self.full(coefficients[0])
        for coefficient in coefficients[1:]:
            y = self.fma(y, x, self.full(coefficient))
        return y

    def exp(self, x: ir.Value) -> ir.Value:
        """eˣ = 2ⁿ · e^r with n = round(x / ln 2) and |r| ≤ ln 2 / 2, e^r by Taylor's series to the seventh power."""
        x = self.of("maxnum", self.of("minnum", x, self.full(88.0)), self.full(-87.0))
        n = self.of("rint", self.b.fmul(x, self.full(1 / math.log(2))))
        r = self.fma(n, self.full(-_LN2_HIGH), x)
        r = self.fma(n, self.full(-_LN2_LOW), r)
        power = self.polynomial(r, [1 / math.factorial(i) for i in range(7, -1, -1)])
        integers = ir.VectorType(I32, self.lanes)
        exponent = self.b.add(self.b.fptosi(n, integers), ir.Constant(integers, [127] * self.lanes))
        scale = self.b.shl(exponent, ir.Constant(integers, [23] * self.lanes))
        return self.b.fmul(power, self.b.bitcast(scale, self.vector))

    def erf(self, x: ir.Value) -> ir.Value:
        """Abramowitz and Stegun 7.1.26: 1 − (Σ aᵢ tⁱ) e^(−x²), t = 1 / (1 + p |x|); within 1.5e-7."""
        size = self.of("fabs", x)
        t = self.b.fdiv(self.full(1.0), self.fma(size, self.full(0.3275911), self.full(1.0)))
        series = self.b.fmul(t, self.polynomial(t, [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592]))
        tail = self.b.fmul(series, self.exp(self.b.fneg(self.b.fmul(x, x))))
        return self.of("copysign", self.b.fsub(self.full(1.0), tail), x)

    def activation(self, name: str, x: ir.Value) -> ir.Value:
        """An activation by its name: none, relu, silu or gelu (by erf)."""
        if name == "relu":
            return self.of("maximum", x, self.full(0.0))
        if name == "silu":
            return self.b.fdiv(x, self.b.fadd(self.full(1.0), self.exp(self.b.fneg(x))))
        if name == "gelu":
            half = self.b.fmul(x, self.full(0.5))
            return self.fma(half, self.erf(self.b.fmul(x, self.full(math.sqrt(0.5)))), half)
        assert name == "none", name
        return x


_LN2_HIGH = 0.693359375
_LN2_LOW = math.log(2) - _LN2_HIGH
