"""Why a pass fired or didn't: candidates, reasons, fates and histories."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.debugging.find import find_nodes
from graphopt.errors import UnknownNameError
from graphopt.ir import Graph, Node
from graphopt.ops import parse
from graphopt.passmanager import Pass, PassContext, PassResult, Provenance, RulePass, as_pass, rewrite
from graphopt.passmanager.explains import Explains
from graphopt.rewrite import Contract, Match, Rewriter, Rule, aten, constant, var
from graphopt.rewrite.attempts import Stage
from graphopt.rewrite.rule import Replacement
from tests.zoo import MODELS

x, y = var("x"), var("y")


class FoldScale(Rule):
    """(x * a) * b -> x * (a * b), for a weight that nothing else uses"""

    name = "fold-scale"
    pattern = aten.mul.Tensor(aten.mul.Tensor(x, constant("a")).named("inner"), constant("b"))

    def check(self, match: Match) -> str | None:
        uses = match["a"].num_uses
        return f"weight has {uses - 1} other use{'s' if uses > 2 else ''}" if uses > 1 else None

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        product = match["a"].constant.tensor * match["b"].constant.tensor
        return rewriter.create("aten.mul.Tensor", match["x"], rewriter.constant(product)).result


SHARED = """input %x: f32[2]
constant %w: f32[2] = [1.0, 2.0]
constant %v: f32[2] = [3.0, 4.0]
%a = aten.mul.Tensor(%x, %w) @ "net.py":3 "first"
%b = aten.mul.Tensor(%a, %v) @ "net.py":4 "second"
%c = aten.mul.Tensor(%x, %w) @ "net.py":5
%d = aten.mul.Tensor(%c, %x) @ "net.py":6
return %b, %d"""


def test_candidates_come_closest_first_with_reasons() -> None:
    found = graphopt.explain(parse(SHARED), as_pass(FoldScale()))
    assert [c.name for c in found.candidates] == ["b", "d", "a", "c"]
    first, second, third, _ = (c.closest for c in found.candidates)
    assert (first.stage, first.reasons) == (Stage.CHECK, ("weight has 1 other use",))
    assert (second.stage, second.matched, second.total) == (Stage.PATTERN, 3, 4)
    assert second.reasons == ("operand 1 is the input %x, the rule wants a stored tensor",)
    assert third.reasons == ("operand 0 is the input %x, the rule wants aten.mul.Tensor",)
    assert found.applied == []
    text = str(found)
    assert "fold-scale (4 of 4 parts match): weight has 1 other use" in text
    assert "net.py:4 second" in text
    assert json.loads(found.to_json())["candidates"][0]["attempts"][0]["stage"] == "check"


@pytest.mark.parametrize("text", ["%b", "b", "second", "net.py:4"])
def test_a_node_by_name_module_or_line(text: str) -> None:
    found = graphopt.explain(parse(SHARED), as_pass(FoldScale()), text)
    assert [c.name for c in found.candidates] == ["b"]
    assert [h.name for h in found.histories] == ["b"]
    assert "wants aten.mul.Tensor(aten.mul.Tensor(x, a), b)" in str(found)


def test_an_unknown_node_is_an_error_with_near_names() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown node 'seconds'\. Did you mean 'second'"):
        graphopt.explain(parse(SHARED), as_pass(FoldScale()), "seconds")


def test_what_became_of_a_node_that_was_replaced() -> None:
    graph = parse(SHARED.replace("%c = aten.mul.Tensor(%x, %w)", "%c = aten.neg(%x)"))
    found = graphopt.explain(graph, as_pass(FoldScale()), "%b")
    assert [(a.rule, a.number, a.step) for a in found.applied] == [("fold-scale", 1, 1)]
    assert len(found.fates) == 1
    assert "%b = aten.mul.Tensor(%a, %v) was replaced in step 1 (fold-scale) by rule 'fold-scale'" in found.fates[0]
    (history,) = found.histories
    assert history.original == "%b = aten.mul.Tensor(%a, %v)"
    assert history.location == "net.py:4" and history.rules == ("fold-scale",)
    gone = graphopt.explain(graph, as_pass(FoldScale()), "%a")
    assert gone.fates == ["%a = aten.mul.Tensor(%x, %w) is gone since step 1 (fold-scale)"]


@rewrite(aten.add(x, y), name="late")
def late(x: Any, y: Any, rewriter: Rewriter) -> Any:
    rewriter.create("aten.neg", x)
    return "nothing to gain"


@rewrite(aten.add(x, y), name="other-type")
def other_type(x: Any, y: Any, rewriter: Rewriter) -> Any:
    return rewriter.create("aten.sum", x).result


@rewrite(aten.add(x, y), name="raises")
def raises(x: Any, y: Any) -> Any:
    raise LookupError("no such weight")


ADD = """input %x: f32[2]
input %y: f32[2]
%z = aten.add.Tensor(%x, %y)
return %z"""


@pytest.mark.parametrize(
    ("rule", "reason"),
    [(late, "nothing to gain"), (other_type, "the type would change from f32[2] to f32[]")],
)
def test_rules_that_decline_while_they_rewrite(rule: Any, reason: str) -> None:
    graph = parse(ADD)
    before = str(graph)
    found = graphopt.explain(graph, rule)
    assert found.candidates[0].closest.stage is Stage.REWRITE
    assert found.candidates[0].closest.reasons == (reason,)
    assert str(graph) == before
    assert found.never_fired[0].matches == 1


@pytest.mark.unchecked_passes
def test_a_rule_that_raises_is_told() -> None:
    found = graphopt.explain(parse(ADD), raises)
    assert found.candidates[0].closest.reasons == ("it raises LookupError: no such weight",)
    assert found.notes[0].startswith("raises was rolled back: ")


@dataclass(frozen=True)
class HalveChannels(Pass):
    """A pass without rules that explains itself."""

    contract = Contract.BITWISE

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        return PassResult(False, notes=["2 layers were looked at"])

    def explain(self, graph: Graph, node: Node) -> str | None:
        return "its channels are returned" if node.op.base == "aten.add" else None


@dataclass(frozen=True)
class Silent(Pass):
    contract = Contract.BITWISE

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        return PassResult(False, notes=["nothing to do"])


def test_passes_that_are_no_rules() -> None:
    assert isinstance(HalveChannels(), Explains) and not isinstance(Silent(), Explains)
    found = graphopt.explain(parse(ADD), HalveChannels())
    assert [(c.name, c.reason) for c in found.candidates] == [("z", "its channels are returned")]
    assert found.notes == ["2 layers were looked at"]
    assert "its channels are returned" in str(found)
    silent = graphopt.explain(parse(ADD), Silent())
    assert silent.notes == [
        "nothing to do",
        "silent is not made of rules and does not explain itself; its notes are all",
    ]


class _Product(nn.Module):
    """Attention whose softmax is also returned."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.softmax(q @ k.transpose(-1, -2) * 0.5, -1)
        return weights @ v, weights


