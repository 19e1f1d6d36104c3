"""The pass: options, reports, refusals, budgets, and what it says where it cannot do what is asked."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

import graphopt
from graphopt.analysis import CostModel, run_graph
from graphopt.analysis.channels import ChannelAnalysis
from graphopt.errors import GraphOptError, InputError, ParseError, PassError, TargetError, UnknownNameError
from graphopt.ir import ConstantKind, Graph, difference
from graphopt.ops import parse
from graphopt.passes.prune_channels import PruneChannels
from graphopt.passes.pruning.budget import Unreachable
from graphopt.passes.pruning.masked import mask_module, mask_slices
from graphopt.passes.pruning.report import Curve, PruningReport
from graphopt.passmanager import Pass, PassContext, PassManager, PassResult, parse_pipeline
from graphopt.targets import register_engine
from tests.passes.pruning.nets import convolutions, images, labels
from tests.zoo import MODELS

TEXT = """
input %x: f32[N, 8]
parameter %w: f32[6, 8]
parameter %b: f32[6]
parameter %v: f32[4, 6]
%y = aten.linear(%x, %w, %b)
%z = aten.relu(%y)
%o = aten.linear(%z, %v)
return %o
"""


def traced(model: nn.Module | None = None, x: torch.Tensor | None = None) -> Graph:
    return graphopt.trace(model or convolutions(), (images() if x is None else x,), dynamic_shapes="batch")


def pruned(graph: Graph, context: PassContext | None = None, **options: Any) -> tuple[Graph, PruningReport]:
    context = context or PassContext(samples=[[images()]])
    made, report = PassManager(PruneChannels(**options), on_failure="raise").run(graph, context)
    return made, report.records[0].details


def sizes(graph: Graph) -> tuple[int, int]:
    cost = CostModel({"batch": 4}).graph(graph)
    stored = (v.constant for v in graph.constants.values() if v.constant is not None)
    return cost.macs, sum(c.tensor.numel() for c in stored if c.kind is ConstantKind.PARAMETER)


def test_text_to_text() -> None:
    w = torch.arange(6.0)[[3, 0, 5, 1, 4, 2], None].expand(6, 8) + 1
    graph = parse(TEXT, {"w": w, "b": torch.zeros(6), "v": torch.ones(4, 6)})
    result = PruneChannels(ratio=0.5)(graph)
    want = parse(
        TEXT.replace("[6", "[3").replace("6]", "3]"),
        {"w": w[[0, 2, 4]], "b": torch.zeros(3), "v": torch.ones(4, 3)},
    )
    assert difference(result, want, locations=False) is None
    x = torch.randn(2, 8)
    torch.testing.assert_close(run_graph(result, x), run_graph(want, x))


def test_pipeline_text() -> None:
    text = (
        'prune-channels{ratio=0.25,criterion=l1,scope=global,normalize=lamp,ratios={"layer1.*"=0.5},channels={conv=(1,2)},'
        'ignore=("fc*",),ignore-types=(Linear,),min-width=4,round-to=target,sweep=(0.25,0.5)}'
    )
    assert str(parse_pipeline(text)) == text
    assert str(parse_pipeline("prune-channels{macs=0.5,loss=mse}")) == "prune-channels{macs=0.5,loss=mse}"

    def importance(group: Any, evidence: Any) -> Any:
        return np.arange(group.size)

    assert PruneChannels(criterion=importance).options() == {"criterion": "importance"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.5}, "ratio is a share .* below 1, got 1.5"),
        ({"ratio": -0.1}, "at least 0 and below 1, got -0.1"),
        ({"ratio": 1.0}, "got 1.0; at 1 nothing would be left"),
        ({"ratio": float("nan")}, "got nan"),
        ({"ratio": "half"}, "got 'half'"),
        ({"ratio": True}, "got True"),
        ({"ratios": {"conv1": 2.0}}, "ratio of 'conv1' is a share"),
        ({"macs": 0.0}, "macs is the share .* above 0 and at most 1, got 0.0"),
        ({"parameters": 1.5}, "got 1.5"),
        ({"speedup": 0.5}, "speedup must be at least 1, got 0.5"),
        ({"ratio": 0.5, "macs": 0.5}, "give one of ratio, macs, parameters, speedup, got ratio and macs"),
        ({"min_width": 0}, "min_width must be at least 1"),
        ({"round_to": 0}, "round_to must be at least 1"),
        ({"round_to": "tagret"}, "round_to"),
        ({"scope": "globl"}, "Did you mean 'global'"),
        ({"batches": 0}, "batches must be at least 1"),
        ({"criterion": "l3"}, "Did you mean 'l[12]' or 'l[12]'"),
        ({"normalize": "maen"}, "Did you mean 'mean'"),
        ({"loss": "cross_entropy"}, "Did you mean 'cross-entropy'"),
        ({"sweep": (0.5, 1.0)}, "sweep is a share"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphOptError, match=message):
        PruneChannels(**options)


def test_pipeline_text_underlines_what_is_wrong() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'ratio'"):
        parse_pipeline("prune-channels{ration=0.5}")
    with pytest.raises(ParseError, match="takes a number"):
        parse_pipeline("prune-channels{ratio=much}")
    with pytest.raises(GraphOptError, match=r"below 1, got 1\.5"):
        parse_pipeline("prune-channels{ratio=1.5}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore": ("conv3",)}, "Unknown name 'conv3'. Did you mean 'conv2' or 'conv1'"),
        ({"ratios": {"conv": 0.5}}, "Unknown name 'conv'. Did you mean"),
        ({"ratios": {"fc": 0.5}}, "ratios names 'fc', whose outputs cannot be pruned"),
        ({"channels": {"conw1": (1,)}}, "Unknown name 'conw1'. Did you mean 'conv1'"),
        ({"channels": {"conv1": (1, 6)}}, "'conv1.weight' has channels 0 to 5, got 6"),
        ({"channels": {"conv1": range(6)}}, "'conv1.weight' would vanish: the channels to remove are all"),
        ({"ignore_types": ("Conv3d",)}, "Unknown type of layer 'Conv3d'. Did you mean 'conv2d'"),
        ({"macs": 0.001}, r"macs=0.001 cannot be reached: the best is macs=0\.0\d+"),
        ({"parameters": 0.001}, r"parameters=0.001 cannot be reached: the best is parameters=0\.0\d+"),
        (
            {"macs": 0.3, "min_width": 6},
            r"cannot be reached: the best is macs=0\.\d+, with every group at its minimum width",
        ),
        ({"criterion": "taylor"}, "criterion 'taylor' needs a loss"),
        ({"criterion": lambda group, _: np.full(group.size, np.nan)}, "scored channel 0 of 'conv1.weight' as nan"),
        ({"criterion": lambda group, _: [1.0]}, r"scores of shape \(1,\); its 6 channels need one number each"),
        ({"speedup": 2.0}, "a speed-up is measured on an engine, and this target has none"),
        ({"speedup": 2.0, "engine": "egaer"}, "Did you mean 'eager'"),
    ],
)
def test_what_cannot_be_had_is_one_error_whatever_the_policy(options: dict[str, Any], message: str) -> None:
    graph = traced()
    copy = graph.clone()
    before = {name: value.constant.tensor.clone() for name, value in graph.constants.items() if value.constant}
    for policy in ("raise", "rollback"):
        with pytest.raises(GraphOptError, match=message):
            PassManager(PruneChannels(**options), on_failure=policy).run(graph, PassContext(samples=[[images()]]))
    assert difference(graph, copy) is None
    assert all(torch.equal(graph.constants[name].constant.tensor, tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("criterion", "loss", "message"),
    [
        ("apoz", None, "criterion 'apoz' needs data to run the model on; give calibration batches or example inputs"),
        ("fisher", "mse", "criterion 'fisher' needs data"),
    ],
)
def test_a_criterion_without_data(criterion: str, loss: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pruned(traced(), PassContext(), criterion=criterion, loss=loss)
    with pytest.raises(InputError, match="the sweep needs data"):
        pruned(traced(), PassContext(), sweep=(0.5,))


def test_a_loader_whose_batches_do_not_fit() -> None:
    context = PassContext(calibration=[(torch.zeros(2, 3, 5, 5), labels(2))])
    with pytest.raises(InputError, match=r"batch 0 of the calibration data does not fit the model: .*size 5"):
        pruned(traced(), context, criterion="taylor", loss="cross-entropy")


def test_nothing_that_a_criterion_can_judge() -> None:
    graph = parse(TEXT)
    with pytest.raises(GraphOptError, match="'batch-norm-scale' can judge none of the 1 groups"):
        pruned(graph, PassContext(), criterion="batch-norm-scale")


def test_a_graph_without_channels_is_left_alone() -> None:
    graph = parse("input %x: f32[2, 3]\n%y = aten.relu(%x)\nreturn %y")
    result, report = pruned(graph, PassContext())
    assert difference(graph, result) is None and report.removed == 0
    for options in ({"macs": 0.5}, {"parameters": 0.5}, {"speedup": 2.0}):
        with pytest.raises(Unreachable, match="cannot be reached: there are no channels to prune"):
            pruned(graph, PassContext(), **options)  # type: ignore[arg-type]


def test_budgets_of_size_are_exact() -> None:
    graph = traced()
    macs, parameters = sizes(graph)
    for options in ({"macs": 0.4}, {"macs": 0.4, "scope": "global"}, {"parameters": 0.5, "scope": "isomorphic"}):
        result, report = pruned(graph, **options)  # type: ignore[arg-type]
        assert sizes(result) == report.after and (macs, parameters) == report.before
        asked = next(iter(options))
        assert getattr(report.after, asked) <= options[asked] * getattr(report.before, asked)  # type: ignore[operator]
        assert sum(row.pruned_macs for row in report.layers) == report.after.macs


def test_ignored_and_fixed_groups() -> None:
    graph = traced()
    widths = {"conv1.weight": 6, "conv2.weight": 8}

    def left(**options: Any) -> list[int]:
        _, report = pruned(graph, **options)
        assert {row.name: row.before for row in report.groups} == widths
        return [row.after for row in report.groups]

    assert left(ratio=0.5) == [3, 4]
    assert left(ratio=0.5, ignore="conv1") == left(ratio=0.5, ignore=["conv1"]) == [6, 4]
    assert left(ratio=0.5, ignore=("conv*.weight",)) == [6, 8]
    assert left(ratio=0.5, ignore=("fc",)) == [3, 4]  # its inputs may shrink
    assert left(ratio=0.5, ignore_types=("Linear",)) == [3, 4]
    assert left(ratio=0.5, ignore_types=("BatchNorm2d",)) == [6, 8]
    assert left(ratio=0.5, ratios={"conv1": 0.0}) == [6, 4]
    assert left(ratio=0.0, ratios={"conv1": 0.5, "conv*": 0.25}) == [3, 6]
    assert left(ratio=0.5, min_width=5) == [5, 5]
    assert left(ratio=0.5, round_to="target") == [6, 8]
    assert left(ratio=0.5, round_to=3) == [3, 3]
    assert left(ratio=0.0, channels={"conv2": (0, 1, 1)}) == [6, 6]


def test_channels_by_hand_are_those_that_go() -> None:
    result, report = pruned(traced(), ratio=0.0, channels={"conv1": (1, 4)})
    assert report.groups[0].removed == (1, 4)
    model = convolutions()
    assert torch.equal(result.constants["conv1.weight"].constant.tensor, model.conv1.weight[[0, 2, 3, 5]])


def test_criteria_decide_what_goes() -> None:
    order = np.array([5, 0, 3, 1, 4, 2, 6, 7])
    _, report = pruned(traced(), ratio=0.5, criterion=lambda group, _: order[: group.size])
    assert report.groups[0].removed == (1, 3, 5) and report.groups[1].removed == (1, 2, 3, 5)
    row = report.groups[0]
    assert row.removed_most < row.kept_least  # type: ignore[operator]


@pytest.mark.parametrize("criterion", ["l2", "fpgm", "batch-norm-scale", "wanda", "taylor", "fisher"])
def test_every_criterion_prunes_a_trained_model(criterion: str) -> None:
    entry = MODELS["resnet8-trained"]
    model = entry.build()
    (x,), _ = entry.inputs(batch=4)
    graph = graphopt.trace(model, (x,), dynamic_shapes=entry.dynamic_shapes())
    context = PassContext(samples=[[x]], calibration=[(x, labels())])
    result, report = pruned(graph, context, ratio=0.5, criterion=criterion, loss="cross-entropy")
    selection = {row.name: np.isin(np.arange(row.before), row.removed) for row in report.groups}
    mask_module(model, mask_slices(ChannelAnalysis(graph), selection))
    assert report.masked_error is not None and report.masked_error < 1e-5
    torch.testing.assert_close(run_graph(result, x)[0], model(x).detach(), rtol=1e-4, atol=1e-5)
    assert report.after.macs < 0.3 * report.before.macs


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(["local", "global", "isomorphic"]),
    st.sampled_from(["l1", "random", "fpgm"]),
    st.sampled_from(["ratio", "macs", "parameters"]),
    st.floats(0.2, 0.9),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_any_options_keep_their_word(
    scope: Any, criterion: str, budget: str, share: float, min_width: int, round_to: int
) -> None:
    graph = traced()
    options: Any = {budget: share, "scope": scope, "criterion": criterion, "min_width": min_width, "round_to": round_to}
    try:
        result, report = pruned(graph, **options)
    except Unreachable as error:
        best = float(str(error).split(f"the best is {budget}=")[1].split(",")[0])
        assert best > share
        result, report = pruned(graph, **{**options, budget: best})  # what the message says can be had
        share = best
    assert sizes(result) == report.after
    for row in report.groups:
        assert row.after == row.before or (row.after >= min_width and row.after % round_to == 0)
    if budget != "ratio":
        assert getattr(report.after, budget) <= share * getattr(report.before, budget)
    assert report.masked_error is not None and report.masked_error < 1e-5


def test_refused_channels_stay_and_others_go() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv1d(2, 8, 1), nn.Conv1d(8, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.sigmoid(self.first(x)))

    x = torch.randn(2, 2, 6)
    graph = graphopt.trace(Padded(), (x,))
    _, report = pruned(graph, PassContext(samples=[[x]]), ratio=0.5)
    assert report.removed == 0
    assert any(one.name == "first.weight" and "pad" in one.reason for one in report.refused)
    assert "first.weight" in str(report) and "not pruned" in str(report)
    with pytest.raises(
        GraphOptError, match=r"macs=0.5 cannot be reached: the best .*some channels cannot go: first.weight: .*pad"
    ):
        pruned(graph, PassContext(samples=[[x]]), macs=0.5)


def test_the_report() -> None:
    graph = traced()
    context = PassContext(samples=[[images()]], calibration=[(images(), labels())])
    _, report = PassManager(PruneChannels(ratio=0.5, sweep=(0.25, 0.5)), on_failure="raise").run(graph, context)
    (record,) = report.records
    found = json.loads(report.to_json())["passes"][0]["details"]
    assert found == json.loads(record.details.to_json())
    assert found["widths"] == [
        {"name": "conv1.weight", "before": 6, "after": 3},
        {"name": "conv2.weight", "before": 8, "after": 4},
    ]
    assert found["layers"][1]["shape"] == [8, 6, 3, 3] and found["layers"][1]["pruned_shape"] == [4, 3, 3, 3]
    assert [curve["name"] for curve in found["sweep"]] == ["conv1.weight", "conv2.weight"]
    assert found["refused"][0]["name"] == "fc.weight"
    text = str(record.details)
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(record.details.rich())
    shown = console.export_text()
    assert "conv1.weight" in shown and "8×6×3×3" in shown and "sensitivity" in shown and "not pruned" in shown
    assert "6 → 3" in text and "░" in text and "sensitivity" in text and "not pruned" in text
    assert "7 of 14 channels removed" in record.notes[0]


def test_the_sweep_is_the_error_of_each_masked_model() -> None:
    model, x = convolutions(), images()
    graph = traced(model)
    _, report = pruned(graph, ratio=0.5, sweep=(0.0, 0.5))
    masked = convolutions()
    (row,) = (row for row in report.groups if row.name == "conv1.weight")
    gone = np.isin(np.arange(6), row.removed)
    mask_module(masked, mask_slices(ChannelAnalysis(graph), {"conv1.weight": gone}))
    with torch.no_grad():
        want = model(x)
        error = ((masked(x) - want).norm() / want.norm()).item()
    curve = report.sweep[0]
    assert curve.values == pytest.approx((0.0, error), rel=1e-4)
    assert curve.sparkline() == "▁█"
    assert Curve("a", (0.1, 0.5), (1.0, float("inf"))).sparkline() == "█!"


def test_the_sweep_measures_the_loss_if_there_is_one() -> None:
    model, x, y = convolutions(), images(), labels()
    context = PassContext(samples=[[x]], calibration=[(x, y), (x[:2], y[:2])])
    _, report = pruned(traced(model), context, ratio=0.5, sweep=(0.0,), loss="cross-entropy")
    losses = [nn.functional.cross_entropy(model(a), b).item() for a, b in ((x, y), (x[:2], y[:2]))]
    assert report.sweep[0].values[0] == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert report.sweep[0].measure == "loss"


@dataclass(frozen=True)
class Quantize(Pass):
    contract = graphopt.Contract.LOSSY
    establishes = frozenset({"quantized"})

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        return PassResult(False)


def test_pruning_after_quantizing_is_refused_with_the_right_order() -> None:
    with pytest.raises(PassError, match="the right order is: prune-channels,quantize"):
        PassManager([Quantize(), PruneChannels()]).run(parse(TEXT))
    PassManager([PruneChannels(), Quantize()]).run(parse(TEXT))


class Counted:
    """An engine whose runs take as long as the graph has multiply-adds, on a clock of its own."""

    name = "test-counted"

    def missing(self) -> str | None:
        return None

    def unsupported(self, graph: Graph) -> str | None:
        return None

    def load(self, graph: Graph) -> Any:
        macs = sizes(graph)[0]

        class Loaded:
            def run(self, inputs: Sequence[Any]) -> list[Any]:
                CLOCK[0] += 1e-3 + macs * 1e-6
                return []

        return Loaded()


CLOCK = [0.0]


def test_a_speed_budget_is_met_within_ten_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.passes.pruning import latency

    monkeypatch.setattr(latency, "perf_counter", lambda: CLOCK[0])
    graph = traced()
    macs, _ = sizes(graph)
    for target in (1.5, 2.0, 3.0):
        context = PassContext(samples=[[images()]], engine=Counted())
        result, report = pruned(graph, context, speedup=target)
        ratio = (1e-3 + macs * 1e-6) / (1e-3 + sizes(result)[0] * 1e-6)
        assert report.speedup == pytest.approx(ratio)
        assert abs(ratio / target - 1) <= 0.1
    with pytest.raises(GraphOptError, match=r"speedup=1000 cannot be reached: the best is speedup=\d+"):
        pruned(graph, PassContext(samples=[[images()]], engine=Counted()), speedup=1000)


def test_a_speed_budget_needs_an_engine_that_runs_and_inputs() -> None:
    class Missing(Counted):
        name = "test-missing"

        def missing(self) -> str | None:
            return "install it"

    register_engine("test-missing", Missing)
    with pytest.raises(TargetError, match="'test-missing' cannot measure this graph: install it"):
        pruned(traced(), speedup=2.0, engine="test-missing")
    with pytest.raises(GraphOptError, match="measured on example inputs, and there are none"):
        pruned(traced(), PassContext(), speedup=2.0, engine="eager")
