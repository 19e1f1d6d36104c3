"""Symbolic dimensions against brute-force evaluation, and polynomials against sympy."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable, Mapping

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir.dims import (
    Dim,
    DimError,
    DimParseError,
    Expr,
    Symbol,
    UnboundSymbolError,
    bounds,
    ceildiv,
    dim_max,
    dim_min,
    divisible,
    equal,
    evaluate,
    exact_div,
    floordiv,
    from_symbol,
    known_equal,
    less,
    less_equal,
    linear_in,
    lower_dim,
    mod,
    parse_dim,
    parse_dim_prefix,
    product,
    shapes_known_equal,
    substitute,
    symbol,
    symbols_of,
)

SYMBOLS = (
    Symbol("s0"),
    Symbol("s1", min=1),
    Symbol("n", min=-3, max=4),
    Symbol("p", min=2, max=9),
    Symbol("m8", min=0, multiple_of=8),
    Symbol("m6", min=1, max=40, multiple_of=6),
)
TABLE = {s.name: s for s in SYMBOLS}
s, t = symbol("s"), symbol("t", min=1)
e = symbol("e", multiple_of=8)

Evaluator = Callable[[Mapping[str, int]], int]


def values_of(sym: Symbol) -> st.SearchStrategy[int]:
    low, high = sym.unit_range()
    return st.integers(low, low + 40 if high is None else high).map(lambda unit: unit * sym.multiple_of)


BINDINGS = st.fixed_dictionaries({sym.name: values_of(sym) for sym in SYMBOLS})
CONSTANTS = st.one_of(st.integers(-4, 12), st.sampled_from([16, 24, 64]))


def _leaf() -> st.SearchStrategy[tuple[Dim, Evaluator]]:
    constants = CONSTANTS.map(lambda c: (c, lambda _: c))
    symbols = st.sampled_from(SYMBOLS).map(lambda x: (from_symbol(x), lambda env: env[x.name]))
    return st.one_of(symbols, symbols, constants)


BINARY: dict[str, tuple[Callable[[Dim, Dim], Dim], Callable[[int, int], int]]] = {
    "add": (lambda a, b: a + b, lambda a, b: a + b),
    "sub": (lambda a, b: a - b, lambda a, b: a - b),
    "mul": (lambda a, b: a * b, lambda a, b: a * b),
    "floordiv": (floordiv, lambda a, b: a // b),
    "mod": (mod, lambda a, b: a % b),
    "ceildiv": (ceildiv, lambda a, b: -(-a // b)),
    "max": (dim_max, max),
    "min": (dim_min, min),
}
DIVISIONS = ("floordiv", "mod", "ceildiv")


def _combine(children: st.SearchStrategy) -> st.SearchStrategy:
    @st.composite
    def build(draw: st.DrawFn) -> tuple[Dim, Evaluator]:
        name = draw(st.sampled_from(sorted(BINARY)))
        (a, f), (b, g) = draw(children), draw(children)
        if name in DIVISIONS and draw(st.booleans()):
            k = draw(CONSTANTS.filter(bool))
            b, g = k, lambda _: k
        if name in DIVISIONS and b == 0:
            b, g = 3, lambda _: 3
        symbolic, concrete = BINARY[name]
        return symbolic(a, b), lambda env: concrete(f(env), g(env))

    return build()


DIMS = st.recursive(_leaf(), _combine, max_leaves=7)


def run(evaluator: Evaluator, env: Mapping[str, int]) -> int | None:
    """The naive value, or None where a divisor is zero."""
    try:
        return evaluator(env)
    except ZeroDivisionError:
        return None


@settings(max_examples=500, deadline=None)
@given(DIMS, st.lists(BINDINGS, min_size=1, max_size=6))
def test_value_equals_naive_evaluation_and_lies_within_bounds(dim, envs):
    built, evaluator = dim
    low, high = bounds(built)
    for env in envs:
        value = run(evaluator, env)
        if value is None:
            continue
        assert evaluate(built, env) == value
        assert low is None or low <= value
        assert high is None or value <= high


@settings(max_examples=300, deadline=None)
@given(DIMS, BINDINGS)
def test_lowering_computes_the_value(dim, env):
    built, _ = dim
    operations = {name: BINARY[name][1] for name in ("add", "sub", "mul", "floordiv", "max", "min")}
    try:
        expected = evaluate(built, env)
    except ZeroDivisionError:
        return
    assert lower_dim(built, lambda x: env[x.name], int, lambda op, a, b: operations[op](a, b)) == expected


@settings(max_examples=400, deadline=None)
@given(DIMS)
def test_text_and_pickle_round_trip(dim):
    built, _ = dim
    again = parse_dim(str(built), TABLE)
    assert again == built
    assert hash(again) == hash(built)
    assert str(again) == str(built)
    assert pickle.loads(pickle.dumps(built)) == built
    assert copy.deepcopy(built) == built


@settings(max_examples=300, deadline=None)
@given(DIMS)
def test_normal_form_is_stable_and_never_holds_a_constant(dim):
    built, _ = dim
    assert substitute(built, {}) == built
    assert type(built) is int or any(monomial for monomial, _ in built.terms)


@settings(max_examples=500, deadline=None)
@given(DIMS, DIMS, st.integers(-3, 12), st.lists(BINDINGS, min_size=1, max_size=6))
def test_questions_are_never_answered_wrongly(left, right, n, envs):
    (a, f), (b, g) = left, right
    answers = equal(a, b), less(a, b), less_equal(a, b), divisible(a, n)
    for env in envs:
        x, y = run(f, env), run(g, env)
        if x is None or y is None:
            continue
        truth = x == y, x < y, x <= y, x % n == 0 if n else x == 0
        for answer, holds in zip(answers, truth, strict=True):
            assert answer is None or answer is holds


@settings(max_examples=300, deadline=None)
@given(DIMS, DIMS, st.lists(BINDINGS, min_size=1, max_size=4))
def test_exact_div_is_exact_and_finds_every_polynomial_quotient(left, right, envs):
    (a, f), (b, g) = left, right
    quotient = exact_div(a, b)
    if quotient is not None:
        for env in envs:
            x, y = run(f, env), run(g, env)
            if x is not None and y is not None:
                assert evaluate(quotient, env) * y == x
    if b != 0:
        found = exact_div(a * b, b)
        assert found is not None
        assert known_equal(found, a)


@settings(max_examples=300, deadline=None)
@given(DIMS, DIMS, BINDINGS)
def test_substitution_commutes_with_evaluation(outer, inner, env):
    (a, _), (b, g) = outer, inner
    value = run(g, env)
    # only what holds within a symbol's range may be substituted: s0 >= 0
    if value is None or value < 0 or less_equal(0, b) is not True:
        return
    try:
        expected = evaluate(a, {**env, "s0": value})
    except ZeroDivisionError:
        return
    try:
        assert evaluate(substitute(a, {"s0": b}), env) == expected
    except ZeroDivisionError:
        pytest.fail("substitution introduced a division by zero")


POLYNOMIAL = st.recursive(
    st.one_of(st.integers(-3, 3), st.sampled_from(["s0", "s1", "m8"])),
    lambda x: st.tuples(st.sampled_from("+-*"), x, x),
    max_leaves=10,
)


def _fold(tree, leaf):
    if not isinstance(tree, tuple):
        return leaf(tree)
    left, right = _fold(tree[1], leaf), _fold(tree[2], leaf)
    return {"+": left + right, "-": left - right, "*": left * right}[tree[0]]


@settings(max_examples=300, deadline=None)
@given(POLYNOMIAL, POLYNOMIAL)
def test_polynomial_equality_agrees_with_sympy(left, right):
    def ours(tree):
        return _fold(tree, lambda x: x if isinstance(x, int) else from_symbol(TABLE[x]))

    def theirs(tree):
        return _fold(tree, lambda x: sympy.Integer(x) if isinstance(x, int) else sympy.Symbol(x))

    for a, b in ((left, right), (("*", left, right), ("*", right, left)), (("-", left, left), 0)):
        assert (ours(a) == ours(b)) == (sympy.expand(theirs(a) - theirs(b)) == 0)
    assert sympy.expand(sympy.sympify(str(ours(left))) - theirs(left)) == 0


# ------------------------------------------------------------------------------------- simplification


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        ((7 * s) // 7, s),
        ((6 * s + 3) // 3, 2 * s + 1),
        ((t * 4 * s) // t, 4 * s),
        ((s // 2) // 3, s // 6),
        ((4 * s) % 4, 0),
        ((s * t) % t, 0),
        (s // t * t + s % t, s),
        (s // 5 * 5 + s % 5, s),
        (e % 8, 0),
        (e % 4, 0),
        ((e // 8) * 8, e),
        (e // 4, 2 * (e // 8)),
        ((e + 3) // 8, e // 8),
        ((s + 3) % 4, (s - 1) % 4),
        (s + (-s) % 4, 4 * ceildiv(s, 4)),
        ((s + (-s) % 4) // 4, ceildiv(s, 4)),
        (ceildiv(s, 4), (s + 3) // 4),
        (ceildiv(s, t), (s - 1) // t + 1),
        (s // -4, -((s + 3) // 4)),
        (symbol("d", min=1, max=7) // 8, 0),
        (symbol("d", min=1, max=7) % 8, symbol("d", min=1, max=7)),
        ((2 * s * t) // (4 * t), s // 2),
        ((s + t) // t, 1 + s // t),
        (dim_max(t, 1), t),
        (dim_max(s, t, s), dim_max(t, s)),
        (dim_max(s, dim_max(t, 3)), dim_max(dim_max(3, s), t)),
        (dim_max(s + 1, t + 1), dim_max(s, t) + 1),
        (dim_max(4 * s, 8), 4 * dim_max(s, 2)),
        (dim_max(s - 3, 0), dim_max(s, 3) - 3),
        (-dim_max(-s, -3), dim_min(s, 3)),
        (dim_min(s, s + t), s),
        (dim_max(s, s // 2), s),
        (s - s, 0),
        (0 * s, 0),
    ],
)
def test_simplification(built, expected):
    assert built == expected
    assert type(built) is type(expected)


def test_division_by_an_expression_that_may_be_zero_is_kept():
    quotient = (s * 4) // s
    assert quotient != 4
    assert evaluate(quotient, {"s": 3}) == 4
    with pytest.raises(ZeroDivisionError):
        evaluate(quotient, {"s": 0})


@pytest.mark.parametrize("kernel", [1, 2, 3, 7])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_routes_to_a_convolution_size_agree(kernel, stride, padding, dilation):
    span = dilation * (kernel - 1)
    size = (s + 2 * padding - span - 1) // stride + 1
    assert size == (s + 2 * padding - span - 1 + stride) // stride
    assert size == ceildiv(s + 2 * padding - span, stride)
    assert size == ((s + padding) + padding - (span + 1)) // stride + 1
    padded = s + padding * 2
    assert size == (padded - 1 - span - (padded - 1 - span) % stride) // stride + 1


def test_stacked_stride_two_convolutions_collapse():
    size: Dim = symbol("h", min=1)
    for _ in range(5):
        size = (size + 2 * 1 - 2 - 1) // 2 + 1
    assert str(size) == "(h + 31)//32"


# ---------------------------------------------------------------------------------------- questions


@pytest.mark.parametrize(
    ("dim", "expected"),
    [
        (5, (5, 5)),
        (2 * s + 1, (1, None)),
        (-s, (None, 0)),
        (s % 4, (0, 3)),
        (s % t, (0, None)),
        (s - s // 2, (0, None)),
        (s * t - s, (0, None)),
        (symbol("p", 2, 9) * symbol("n", -3, 4), (-27, 36)),
        (symbol("n", -3, 4) * symbol("n", -3, 4), (0, 16)),
        (3 * symbol("p", 1, 10) // 4, (0, 7)),
        (symbol("p", 1, 10) - symbol("p", 1, 10) // 4, (1, 8)),
        (dim_max(s, 3) - 3, (0, None)),
        (dim_min(s, 3), (0, 3)),
        (dim_max(s, t) - s, (0, None)),
        (symbol("e", 1, 30, 8), (8, 24)),
        (10 // t, (0, 10)),
    ],
)
def test_bounds(dim, expected):
    assert bounds(dim) == expected


def test_bounds_of_values_beyond_floating_point():
    huge, unbounded = symbol("huge", 0, 2**63 - 1), symbol("u")
    assert bounds(product([huge] * 20) + unbounded) == (0, None)
    assert bounds(product([huge] * 20) * unbounded) == (0, None)
    assert bounds(product([huge] * 20))[1] == (2**63 - 1) ** 20


def test_three_valued_answers():
    assert equal(s, s) is True
    assert equal(s, s + 1) is False
    assert equal(s, t) is None
    assert equal(s, 1) is None
    assert equal(t, 0) is False
    assert equal(2 * s, 7) is False
    assert equal(e, 12) is False
    assert equal(s - s // 2, (s + 1) // 2) is True
    assert equal((-3 * s) // 4, s // 4 - s) is True
    assert equal(symbol("one", 1, 1), 1) is True
    assert less(s, s + 1) is True
    assert less(s, s) is False
    assert less(s, t) is None
    assert less_equal(s // 2, s) is True
    assert less_equal(s, s * t) is True
    assert less_equal(dim_min(s, 5), s) is True
    assert divisible(6 * s + 3, 3) is True
    assert divisible(6 * s + 1, 3) is False
    assert divisible(s, 3) is None
    assert divisible(e, 4) is True
    assert divisible(s * t, t) is True
    assert divisible(0, 0) is True
    assert divisible(12, 5) is False
    assert known_equal(s, s)
    assert not known_equal(s, t)
    assert shapes_known_equal((s, 3), (s, 3))
    assert not shapes_known_equal((s, 3), (s,))
    assert not shapes_known_equal((s, 3), (t, 3))


def test_exact_division():
    assert exact_div(product([s, 16, 4]), product([s, 8])) == 8
    assert exact_div((s + 1) * t, s + 1) == t
    assert exact_div(s * s - 1, s + 1) == s - 1
    assert exact_div(e, 4) == e // 4
    assert exact_div(e * t, 8 * t) == e // 8
    assert exact_div(s, 2) is None
    assert exact_div(s, t) is None
    assert exact_div(7, s) is None
    assert exact_div(0, s) == 0
    assert exact_div(12, 4) == 3
    assert exact_div(12, 0) is None


def test_products_and_extrema_of_ints_are_ints():
    assert product([]) == 1
    assert product([2, 3]) == 6
    assert product([s, 0]) == 0
    assert dim_max(2, 5, 3) == 5
    assert dim_min(2, 5, 3) == 2
    assert ceildiv(7, 2) == 4
    assert mod(-1, 4) == 3
    with pytest.raises(TypeError):
        dim_max()


# ------------------------------------------------------------------------------------ whole expressions


def test_symbols_in_order_of_appearance():
    assert [x.name for x in symbols_of(t * s + e // 3)] == ["s", "t", "e"]
    assert symbols_of(3) == ()


def test_evaluate_names_what_is_wrong():
    with pytest.raises(UnboundSymbolError, match=r"symbol t \(bound: s\)"):
        evaluate(s + t, {"s": 1})
    with pytest.raises(DimError, match="e=9 is not a multiple of 8"):
        evaluate(e + 1, {"e": 9})


def test_substitute():
    assert substitute(s // 2 + t, {"s": 4 * t}) == 3 * t
    assert substitute(s // 2 + t, {"s": 5, "t": 1}) == 3
    assert substitute(s // 2, {"s": t, "t": 7}) == t // 2  # all at once
    assert substitute(e // 8, {"e": 16 * s}) == 2 * s
    assert substitute(dim_max(s, t), {"s": t}) == t
    with pytest.raises(DimError, match="not known to be a multiple of 8"):
        substitute(e, {"e": s})


def test_linear_in():
    sym = symbols_of(s)[0]
    assert linear_in(3 * s + 2) == (sym, 3, 2)
    assert linear_in(-s) == (sym, -1, 0)
    assert linear_in(2 * e) == (symbols_of(e)[0], 2, 0)
    assert linear_in(e // 4) is None
    assert linear_in(s * s) is None
    assert linear_in(s + t) is None
    assert linear_in(s // 2) is None
    assert linear_in(4) is None


def test_identity_of_symbols_includes_range_and_divisor():
    variants = [symbol("x"), symbol("x", min=1), symbol("x", max=9), symbol("x", multiple_of=2)]
    for a, b in itertools.combinations(variants, 2):
        assert a != b
    assert symbol("x") == symbol("x")
    assert len({*variants, symbol("x")}) == 4


@pytest.mark.parametrize(
    "arguments", [("",), ("x", 5, 4), ("x", 1, 7, 8), ("x", 0, None, 0)], ids=["name", "range", "gap", "zero"]
)
def test_impossible_symbols_are_refused(arguments):
    with pytest.raises(DimError):
        symbol(*arguments)


def test_expressions_are_immutable():
    with pytest.raises(AttributeError):
        s.terms = ()
    with pytest.raises(AttributeError):
        symbols_of(s)[0].name = "other"


def test_other_operand_types_are_refused():
    for bad in (1.5, "2", None):
        with pytest.raises(TypeError):
            s + bad
        with pytest.raises(TypeError):
            s // bad


# ----------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (2 * s + 1, "2*s + 1"),
        (s // 4, "s//4"),
        (dim_max(s, 1), "max(s, 1)"),
        ((s + 3) // 2, "(s + 1)//2 + 1"),
        (s * t, "s*t"),
        (s * s - 3, "s*s - 3"),
        (s % 4 + 1, "s%4 + 1"),
        (-(s % t), "-(s%t)"),
        (4 - s, "4 - s"),
        (2 * (s // 3) - t, "2*(s//3) - t"),
        (e // 4 + 8, "e//4 + 8"),
        (symbol("batch size") * 2, '2*"batch size"'),
        (symbol("max") + 1, "max + 1"),
    ],
)
def test_text(dim, text):
    assert str(dim) == text
    assert parse_dim(text, {x.name: x for x in symbols_of(dim)}) == dim


@pytest.mark.parametrize("name", ["a b", "1x", 'q"t', "back\\slash", "line\nbreak", "größe", "min", "x.1", "("])
def test_any_symbol_name_round_trips(name):
    dim = dim_max(symbol(name), 4) // 3
    assert parse_dim(str(dim), {name: Symbol(name)}) == dim
    assert "\n" not in str(dim)


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        ("2*", 2, "the text ends"),
        ("", 0, "the text ends"),
        ("s0 + q", 5, "unknown symbol 'q'"),
        ("s0 s0", 3, "unexpected 's'"),
        ("(s0", 3, "expected '\\)'"),
        ("s0//0", 4, "division by zero"),
        ("s0 % (1 - 1)", 5, "division by zero"),
        ("s0 ** 2", 4, "found '\\*'"),
        ("max(s0, )", 8, "found '\\)'"),
        ("s0 & 1", 3, "unexpected '&'"),
        ('"open', 0, "found '\"'"),
    ],
)
def test_parse_errors_point_at_the_column(text, position, problem):
    with pytest.raises(DimParseError, match=problem) as error:
        parse_dim(text, TABLE)
    assert error.value.position == position
    assert str(error.value).splitlines()[-1] == "    " + " " * position + "^"


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='s01+-*/%(),max" ', max_size=14))
def test_parser_raises_nothing_but_its_own_error(text):
    try:
        result = parse_dim(text, TABLE)
    except DimParseError:
        return
    assert isinstance(result, (int, Expr))


def test_parse_prefix_stops_at_what_it_does_not_know():
    assert parse_dim_prefix("[s0*2, max(s0, 3)]", TABLE, 1) == (from_symbol(TABLE["s0"]) * 2, 5)
    dim, end = parse_dim_prefix("[s0*2, max(s0, 3)]", TABLE, 6)
    assert (str(dim), end) == ("max(s0, 3)", 17)
