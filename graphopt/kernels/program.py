"""The kernel itself: Y[M, N] = act(W[M, K] · X[K, N] + b), W in rows of blocks, as a program of LLVM.

    for each item of a thread (a tile of X's rows and columns, and the rows of W that are not zero there):
        lay the tile of X side by side, if that is asked for
        for each row block:                                  sums = Y or b, kept in registers: rows × vectors of them
            for each block of W in it:                       sums += w[row] · x[column]
            Y = sums, through the activation in the last tile

What the loops run over is data (`schedule`): one program serves every pattern, and is made once for each form.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from graphopt.kernels.jit import THREAD_NUMBER, Compiled, lanes
from graphopt.kernels.openmp import Team, thread_number_address

if TYPE_CHECKING:
    from llvmlite import ir

    from graphopt.kernels.vectors import Kernel

ARGUMENTS = (
    "rows", "starts", "entries", "x", "sums", "bias", "items", "tiles", "y",
    "x_step", "column_step", "sums_step", "parts", "part_size", "tile_size", "n", "y_step",
)  # fmt: skip
"""The arguments of a call, 64 bits each: addresses first, then numbers."""
ADDRESSES = 9
MOST_THREADS = 64
BOUNDS = len(ARGUMENTS)
"""Where the bounds of the threads' items start among the arguments. Those of the rows that each finishes follow."""
FINISHED = BOUNDS + MOST_THREADS + 1
ITEM = (
    "kind", "x_start", "depth", "sums_start", "first", "last", "starts_sums", "ends_sums", "width", "y_start", "top",
    "bottom",
)  # fmt: skip
"""The numbers of an item. kind: the place of its count of vectors in the form, twice, and 1 if the last is not full.
starts_sums: 0 if there are sums already, 1 if they start with the bias, 2 if with zeros. top, bottom: its rows of W."""


Arguments = ctypes.Array  # of 64-bit integers


def arguments(numbers: Mapping[str, int], items: Sequence[int], finished: Sequence[int]) -> Arguments[ctypes.c_int64]:
    """The arguments of a call, as far as they are the same in each. items, finished: the bounds of each thread's."""
    found = (ctypes.c_int64 * (FINISHED + MOST_THREADS + 1))()
    for name, number in numbers.items():
        found[_PLACES[name]] = number
    found[BOUNDS : BOUNDS + len(items)] = list(items)
    found[FINISHED : FINISHED + len(finished)] = list(finished)
    return found


def with_addresses(arguments: Arguments[ctypes.c_int64], addresses: Mapping[str, int]) -> Arguments[ctypes.c_int64]:
    """A copy with some addresses."""
    found = type(arguments).from_buffer_copy(arguments)
    for name, address in addresses.items():
        found[_PLACES[name]] = address
    return found


_PLACES = {name: index for index, name in enumerate(ARGUMENTS)}


@dataclass(frozen=True)
class Form:
    """What a program is made for. rows: of a block of W. vectors: counts of vectors of columns that occur.

    layout: where X is read from: `given` rows, rows `copied` side by side, or columns, `transposed` into rows; then the
    sums are turned into columns of Y. parts: whether each sum is in parts, which threads add in the end.
    """

    rows: int
    vectors: tuple[int, ...]
    layout: str
    parts: bool
    activation: str


@dataclass(frozen=True)
class Program:
    """Compiled functions: of products, and of finishing them."""

    compiled: Compiled
    product: Team
    finish: Team | None


@lru_cache(maxsize=256)
def program(form: Form) -> Program:
    """Make the program of a form; the same one for the same form."""
    from llvmlite import ir

    module = ir.Module("sparse")
    names = ["product"] + ["finish"] * form.parts
    _products(module, form)
    if form.parts:
        _finish(module, form)
    teams = thread_number_address() is not None
    if teams:
        for name in names:
            _on_team(module, name)
    compiled = Compiled(str(module))
    made = [Team(compiled.address(n), compiled.address(f"{n}_team") if teams else None) for n in names]
    return Program(compiled, made[0], made[1] if len(made) > 1 else None)


