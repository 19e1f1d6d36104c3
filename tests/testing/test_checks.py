"""The checks catch what they are for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from graphopt.ir import Graph
from graphopt.ops import parse
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter
from graphopt.testing import Difference, assert_equivalent, check, check_pass, shrink
from graphopt.testing.watch import watching

pytestmark = pytest.mark.unchecked_passes

RELU = """
    input %x: f32[N, 3]
    %y = relu(%x)
    return %y"""
CLAMP = """
    input %x: f32[N, 3]
    %y = clamp(%x) {min=0.0, max=6.0}
    return %y"""


@dataclass(frozen=True)
class Replace(Pass):
    """Puts another operator in the place of each relu, and says what it is told to say."""

    contract = Contract.BITWISE
    op: str = "aten.relu6"
    truthful: bool = True

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        rewriter = Rewriter(graph)
        for node in graph.nodes:
            if node.op.name == "aten.relu":
                with rewriter.at(node):
                    rewriter.replace(node, [rewriter.create(self.op, node.operands[0]).result])
        return PassResult(rewriter.changed and self.truthful)


# assert_equivalent


def test_the_first_output_that_differs_is_named() -> None:
    graph = parse("input %x: f32[N, 3]\n%y = relu(%x)\n%z = neg(%x)\nreturn %y, %z")
    with pytest.raises(Difference, match=r"^output 1: the error \S+ exceeds") as caught:
        assert_equivalent(graph, lambda x: (x.relu(), -1.001 * x))
    assert caught.value.output == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x.relu().double(), "was torch.float32, is torch.float64"),
        (lambda x: x.relu()[:1, :1], r"had shape \[3, 3\], has \[1, 1\]"),
        (lambda x: (x.relu(), x), "2 outputs in place of 1"),
        (lambda x: x.relu() / (x <= 0.7), "became or ceased to be NaN"),
    ],
)
def test_forms_and_special_values_count(wrong: Any, message: str) -> None:
    with pytest.raises(Difference, match=message):
        assert_equivalent(parse(RELU), wrong)


def test_a_second_size_is_tried() -> None:
    with pytest.raises(Difference):
        assert_equivalent(parse(RELU), lambda x: x.relu() if x.shape[0] != 1 else x)


def test_a_module_and_given_inputs() -> None:
    assert_equivalent(parse(RELU), torch.nn.ReLU())
    assert_equivalent(parse(RELU), torch.nn.Identity(), [torch.ones(2, 3)])


def test_rounding_is_no_difference_and_a_thousandth_is() -> None:
    graph = parse("input %x: f32[4, 64]\nparameter %w: f32[8, 64]\n%y = linear(%x, %w)\nreturn %y")
    weight = graph.constants["w"].constant.tensor  # type: ignore[union-attr]
    assert_equivalent(graph, lambda x: sum(x[:, i : i + 8] @ weight[:, i : i + 8].t() for i in range(0, 64, 8)))
    with pytest.raises(Difference):
        assert_equivalent(graph, lambda x: x @ weight.t() + 1e-3)


def test_contracts_of_graphs() -> None:
    graph = parse("input %x: f32[9]\n%y = add.Scalar(%x) {other=0}\nreturn %y")
    same = parse("input %x: f32[9]\nreturn %x")
    assert_equivalent(graph, same, contract=Contract.VALUE_EXACT)
    with pytest.raises(Difference, match=r"not bitwise: output 0"):
        assert_equivalent(graph, same, contract=Contract.BITWISE)


def test_special_values_are_tried_for_exact_contracts() -> None:
    graph = parse("input %x: f32[9]\n%y = mul.Scalar(%x) {other=0}\nreturn %y")
    zero = parse("input %x: f32[9]\n%y = zeros_like(%x)\nreturn %y")
    assert_equivalent(graph, zero, contract=Contract.VALUE_EXACT, special=False)
    with pytest.raises(Difference):
        assert_equivalent(graph, zero, contract=Contract.VALUE_EXACT)


def test_another_interface_is_a_difference() -> None:
    with pytest.raises(Difference, match="the graph returned 1 values and returns 2"):
        assert_equivalent(parse(RELU), parse(RELU.replace("return %y", "return %y, %y")))


# check


def test_check_compares_text_counts_and_numbers() -> None:
    checked = check(
        "canonicalize", "input %x: f32[N]\n%y = neg(%x)\n%z = neg(%y)\nreturn %z", "input %x: f32[N]\nreturn %x"
    )
    assert checked.result.changed
    assert len(checked.graph) == 0


def test_check_shows_a_diff() -> None:
    with pytest.raises(AssertionError, match=r"another graph was expected[\s\S]*-  %y.* = aten.relu\(%x\)") as caught:
        check(Replace("aten.neg"), RELU, RELU, numeric=False)
    assert "+  %y: f32[N, 3] = aten.neg(%x)" in str(caught.value)


def test_check_wants_the_graph_left_alone_without_an_expectation() -> None:
    with pytest.raises(AssertionError, match="the graph was to be left alone"):
        check(Replace(), RELU)


def test_check_runs_the_numbers() -> None:
    before = RELU.replace("relu(%x)", "mul.Scalar(%x) {other=9.0}\n%z = relu(%y)").replace("return %y", "return %z")
    after = before.replace("relu", "relu6")
    with pytest.raises(Difference, match="not bitwise"):
        check(Replace(), before, after, special=False)
    check(Replace(), before, after, numeric=False)


def test_check_catches_a_lie_a_wrong_count_and_a_missing_reason() -> None:
    after = RELU.replace("relu", "relu6")
    with pytest.raises(AssertionError, match="says changed=False"):
        check(Replace(truthful=False), RELU, after, special=False)
    with pytest.raises(AssertionError, match=r"rules applied: \{\}, expected: \{'x': 1\}"):
        check(Replace(), RELU, after, {"x": 1}, special=False)
    with pytest.raises(AssertionError, match="no reason says 'nine'"):
        check("canonicalize", RELU, None, declined="nine")


# check_pass


def test_check_pass_finds_and_shrinks_a_wrong_rewrite() -> None:
    with pytest.raises(AssertionError, match="not bitwise"):
        check_pass(Replace("aten.neg"), examples=50, operators=["relu", "neg", "add.Tensor"], max_nodes=3)


def test_check_pass_finds_a_lie() -> None:
    with pytest.raises(AssertionError, match="says that it changed nothing"):
        check_pass(Replace("aten.relu6", truthful=False), examples=50, operators=["relu", "neg"], max_nodes=3)


def test_check_pass_finds_a_pass_that_never_ends() -> None:
    @dataclass(frozen=True)
    class Grow(Pass):
        """Adds a relu before each relu."""

        def run(self, graph: Graph, context: PassContext) -> PassResult:
            rewriter = Rewriter(graph)
            for node in graph.nodes:
                if node.op.name == "aten.relu":
                    with rewriter.at(node):
                        rewriter.set_operand(node, 0, rewriter.create("aten.relu", node.operands[0]).result)
            return PassResult(rewriter.changed)

    check_pass(Grow(), examples=10, operators=["relu"], max_nodes=2)
    with pytest.raises(AssertionError, match="is not idempotent"):
        check_pass(Grow(), examples=10, operators=["relu"], max_nodes=2, idempotent=True)


# watching


def test_watching_checks_every_run_and_leaves_no_trace() -> None:
    original = Replace.run
    with watching():
        with pytest.raises(Difference):
            Replace("aten.neg")(parse(RELU))

        @dataclass(frozen=True)
        class Late(Replace):
            """Defined while runs are watched."""

            def run(self, graph: Graph, context: PassContext) -> PassResult:
                return super().run(graph, context)

        with pytest.raises(Difference):
            Late("aten.neg").run(parse(RELU), PassContext())
    assert Replace.run is original
    Late("aten.neg").run(parse(RELU), PassContext())


def test_watching_sees_broken_graphs() -> None:
    @dataclass(frozen=True)
    class Break(Pass):
        """Gives a result a type that it does not have."""

        def run(self, graph: Graph, context: PassContext) -> PassResult:
            node = graph.nodes[0]
            node.result.type = node.result.type.with_shape((1, 2, 3))  # type: ignore[union-attr]
            return PassResult(True)

    with watching(), pytest.raises(Exception, match="inference says"):
        Break().run(parse(RELU), PassContext())


# shrink


def test_shrink_keeps_what_fails() -> None:
    graph = parse("""
        input %x: f32[N, 4]
        parameter %w: f32[4, 4]
        %a = relu(%x)
        %b = linear(%a, %w)
        %c = sigmoid(%b)
        %d = add.Tensor(%c, %a)
        return %d, %a""")
    small = shrink(graph, lambda g: any(node.op.name == "aten.sigmoid" for node in g))
    assert [node.op.name for node in small] == ["aten.sigmoid"]
    assert len(small.outputs) == 1
