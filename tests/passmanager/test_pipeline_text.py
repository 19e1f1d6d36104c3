"""The text of pipelines: parsing, printing, and errors that point at the token."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.errors import GraphOptError, ParseError, UnknownNameError
from graphopt.ir import DType
from graphopt.passmanager import (
    Fixpoint,
    Pass,
    PassManager,
    Pipeline,
    as_pipeline,
    fixpoint,
    get_pass,
    parse_pipeline,
    pass_,
    print_pipeline,
    register_pass,
)
from graphopt.passmanager.registry import registry
from graphopt.rewrite import Contract


class Granularity(enum.Enum):
    PER_TENSOR = 1
    PER_CHANNEL = 2


@dataclass(frozen=True)
class TestKitEvery(Pass):
    """A pass with an option of every kind."""

    __test__ = False

    ratio: float = 0.5
    count: int = 1
    deep: bool = False
    title: str = "plain"
    mode: Literal["min", "max"] = "min"
    maybe: int | None = None
    either: int | str = 0
    sizes: tuple[int, ...] = ()
    pair: tuple[int, float] = (0, 0.0)
    layers: frozenset[str] = frozenset()
    ratios: dict[str, float] = field(default_factory=dict)
    grain: Granularity = Granularity.PER_TENSOR
    dtype: DType = DType.I8
    anything: Any = None


@dataclass(frozen=True)
class TestKitNeeds(Pass):
    __test__ = False

    ratio: float

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio must lie in [0, 1), got {self.ratio}")


@pass_(name="test-kit-function", contract=Contract.BITWISE)
def kit_function(graph, rewriter, *, level: int = 1, name: str = "a"):
    pass


def kit_standard(level: int = 1, fast: bool = False) -> Pipeline:
    return Pipeline((TestKitEvery(count=level), Fixpoint((TestKitNeeds(0.1),))))


@pytest.fixture(autouse=True, scope="module")
def passes() -> Iterator[None]:
    given = {
        "test-kit-every": TestKitEvery,
        "test-kit-needs": TestKitNeeds,
        "test-kit-function": kit_function,
        "test-kit-standard": kit_standard,
    }
    for name, factory in given.items():
        register_pass(factory, name=name)
    yield
    for name in given:
        registry.unregister(name)


CANONICAL = [
    "",
    "test-kit-every",
    "test-kit-every,test-kit-every",
    "test-kit-every{ratio=0.25}",
    "test-kit-every{count=-3,deep=true,title=conv}",
    'test-kit-every{title="two words"}',
    'test-kit-every{title="true"}',
    'test-kit-every{title="a\\"b"}',
    "test-kit-every{mode=max,maybe=3}",
    "test-kit-every{either=three}",
    "test-kit-every{either=3}",
    "test-kit-every{sizes=(1,2,3)}",
    "test-kit-every{sizes=(7,)}",
    "test-kit-every{pair=(1,0.5)}",
    "test-kit-every{layers=(conv1,layer1.0.conv2)}",
    'test-kit-every{ratios={conv1=0.5,"a b"=0.25}}',
    "test-kit-every{grain=per-channel,dtype=i4}",
    "test-kit-every{ratio=1e-05}",
    "test-kit-every{ratio=inf}",
    "fixpoint(test-kit-every)",
    "fixpoint{limit=3}(test-kit-every,pipeline(test-kit-function,fixpoint(test-kit-every)))",
    "test-kit-function{level=2},test-kit-needs{ratio=0.5}",
    "test-kit-standard",
    "test-kit-standard{level=2,fast=true},test-kit-every",
]


@pytest.mark.parametrize("text", CANONICAL)
def test_canonical_text_round_trips(text: str) -> None:
    assert str(parse_pipeline(text)) == text


@pytest.mark.parametrize(
    ("loose", "canonical"),
    [
        (" test-kit-every ,\n test-kit-every ", "test-kit-every,test-kit-every"),
        ("test-kit-every{}", "test-kit-every"),
        ("test-kit-every{ratio=0.5}", "test-kit-every"),
        ("test-kit-every{ ratio = 1 }", "test-kit-every{ratio=1.0}"),
        ("test-kit-every{sizes=[1, 2,]}", "test-kit-every{sizes=(1,2)}"),
        ("test-kit-every{sizes=5}", "test-kit-every{sizes=(5,)}"),
        ("test-kit-every{layers=(b,a)}", "test-kit-every{layers=(a,b)}"),
        ("test-kit-every{grain=PER_CHANNEL}", "test-kit-every{grain=per-channel}"),
        ("test-kit-every{maybe=none}", "test-kit-every"),
        ("fixpoint{limit=10}(test-kit-every)", "fixpoint(test-kit-every)"),
    ],
)
def test_text_is_brought_into_canonical_form(loose: str, canonical: str) -> None:
    assert str(parse_pipeline(loose)) == canonical
    assert str(parse_pipeline(canonical)) == canonical


def test_options_arrive_with_their_types() -> None:
    (made,) = parse_pipeline(
        "test-kit-every{ratio=1,layers=(a,b),ratios={a.b=1},grain=per-channel,dtype=f16,pair=(1,2),anything=(1,x)}"
    ).passes
    assert made == TestKitEvery(
        ratio=1.0,
        layers=frozenset({"a", "b"}),
        ratios={"a.b": 1.0},
        grain=Granularity.PER_CHANNEL,
        dtype=DType.F16,
        pair=(1, 2.0),
        anything=(1, "x"),
    )
    assert type(made.ratio) is float and type(made.pair[1]) is float  # type: ignore[attr-defined]


BAD = [
    ("test-kit-every,", "expected the name of a pass, found the end of the text", 15),
    (",test-kit-every", "expected the name of a pass, found ','", 0),
    ("test-kit-every test-kit-every", "expected ',' or the end of the pipeline", 15),
    ("test-kit-every{ratio}", "expected '=', found '}'", 20),
    ("test-kit-every{ratio=}", "expected a value, found '}'", 21),
    ("test-kit-every{ratio=0.5", "expected ',' or '}' to close the '{' at column 15, found the end of the text", 24),
    ("test-kit-every{ratio=0.5 deep=true}", "expected ',' or '}'", 25),
    ("test-kit-every{ratio=0.5,ratio=0.6}", "option 'ratio' is given twice", 25),
    ("fixpoint(test-kit-every", "expected ')' to close the '(' at column 9, found the end of the text", 23),
    ("fixpoint(test-kit-every))", "expected ',' or the end of the pipeline, found ')'", 24),
    ("test-kit-every{sizes=(1,2}", "expected ')' to close the '(' at column 22", 25),
    ("test-kit-every;test", "unexpected character ';'", 14),
    ("test-kit-every{ratio=fast}", "option 'ratio' of 'test-kit-every' takes a number, got fast", 21),
    ("test-kit-every{count=0.5}", "takes an integer, got 0.5", 21),
    ("test-kit-every{count=true}", "takes an integer, got true", 21),
    ("test-kit-every{deep=1}", "takes true or false, got 1", 20),
    ("test-kit-every{title=1}", "takes a word or a quoted string", 21),
    ("test-kit-every{mode=mean}", "takes one of min, max, got mean", 20),
    ("test-kit-every{maybe=x}", "takes an integer or takes none", 21),
    ("test-kit-every{pair=(1,2,3)}", "takes 2 values in parentheses", 20),
    ("test-kit-every{ratios=3}", "takes {name=value, …}", 22),
    ("test-kit-every{grain=coarse}", "takes one of per-tensor, per-channel", 21),
    ("test-kit-every(test-kit-every)", "takes no passes in parentheses", 0),
    ("test-kit-every,test-kit-needs", "pass 'test-kit-needs' needs option 'ratio'", 15),
    ("test-kit-needs{ratio=2}", "refuses its options: ratio must lie in [0, 1), got 2.0", 0),
    ("fixpoint{limit=0}()", "limit must be at least 1", 0),
]


@pytest.mark.parametrize(("text", "message", "position"), BAD)
def test_malformed_text_is_underlined(text: str, message: str, position: int) -> None:
    with pytest.raises(ParseError) as caught:
        parse_pipeline(text)
    assert message in str(caught.value)
    line, caret = str(caught.value).splitlines()[-2:]
    assert line == f"  line 1: {text}" and caret == " " * (len("  line 1: ") + position) + "^"


@pytest.mark.parametrize(
    ("text", "message", "position"),
    [
        ("test-kit-every,test-kit-evry", "Unknown pass 'test-kit-evry'. Did you mean 'test-kit-every'", 15),
        ("test-kit-every{ration=1}", "Unknown option of test-kit-every 'ration'. Did you mean 'ratio'", 15),
        ("test-kit-function{levle=1}", "Did you mean 'level'", 18),
    ],
)
def test_unknown_names_suggest_near_ones(text: str, message: str, position: int) -> None:
    with pytest.raises(UnknownNameError) as caught:
        parse_pipeline(text)
    assert message in str(caught.value)
    assert str(caught.value).splitlines()[-1] == " " * (len("  line 1: ") + position) + "^"


VALUES = {
    "ratio": st.floats(allow_nan=False),
    "count": st.integers(-(10**9), 10**9),
    "deep": st.booleans(),
    "title": st.text(max_size=8),
    "mode": st.sampled_from(["min", "max"]),
    "maybe": st.none() | st.integers(0, 5),
    "either": st.integers(0, 5) | st.text(max_size=5),
    "sizes": st.tuples() | st.tuples(st.integers()) | st.tuples(st.integers(), st.integers()),
    "pair": st.tuples(st.integers(), st.floats(allow_nan=False)),
    "layers": st.frozensets(st.text(max_size=4), max_size=3),
    "ratios": st.dictionaries(st.text(max_size=4), st.floats(allow_nan=False), max_size=3),
    "grain": st.sampled_from(Granularity),
    "dtype": st.sampled_from(DType),
}
EVERY = st.fixed_dictionaries({}, optional=VALUES).map(lambda options: TestKitEvery(**options))
PASSES = st.recursive(
    EVERY,
    lambda inner: st.builds(
        lambda passes, limit: Fixpoint(tuple(passes), limit=limit) if limit else Pipeline(tuple(passes)),
        st.lists(inner, max_size=3),
        st.integers(0, 12),
    ),
    max_leaves=5,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(PASSES, max_size=3))
def test_every_pipeline_prints_to_text_that_parses_back(passes: list[Pass]) -> None:
    pipeline = Pipeline(tuple(passes))
    assert parse_pipeline(str(pipeline)) == pipeline


def test_whatever_names_passes_makes_a_pipeline() -> None:
    every = TestKitEvery()
    for given_ in (every, TestKitEvery, "test-kit-every", [every], ["test-kit-every"], Pipeline((every,)), [[every]]):
        assert list(as_pipeline(given_).leaves()) == [every]
    assert str(fixpoint(every, "test-kit-function", limit=2)) == "fixpoint{limit=2}(test-kit-every,test-kit-function)"
    assert PassManager(["test-kit-every,test-kit-function", TestKitEvery]).pipeline.leaves()
    with pytest.raises(GraphOptError, match="3 is no pass"):
        as_pipeline(3)
    with pytest.raises(GraphOptError, match="'test-kit-needs' needs options \\(ratio\\)"):
        as_pipeline(TestKitNeeds)


def test_a_named_pipeline_prints_as_its_name_and_runs_as_its_passes() -> None:
    pipeline = parse_pipeline("test-kit-standard{level=3}")
    assert [p.name for p in pipeline.leaves()] == ["test-kit-every", "test-kit-needs"]
    assert print_pipeline(pipeline) == "test-kit-standard{level=3}"
    assert get_pass("test-kit-standard", level=3).passes[0].count == 3  # type: ignore[attr-defined]