def _on_team(module: ir.Module, name: str) -> None:
    """name_team(arguments): name(arguments, number of the thread)."""
    from llvmlite import ir

    from graphopt.kernels.vectors import I32, I64, PTR, VOID

    number = module.globals.get(THREAD_NUMBER)
    if number is None:
        number = ir.Function(module, ir.FunctionType(I32, []), THREAD_NUMBER)
    function = ir.Function(module, ir.FunctionType(VOID, [PTR]), f"{name}_team")
    builder = ir.IRBuilder(function.append_basic_block())
    thread = builder.sext(builder.call(number, []), I64)
    builder.call(module.globals[name], [function.args[0], thread])
    builder.ret_void()


def _arguments(k: Kernel) -> dict[str, ir.Value]:
    from graphopt.kernels.vectors import I64, PTR, i64

    given = k.function.args[0]
    return {
        name: k.number(given, i64(index), PTR if index < ADDRESSES else I64) for index, name in enumerate(ARGUMENTS)
    }


def _products(module: ir.Module, form: Form) -> None:
    """product(arguments, thread): the items of a thread."""
    from graphopt.kernels.vectors import I64, PTR, Kernel, i64

    for vectors in form.vectors:
        for masked in (False, True):
            _row_blocks(module, form, vectors, masked)
            if form.layout == "copied":
                _copy(module, vectors, masked)
    if form.layout == "transposed":
        for vectors in form.vectors:
            _transpose(module, vectors)
            _turn(module, vectors, form.activation)
    k = Kernel(module, "product", [PTR, I64], lanes())
    arguments, thread = k.function.args
    a = _arguments(k)
    bounds = k.b.add(thread, i64(BOUNDS))
    tile = k.at(a["tiles"], k.b.mul(thread, a["tile_size"]))

    def run(index: ir.Value) -> None:
        item_at = k.at(a["items"], k.b.mul(index, i64(len(ITEM))), I64)
        item = {name: k.number(item_at, i64(i)) for i, name in enumerate(ITEM)}
        x = k.at(a["x"], item["x_start"])
        sums = k.at(a["sums"], item["sums_start"])
        done = k.function.append_basic_block("done")
        choice = k.b.switch(item["kind"], done)
        for kind, (vectors, masked) in enumerate((v, m) for v in form.vectors for m in (False, True)):
            block = k.function.append_basic_block(f"kind{kind}")
            choice.add_case(i64(kind), block)
            k.b.position_at_end(block)
            suffix = _suffix(vectors, masked)
            if form.layout != "given":
                name = f"copy{suffix}" if form.layout == "copied" else f"transpose{vectors}"
                k.b.call(module.globals[name], [x, a["x_step"], tile, item["depth"], item["width"]])
            near = i64(vectors * k.lanes)
            source, step = (x, a["column_step"]) if form.layout == "given" else (tile, near)
            sums_step = near if form.layout == "transposed" else a["sums_step"]
            operands = [a["rows"], a["starts"], a["entries"], source, step, sums, sums_step, a["bias"]]
            flags = [item[name] for name in ("first", "last", "starts_sums", "ends_sums", "width")]
            k.b.call(module.globals[f"rows{suffix}"], [*operands, *flags])
            if form.layout == "transposed":
                with k.b.if_then(k.b.icmp_signed("!=", item["ends_sums"], i64(0))):
                    y = k.at(a["y"], item["y_start"])
                    extent = [item[name] for name in ("top", "bottom", "width")]
                    k.b.call(module.globals[f"turn{vectors}"], [sums, y, a["y_step"], *extent])
            k.b.branch(done)
        k.b.position_at_end(done)

    k.each(k.number(arguments, bounds), k.number(arguments, k.b.add(bounds, i64(1))), run)
    k.b.ret_void()


def _suffix(vectors: int, masked: bool) -> str:
    return f"{vectors}{'_masked' if masked else ''}"