def test_attention_that_is_not_fused() -> None:
    q, k, v = (torch.randn(2, 4, 8) for _ in range(3))
    found = graphopt.explain(_Product(), "fuse-attention", args=(q, k, v))
    closest = found.candidates[0].closest
    assert (closest.rule, closest.stage) == ("raise-attention", Stage.CHECK)
    assert closest.reasons == ("%softmax has 1 other use, the rule wants a single one",)
    assert found.never_fired[0].rule == "raise-attention"


@pytest.mark.parametrize(
    ("name", "pass_"), [("resnet8", "fold-batch-norm"), ("minilm", "canonicalize"), ("lstm", "fuse-linear")]
)
def test_real_models(name: str, pass_: str) -> None:
    args, kwargs = MODELS[name].inputs(2)
    found = graphopt.explain(MODELS[name].build(), pass_, args=args, kwargs=kwargs)
    # The pass came to an end: what it left alone, it left for a reason.
    assert all(a.stage is not Stage.APPLIES for c in found.candidates for a in c.attempts)
    assert all(a.reasons for c in found.candidates for a in c.attempts)
    assert found.histories and all(h.location for h in found.histories if h.original)
    assert sum(count.applied for count in found.rules) >= len(found.applied)
    assert str(found)


def test_histories_lead_back_to_the_source() -> None:
    args, _ = MODELS["resnet8"].inputs(2)
    found = graphopt.explain(MODELS["resnet8"].build(), "fold-batch-norm", args=args)
    folded = [h for h in found.histories if h.rules == ("batch-norm-into-previous",)]
    assert len(folded) == len(found.applied) == 9
    assert all(h.original.startswith("%batch_norm") and "nets_cnn.py:" in h.location for h in folded)


def test_compiled_models_explain_themselves() -> None:
    args, _ = MODELS["resnet8"].inputs(2)
    model = MODELS["resnet8"].build()
    kept = graphopt.compile(model, args, target="eager", instruments=[Provenance()])
    assert len(kept.explain("fold-batch-norm").applied) == 9
    plain = graphopt.compile(model, args, target="eager")
    assert plain.explain("fold-batch-norm").applied == []
    assert plain.explain("fold-batch-norm").candidates


def test_rules_for_inference_alone() -> None:
    args, _ = MODELS["resnet8"].inputs(2)
    found = graphopt.explain(MODELS["resnet8"].build(), "fold-batch-norm", "stem.1", args=args, target="fx")
    closest = found.candidates[0].closest
    assert closest.rule == "batch-norm-into-previous"
    assert closest.reasons == ("the rule is for inference alone, and the result is to be trained",)


def test_nodes_in_regions_are_candidates() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, lambda x: x.relu() + 1, lambda x: x - 1, (x,))

    @rewrite(aten.relu(aten.neg(x)))
    def relu_of_neg(x: Any) -> Any:
        return x

    found = graphopt.explain(Branches(), relu_of_neg, args=(torch.ones(2),), passes="none")
    assert [c.op for c in found.candidates] == ["aten.relu"]


def test_find_nodes_by_operator() -> None:
    graph = parse(SHARED)
    assert [n.results[0].name for n in find_nodes(graph, "aten.mul.Tensor")] == ["a", "b", "c", "d"]
    assert [n.results[0].name for n in find_nodes(graph, "mul")] == ["a", "b", "c", "d"]


def test_every_default_pass_can_be_explained() -> None:
    args, _ = MODELS["lenet"].inputs(2)
    model = MODELS["lenet"].build()
    for pass_ in ("canonicalize", "fold-constants", "fold-pad", "legalize", "common-subexpressions", "dead-code"):
        found = graphopt.explain(model, pass_, args=args, validate=False)
        assert found.pass_ == pass_ and str(found)


def test_rule_pass_is_not_run_on_the_callers_graph() -> None:
    graph = parse(SHARED)
    before = str(graph)
    pass_: RulePass = as_pass(FoldScale())
    graphopt.explain(graph, pass_)
    assert str(graph) == before
