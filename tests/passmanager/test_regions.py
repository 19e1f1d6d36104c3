"""Each rewritten region is checked alone: an error that later layers hide is found, and named, without another run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graphopt
from graphopt.calling import CallingConvention
from graphopt.errors import ValidationError
from graphopt.ir import Graph
from graphopt.ops import parse
from graphopt.passmanager import PassContext, PassManager, PassRecord, Report, Status, as_pass, pass_, rewrite
from graphopt.passmanager.sketches import ROW, SMALL, Sums, differ, sketch
from graphopt.pipelines import resolve_passes
from graphopt.rewrite import Algebra, Contract, Rule, aten, var
from tests.passmanager.models import context, mlp, split_linear
from tests.zoo import MODELS

pytestmark = pytest.mark.unchecked_passes

x, w, b = var("x"), var("w"), var("b")


@rewrite(aten.linear(x, w, b))
def drop_bias(x: Any, w: Any, b: Any) -> Any:
    return aten.linear(x, w) if b is not None else None


@rewrite(aten.sigmoid(x))
def slightly_off(x: Any) -> Any:
    return aten.mul.Scalar(aten.silu(aten.abs(x)), 1.0)


def run(passes: Any, graph: Graph, given: PassContext | None = None) -> tuple[Graph, Report]:
    return PassManager(passes).run(graph, given or PassContext())


def failed(passes: Any, graph: Graph, given: PassContext | None = None) -> PassRecord:
    _, report = run(passes, graph, given)
    (record,) = report.rolled_back
    assert record.status is Status.ROLLED_BACK and record.check == "numbers"
    return record


HIDING = {
    "product with zero": "%z = mul.Scalar(%h) {other=0.0}",
    "relu of what is negative": "%n = abs(%h)\n%m = neg(%n)\n%z = relu(%m)",
    "saturation": "%s = mul.Scalar(%h) {other=1e6}\n%z = clamp(%s) {min=5.0, max=5.0}",
    "comparison": "%z = gt.Scalar(%h) {other=1e9}",
    "far below the scale": "%s = mul.Scalar(%h) {other=1e-30}\n%z = add.Scalar(%s) {other=1.0}",
}


@pytest.mark.parametrize("hiding", HIDING.values(), ids=HIDING.keys())
@pytest.mark.parametrize("width", [16, 3 * SMALL])
def test_an_error_that_a_later_layer_hides_is_found(hiding: str, width: int) -> None:
    graph = parse(
        f"""
        input %x: f32[N, 8]
        parameter %w: f32[{width}, 8]
        parameter %b: f32[{width}]
        %h = linear(%x, %w, %b) @ "model.py":3 "fc"
        {hiding}
        return %z""",
        {"w": torch.randn(width, 8), "b": torch.rand(width) + 0.5},
    )
    record = failed(drop_bias, graph)
    assert "%h in place of %h" in record.reason and "later layers hide that" in record.reason
    assert "rule 'drop-bias', application 1, at %h = aten.linear(%x, %w, %b)" in record.reason
    assert "from model.py:3 fc" in record.reason and " → " in record.reason


def test_one_wrong_element_of_a_large_tensor_is_found() -> None:
    @rewrite(aten.neg(x))
    def wrong_corner(x: Any, rewriter: Any) -> Any:
        value = torch.zeros(100, 100)
        value[99, 99] = 1e-2
        return aten.sub.Tensor(rewriter.constant(value), x)

    graph = parse("input %x: f32[100, 100]\n%r = relu(%x)\n%y = neg(%r)\n%z = mul.Scalar(%y) {other=0.0}\nreturn %z")
    record = failed(wrong_corner, graph)
    assert "at [99, 99]; 1 of 10000 elements do" in record.reason


def test_the_first_wrong_region_is_named_not_those_it_feeds() -> None:
    @rewrite(aten.relu(x), contract=Contract.BITWISE)
    def relu_to_abs(x: Any) -> Any:
        return aten.abs(x)

    both = as_pass([relu_to_abs, Algebra("neg-neg", aten.neg(aten.neg(x)), x, Contract.BITWISE)], "both")
    graph = parse("""
    input %x: f32[4, 4]
    %n = neg(%x)
    %a = neg(%n)
    %r = relu(%a) @ "model.py":4
    %s = neg(%r)
    %t = neg(%s)
    %c = cos(%t)
    %z = mul.Scalar(%c) {other=0.0}
    return %z""")
    record = failed(both, graph)
    assert "%r in place of %r" in record.reason and "rule 'relu-to-abs'" in record.reason
    assert "from model.py:4" in record.reason


def test_weights_that_are_rounded_are_no_alarm_and_wrong_ones_are() -> None:
    def scaled(factor: float) -> Any:
        @rewrite(aten.mul.Scalar(aten.linear(x, w), 3.0), name=f"scale-{factor}")
        def scale(x: Any, w: Any, rewriter: Any) -> Any:
            return aten.linear(x, rewriter.constant(w.constant.tensor * factor))

        return scale

    text = """
    input %x: f32[N, 64]
    parameter %w: f32[300, 64]
    %h = linear(%x, %w)
    %y = mul.Scalar(%h) {other=3.0}
    %z = mul.Scalar(%y) {other=0.0}
    return %z"""
    graph = parse(text, {"w": torch.randn(300, 64)})
    _, report = run(scaled(3.0), graph)
    assert [r.status for r in report.records] == [Status.KEPT]
    failed(scaled(3.001), graph)


def test_what_changes_in_place_claims_nothing_inside() -> None:
    @pass_
    def equalize(graph: Graph, rewriter: Any) -> None:
        """Scale a layer up, and the next down: the function is the same, the values between are not."""
        for name, factor in (("w1", 2.0), ("b1", 2.0), ("w2", 0.5)):
            value = graph.constants[name]
            rewriter.replace_value(value, rewriter.constant_like(value, value.constant.tensor * factor))

    graph = parse(
        """
        input %x: f32[N, 8]
        parameter %w1: f32[16, 8]
        parameter %b1: f32[16]
        parameter %w2: f32[4, 16]
        %h = linear(%x, %w1, %b1)
        %a = relu(%h)
        %y = linear(%a, %w2)
        return %y"""
    )
    _, report = run(equalize, graph)
    assert [r.status for r in report.records] == [Status.KEPT]


def test_a_root_that_is_changed_in_place_answers_for_its_result() -> None:
    class Slope(Rule):
        name = "slope"
        contract = Contract.BITWISE
        pattern = aten.leaky_relu(x, ...)

        def guard(self, match: Any) -> bool:
            return match.root.attr("negative_slope") != 0.5

        def rewrite(self, match: Any, rewriter: Any) -> None:
            rewriter.set_attributes(match.root, negative_slope=0.5)

    graph = parse("input %x: f32[8]\n%a = leaky_relu(%x)\n%z = mul.Scalar(%a) {other=0.0}\nreturn %z")
    assert "%a in place of %a" in failed(Slope(), graph).reason


def test_ties_are_excused() -> None:
    @rewrite(aten.argmax(aten.mul.Scalar(x, 3.0)), contract=Contract.REASSOCIATING)
    def argmax_of_sums(x: Any) -> Any:
        return aten.argmax(aten.add.Tensor(aten.add.Tensor(x, x), x))

    graph = parse("input %x: f32[64]\n%s = mul.Scalar(%x) {other=3.0}\n%i = argmax(%s)\nreturn %i")
    sample = torch.full([64], 1 / 3) * (1 + torch.arange(64) % 2 * 2**-24)
    _, report = run(argmax_of_sums, graph, PassContext(samples=[[sample]]))
    assert report.rolled_back == []


def test_merged_constants_that_differ_are_found() -> None:
    @pass_(contract=Contract.BITWISE)
    def merge(graph: Graph, rewriter: Any) -> None:
        first, second = graph.constants.values()
        rewriter.replace_value(second, first)

    graph = parse(
        "input %x: f32[4]\nparameter %u: f32[4]\nparameter %v: f32[4]\n%a = mul.Tensor(%x, %u)\n"
        "%b = mul.Tensor(%a, %v)\n%z = mul.Scalar(%b) {other=0.0}\nreturn %z",
        {"u": torch.ones(4), "v": torch.full([4], 2.0)},
    )
    assert "%u in place of %v" in failed(merge, graph).reason


def test_random_numbers_inside_are_no_alarm() -> None:
    @rewrite(aten.neg(aten.neg(x)), contract=Contract.BITWISE)
    def twice(x: Any) -> Any:
        return x

    graph = parse("""
    input %x: f32[64]
    %d = dropout(%x) {p=0.5, train=true}
    %a = neg(%d)
    %b = neg(%a)
    %z = mul.Scalar(%b) {other=0.0}
    return %z""")
    _, report = run(twice, graph)
    assert report.rolled_back == []


@pytest.mark.parametrize("name", ["lenet", "hf-bert", "hf-mobilenet-v2", "multi-output", "constant-output"])
def test_validation_costs_no_more_than_a_run_for_each_graph_and_set(name: str) -> None:
    entry = MODELS[name]
    args, kwargs = entry.inputs()
    graph = graphopt.trace(entry.build(), args, kwargs)
    sample = CallingConvention(graph).flatten(args, kwargs)
    _, report = run(resolve_passes("default", "cpu", False), graph, PassContext(samples=[sample]))
    assert report.kept and report.rolled_back == []
    assert report.model_runs <= 1.2 * (len(report.kept) + 1) * report.samples


def test_a_pass_that_is_right_costs_exactly_one_run_a_set() -> None:
    _, report = run([split_linear], mlp(), context())
    assert report.samples == 2 and report.model_runs == 4


def test_errors_are_raised_with_the_region() -> None:
    graph = parse("input %x: f32[8]\n%a = sigmoid(%x)\n%z = mul.Scalar(%a) {other=0.0}\nreturn %z")
    with pytest.raises(ValidationError, match=r"(?s)%a in place of %a.*rule 'slightly-off'"):
        PassManager(slightly_off, on_failure="raise").run(graph)


class TestSketches:
    @pytest.mark.parametrize("size", [1, SMALL, SMALL + 1, 5 * ROW, 7 * ROW + 3])
    def test_equal_tensors_do_not_differ_and_others_do(self, size: int) -> None:
        value = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
        assert not differ(sketch(value), sketch(value.clone()), 0.0)
        assert not differ(sketch(value), sketch(value * (1 + 1e-14)), 1e-9)
        for place in (0, size // 2, size - 1):
            other = value.clone()
            other[place] += 1e-5
            assert differ(sketch(value), sketch(other), 1e-9)

    @pytest.mark.parametrize("size", [10, 3 * SMALL])
    def test_special_elements(self, size: int) -> None:
        value = torch.ones(size, dtype=torch.float64)
        value[3], value[4], value[5], value[6] = torch.nan, torch.inf, -torch.inf, -3.4e38
        assert not differ(sketch(value), sketch(value.clone()), 1e-9)
        for place, new in ((0, torch.nan), (3, 0.0), (4, -torch.inf), (5, 1.0), (7, 2.0)):
            other = value.clone()
            other[place] = new
            assert differ(sketch(value), sketch(other), 1e-9)

    @pytest.mark.parametrize("size", [10, 3 * SMALL])
    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex128])
    def test_other_types(self, size: int, dtype: torch.dtype) -> None:
        value = torch.ones(size, dtype=dtype)
        other = value.clone()
        other[-1] = 0
        assert not differ(sketch(value), sketch(value.clone()), 1e-9)
        assert differ(sketch(value), sketch(other), 1e-9)

    def test_shapes_and_kinds(self) -> None:
        assert differ(sketch(torch.ones(2, 3)), sketch(torch.ones(3, 2)), 1.0)
        assert differ(sketch(torch.ones(SMALL, 2)), sketch(torch.ones(2, SMALL)), 1.0)
        assert differ(1, 2, 1e-9) and not differ(1.0, 1.0, 0.0) and not differ(float("nan"), float("nan"), 0.0)
        assert sketch("text") is None

    def test_a_view_does_not_keep_what_it_looks_into(self) -> None:
        large = torch.ones(100 * SMALL)
        kept = sketch(large[:4])
        assert kept.untyped_storage().nbytes() < 100
        sums = sketch(large)
        assert isinstance(sums, Sums) and sums.sums.numel() <= 1 + large.numel() // ROW