def _row_blocks(module: ir.Module, form: Form, vectors: int, masked: bool) -> None:
    """rows(…): row blocks first to last of W, times a tile of X. width: columns of it that there are."""
    from llvmlite import ir

    from graphopt.kernels.vectors import F32, I32, I64, PTR, Kernel, i64

    k = Kernel(module, f"rows{_suffix(vectors, masked)}", [PTR] * 4 + [I64, PTR, I64, PTR] + [I64] * 5, lanes())
    k.function.linkage = "internal"
    rows, starts, entries, x, step, sums, sums_step, bias, first, last, starts_sums, ends_sums, width = k.function.args
    whole = not form.parts and form.layout != "transposed"
    tail = k.below(k.b.sub(width, i64((vectors - 1) * k.lanes))) if masked else None
    masks = [None] * (vectors - 1) + [tail]
    places = [(r, v) for r in range(form.rows) for v in range(vectors)]
    fresh = k.b.icmp_signed("!=", starts_sums, i64(0))
    final = k.b.icmp_signed("!=", ends_sums, i64(0))

    def row_block(index: ir.Value) -> None:
        row = k.number(rows, index, I32)
        at = [k.at(sums, k.b.add(k.b.mul(k.b.add(row, i64(r)), sums_step), i64(v * k.lanes))) for r, v in places]
        with k.b.if_else(fresh) as (then, otherwise):
            with then:
                added = k.b.icmp_signed("==", starts_sums, i64(1))
                zero = ir.Constant(F32, 0.0)
                given = [k.number(bias, k.b.add(row, i64(r)), F32) for r in range(form.rows)]
                biases = [k.splat(k.b.select(added, one, zero)) for one in given]
                from_then = k.b.block
            with otherwise:
                kept = [k.load(a, masks[v]) for a, (_, v) in zip(at, places)]
                from_otherwise = k.b.block
        begun = []
        for (r, _), old in zip(places, kept):
            phi = k.b.phi(k.vector)
            phi.add_incoming(biases[r], from_then)
            phi.add_incoming(old, from_otherwise)
            begun.append(phi)

        def block(j: ir.Value, found: list[ir.Value]) -> list[ir.Value]:
            column, weights = _entry(k, entries, j, form.rows)
            source = k.at(x, k.b.mul(column, step))
            hidden = masks if form.layout == "given" else [None] * vectors
            loaded = [k.load(k.at(source, i64(v * k.lanes)), hidden[v]) for v in range(vectors)]
            return [k.fma(weights[r], loaded[v], found[i]) for i, (r, v) in enumerate(places)]

        start = k.number(starts, index, I32)
        stop = k.number(starts, k.b.add(index, i64(1)), I32)
        found = k.loop(start, stop, begun, block)
        if not whole or form.activation == "none":
            for a, (_, v), value in zip(at, places, found):
                k.store(value, a, masks[v])
            return
        with k.b.if_else(final) as (then, otherwise):
            with then:
                for a, (_, v), value in zip(at, places, found):
                    k.store(k.activation(form.activation, value), a, masks[v])
            with otherwise:
                for a, (_, v), value in zip(at, places, found):
                    k.store(value, a, masks[v])

    k.each(first, last, row_block)
    k.b.ret_void()


def _entry(k: Kernel, entries: ir.Value, index: ir.Value, height: int) -> tuple[ir.Value, list[ir.Value]]:
    """The column of a block and its weights, a vector each; of one row, both are read at once."""
    from graphopt.kernels.vectors import F32, I32, I64, i64

    if height == 1:
        both = k.number(entries, index)
        weight = k.b.bitcast(k.b.trunc(k.b.lshr(both, i64(32)), I32), F32)
        return k.b.sext(k.b.trunc(both, I32), I64), [k.splat(weight)]
    start = k.b.mul(index, i64(1 + height))
    weights = [k.splat(k.number(entries, k.b.add(start, i64(1 + r)), F32)) for r in range(height)]
    return k.number(entries, start, I32), weights


def _copy(module: ir.Module, vectors: int, masked: bool) -> None:
    """copy(x, step, tile, depth, width): depth rows of x, side by side."""
    from graphopt.kernels.vectors import I64, PTR, Kernel, i64

    k = Kernel(module, f"copy{_suffix(vectors, masked)}", [PTR, I64, PTR, I64, I64], lanes())
    k.function.linkage = "internal"
    x, step, tile, depth, width = k.function.args
    tail = k.below(k.b.sub(width, i64((vectors - 1) * k.lanes))) if masked else None

    def row(index: ir.Value) -> None:
        source, target = k.at(x, k.b.mul(index, step)), k.at(tile, k.b.mul(index, i64(vectors * k.lanes)))
        for v in range(vectors):
            there = i64(v * k.lanes)
            k.store(k.load(k.at(source, there), tail if v == vectors - 1 else None), k.at(target, there))

    k.each(i64(0), depth, row)
    k.b.ret_void()


def _transpose(module: ir.Module, vectors: int) -> None:
    """transpose(x, step, tile, depth, width): depth columns of width rows of x, as rows.

    Rows behind the last are read as the last; what comes of them is never stored.
    """
    from graphopt.kernels.vectors import I64, PTR, Kernel, i64

    k = Kernel(module, f"transpose{vectors}", [PTR, I64, PTR, I64, I64], lanes())
    k.function.linkage = "internal"
    x, step, tile, depth, width = k.function.args
    end = k.b.sub(width, i64(1))

    def columns(index: ir.Value) -> None:
        there = k.below(k.b.sub(depth, index))

        def square(n: ir.Value) -> None:
            loaded = []
            for i in range(k.lanes):
                row = k.b.mul(k.least(k.b.add(n, i64(i)), end), step)
                loaded.append(k.load(k.at(x, k.b.add(row, index)), there))
            for i, column in enumerate(k.transposed(loaded)):
                place = k.b.add(k.b.mul(k.b.add(index, i64(i)), i64(vectors * k.lanes)), n)
                k.store(column, k.at(tile, place))

        k.each(i64(0), width, square, k.lanes)

    k.each(i64(0), depth, columns, k.lanes)
    k.b.ret_void()


def _turn(module: ir.Module, vectors: int, activation: str) -> None:
    """turn(sums, y, step, top, bottom, width): rows top to bottom of sums become columns of y, of width rows."""
    from graphopt.kernels.vectors import I64, PTR, Kernel, i64

    k = Kernel(module, f"turn{vectors}", [PTR, PTR, I64, I64, I64, I64], lanes())
    k.function.linkage = "internal"
    sums, y, step, top, bottom, width = k.function.args
    end = k.b.sub(bottom, i64(1))

    def rows(row: ir.Value) -> None:
        shown = k.b.sub(bottom, row)

        def square(column: ir.Value) -> None:
            loaded = []
            for i in range(k.lanes):
                place = k.b.add(k.b.mul(k.least(k.b.add(row, i64(i)), end), i64(vectors * k.lanes)), column)
                loaded.append(k.activation(activation, k.load(k.at(sums, place))))
            for i, turned in enumerate(k.transposed(loaded)):
                n = k.b.add(column, i64(i))
                count = k.b.select(k.b.icmp_signed("<", n, width), shown, i64(0))
                k.store(turned, k.at(y, k.b.add(k.b.mul(n, step), row)), k.below(count))

        k.each(i64(0), width, square, k.lanes)

    k.each(top, bottom, rows, k.lanes)
    k.b.ret_void()


def _finish(module: ir.Module, form: Form) -> None:
    """finish(arguments, thread): Y = act(sums, their parts added), for the rows of a thread."""
    from graphopt.kernels.vectors import I64, PTR, Kernel, i64

    k = Kernel(module, "finish", [PTR, I64], lanes())
    arguments, thread = k.function.args
    a = _arguments(k)
    bounds = k.b.add(thread, i64(FINISHED))

    def row(index: ir.Value) -> None:
        def write(column: ir.Value) -> None:
            place = k.b.add(k.b.mul(index, a["sums_step"]), column)

            def add(part: ir.Value, found: list[ir.Value]) -> list[ir.Value]:
                other = k.at(a["sums"], k.b.add(k.b.mul(part, a["part_size"]), place))
                return [k.b.fadd(found[0], k.load(other))]

            sums = k.loop(i64(1), a["parts"], [k.load(k.at(a["sums"], place))], add)
            y = k.at(a["y"], k.b.add(k.b.mul(index, a["y_step"]), column))
            k.store(k.activation(form.activation, sums[0]), y, k.below(k.b.sub(a["n"], column)))

        k.each(i64(0), a["n"], write, k.lanes)

    k.each(k.number(arguments, bounds), k.number(arguments, k.b.add(bounds, i64(1))), row)
    k.b.ret_void()
