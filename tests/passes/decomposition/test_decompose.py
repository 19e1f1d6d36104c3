"""Layers become chains that compute what they should, cost less, and keep to what was asked for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt.analysis import CostModel, Interpreter
from graphopt.errors import GraphOptError, InputError, UnknownNameError
from graphopt.ir import Graph
from graphopt.passes.decompose import Decompose
from graphopt.passes.decomposition.methods import METHODS, cp
from graphopt.passes.decomposition.report import DecompositionReport
from graphopt.passmanager import PassContext
from graphopt.targets import get_engine
from graphopt.testing import check_pass

X = (torch.randn(16, 24, generator=torch.Generator().manual_seed(0)),)


def low_rank(rows: int, columns: int, rank: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(n, rank, generator=generator, dtype=torch.float64) for n in (rows, columns))
    return (left @ right.t()).float()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2 = nn.Linear(24, 32), nn.Linear(32, 20, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.fc1(x).relu())


def run(model: nn.Module, x: tuple[torch.Tensor, ...], pass_: Decompose, **context: Any) -> tuple[Graph, Any]:
    graph = graphopt.trace(model.eval(), x)
    result = pass_.run(graph, PassContext(samples=[x], **context))
    return graph, result


def computed(graph: Graph, *x: torch.Tensor) -> torch.Tensor:
    (out,) = Interpreter(graph).run(*x)
    return out


def test_text(check) -> None:
    check(
        Decompose(rank=1),
        """
        input %x: f32[N, 2]
        parameter %w: f32[4, 2] requires_grad = ((2.0, 0.0), (2.0, 0.0), (2.0, 0.0), (2.0, 0.0))
        parameter %b: f32[4] = (1.0, 2.0, 3.0, 4.0)
        %y = aten.linear(%x, %w, %b)
        return %y""",
        """
        input %x: f32[N, 2]
        parameter %b: f32[4] = (1.0, 2.0, 3.0, 4.0)
        parameter %w.factor_0: f32[1, 2] requires_grad = ((2.0, 0.0),)
        parameter %w.factor_1: f32[4, 1] requires_grad = ((1.0,), (1.0,), (1.0,), (1.0,))
        %z = aten.linear(%x, %w.factor_0)
        %y = aten.linear(%z, %w.factor_1, %b)
        return %y""",
    )


CONVS = {
    "plain": lambda: nn.Conv2d(16, 24, 3, padding=1),
    "strided": lambda: nn.Conv2d(16, 24, (3, 5), stride=(2, 1), padding=(0, 2), dilation=(1, 2)),
    "same": lambda: nn.Conv2d(16, 24, 3, padding="same", dilation=2),
    "pointwise": lambda: nn.Conv2d(16, 24, 1, stride=2),
    "grouped": lambda: nn.Conv2d(16, 24, 3, groups=2, padding=1),
    "1d": lambda: nn.Conv1d(16, 24, 5, stride=2),
    "3d": lambda: nn.Conv3d(16, 24, 3, padding=1, stride=(1, 2, 1)),
    "transposed": lambda: nn.ConvTranspose2d(16, 24, 3, stride=2, output_padding=1, groups=2),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", CONVS)
def test_convolutions(kind: str, method: str) -> None:
    """The chain computes the convolution whose dense weight it stands for."""
    torch.manual_seed(0)
    layer = CONVS[kind]().eval()
    sizes = {"1d": (17,), "3d": (4, 7, 5)}.get(kind, (11, 9))
    x = (torch.randn(2, 16, *sizes),)
    graph, result = run(layer, x, Decompose(method=method, ratio=0.6, data_aware=True))
    report: DecompositionReport = result.details
    (row,) = report.layers
    assert row.macs[1] <= 0.6 * row.macs[0]
    assert row.macs[1] == CostModel({}).graph(graph).macs
    out = computed(graph, *x)
    assert out.shape == layer(*x).shape
    relative = (out - layer(*x)).norm() / (layer(*x) - layer.bias.reshape(-1, *[1] * len(sizes))).norm()
    assert float(relative) == pytest.approx(row.error, rel=0.35, abs=1e-5)  # the report's is about the mean


@pytest.mark.parametrize("name", ["linear", "conv", "embedding"])
def test_weights_of_low_rank_are_reproduced(name: str) -> None:
    layer: nn.Module = {
        "linear": nn.Linear(40, 32),
        "conv": nn.Conv2d(8, 32, 3, padding=1),
        "embedding": nn.Embedding(50, 32),
    }[name]
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    with torch.no_grad():
        flat = weight.flatten(1)
        weight.copy_(low_rank(*flat.shape, 4).reshape(weight.shape))
    x: torch.Tensor = {"linear": torch.randn(3, 40), "conv": torch.randn(2, 8, 5, 5)}.get(name, torch.arange(9))
    graph, result = run(layer, (x,), Decompose(error=1e-4, multiple=4, embeddings=True))
    (row,) = result.details.layers
    assert row.ranks == (4,)
    torch.testing.assert_close(computed(graph, x), layer(x), rtol=1e-3, atol=1e-3)


def test_names_and_training() -> None:
    small = graphopt.compile(Net(), X, target="fx", passes="decompose{ratio=0.5, data_aware=true}")
    factors = [f"fc{n}.factor_{i}.weight" for n in (1, 2) for i in (0, 1)]
    assert sorted(small.state_dict()) == sorted(["fc1.bias", "fc2.bias", *factors])
    small(*X).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in small.parameters())


def test_bias_makes_up_for_the_mean() -> None:
    model, x = Net().eval(), X[0] + 5
    data = [(x,)]
    errors = []
    for correct in ("false", "true"):
        small = graphopt.compile(
            model.fc1, (x,), target="fx", passes=f"decompose{{ratio=0.4, correct_bias={correct}}}", calibration=data
        )
        errors.append(small(x) - model.fc1(x))
    assert float(errors[1].mean(0).abs().max()) < 1e-4
    assert float(errors[1].norm()) < float(errors[0].norm())


@pytest.mark.parametrize("kind", ["macs", "parameters"])
def test_budgets_are_kept(kind: str) -> None:
    graph = graphopt.trace(Net().eval(), X)
    before = CostModel({}).graph(graph)
    result = Decompose(**{kind: 0.6}, multiple=1).run(graph, PassContext(samples=[X]))  # type: ignore[arg-type]
    after = CostModel({}).graph(graph)
    assert getattr(after, kind) <= 0.6 * getattr(before, kind)
    assert result.details.layers
    with pytest.raises(GraphOptError, match=rf"{kind}=0.001 cannot be reached: the least is {kind}="):
        run(Net(), X, Decompose(**{kind: 0.001}))  # type: ignore[arg-type]


def test_the_budget_is_met_with_the_least_error() -> None:
    """Against trying all pairs of ranks."""
    _, result = run(Net(), X, Decompose(macs=0.6, multiple=4))
    chosen = {row.name: row for row in result.details.layers}
    whole = sum((24 * 32, 32 * 20))
    curves = {}
    for name in ("fc1", "fc2"):
        weight = getattr(Net(), name).weight.detach().double()
        values = torch.linalg.svdvals(weight).square()
        (rows, columns), full = weight.shape, len(values)
        ranks = [r for r in range(1, full + 1) if r * (rows + columns) < rows * columns and (full < 16 or r % 4 == 0)]
        tails = [float(values[rank:].sum() / values.sum()) for rank in ranks]
        options = [(rows * columns, 0.0), *((r * (rows + columns), t) for r, t in zip(ranks, tails))]
        curves[name] = options
    best = min(a[1] + b[1] for a in curves["fc1"] for b in curves["fc2"] if a[0] + b[0] <= 0.6 * whole)
    own = sum(row.error**2 for row in chosen.values())
    assert own == pytest.approx(best, rel=1e-5)


def test_rank_choices() -> None:
    _, by_rank = run(Net(), X, Decompose(rank=5))
    assert {row.ranks for row in by_rank.details.layers} == {(5,)}
    _, by_name = run(Net(), X, Decompose(ranks={"fc1.*": 3}))
    assert [(row.name, row.ranks) for row in by_name.details.layers] == [("fc1.weight", (3,))]
    _, by_error = run(Net(), X, Decompose(error=0.6, multiple=1))
    assert by_error.details.layers and all(row.error <= 0.6 for row in by_error.details.layers)
    _, by_energy = run(Net(), X, Decompose(energy=0.64, multiple=1))
    assert [row.ranks for row in by_energy.details.layers] == [row.ranks for row in by_error.details.layers]
    assert run(Net(), X, Decompose(evbmf=True))[1].details.layers
    _, nothing = run(Net(), X, Decompose(error=0.0))
    assert not nothing.changed and "of its output at least" in nothing.details.left["fc1.weight"]


def test_no_rank_costs_more_than_the_layer() -> None:
    _, result = run(Net(), X, Decompose(rank=20))
    assert not result.changed
    assert "cost no less than the layer" in result.details.left["fc1.weight"]


def test_slower_layers_stay() -> None:
    """On the engine, tiny factors are two calls in the place of one."""
    _, result = run(Net(), X, Decompose(ratio=0.5), engine=get_engine("eager"))
    assert set(result.details.left) | {row.name for row in result.details.layers} == {"fc1.weight", "fc2.weight"}
    for row in result.details.layers:
        before, after = row.milliseconds
        assert after < before


def test_latency_budget() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(1024, 1024), (torch.randn(256, 1024),)
    _, result = run(model, x, Decompose(latency=0.7, data_aware=False), engine=get_engine("eager"))
    (row,) = result.details.layers
    assert row.milliseconds[1] <= 0.75 * row.milliseconds[0]


def test_shared_weights_stay_shared() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(24, 24)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.fc(x).relu())

    graph, result = run(Twice(), X, Decompose(rank=4, data_aware=True))
    assert result.changed
    assert sorted(graph.constants) == ["fc.bias", "fc.factor_0.weight", "fc.factor_1.weight"]


def test_tied_embedding_stays() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(40, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.table(x), self.table.weight)

    _, result = run(Tied(), (torch.arange(5),), Decompose(embeddings=True))
    assert not result.changed
    assert any("something else reads its weight" in note for note in result.notes)


def test_report() -> None:
    small = graphopt.compile(
        Net(), X, target="fx", passes="decompose{ratio=0.5}", calibration=[X], dynamic_shapes="batch"
    )
    report = small.report.decomposition
    assert report.data_aware and report.macs[1] < report.macs[0]
    for row in report.layers:
        assert row.spectrum[0] == 1.0 and list(row.spectrum) == sorted(row.spectrum, reverse=True)
        assert row.curve and all(math.isfinite(point.error) for point in row.curve)
    found = small.report.to_dict()["decomposition"]
    assert found["layers"][0]["name"] == "fc1.weight"


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"ranks": {"fc1.weight": 0}}, "the rank of fc1.weight must be at least 1"),
        ({"rank": 2, "energy": 0.5}, "rank and energy each say how far to go"),
        ({"ratio": 0.0}, "ratio is the share"),
        ({"error": 1.5}, "error is a share"),
        ({"multiple": 0}, "multiple must be at least 1"),
        ({"method": "svdd"}, "svd"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphOptError, match=message):
        Decompose(**options)


def test_ranks_above_full() -> None:
    with pytest.raises(GraphOptError, match="rank=99 is above the full rank of every layer; the greatest is 24"):
        run(Net(), X, Decompose(rank=99))
    with pytest.raises(GraphOptError, match=r"fc1.weight: rank 25 is above its full rank, 24"):
        run(Net(), X, Decompose(ranks={"fc1.weight": 25}))
    with pytest.raises(GraphOptError, match=r"svd of fc1.weight has 1 ranks"):
        run(Net(), X, Decompose(ranks={"fc1.weight": (3, 4)}))
    with pytest.raises(UnknownNameError, match="fc9"):
        run(Net(), X, Decompose(ranks={"fc9": 3}))


def test_weights_that_are_not_finite_stay() -> None:
    model = Net()
    with torch.no_grad():
        model.fc1.weight[0, 0] = torch.nan
    _, result = run(model, X, Decompose())
    assert result.details.left["fc1.weight"] == "its weight is not finite"
    assert [row.name for row in result.details.layers] == ["fc2.weight"]


@pytest.mark.parametrize("data", [False, True])
def test_zero_and_rank_deficient_weights(data: bool) -> None:
    model = Net()
    with torch.no_grad():
        model.fc1.weight.zero_()
        model.fc2.weight.copy_(low_rank(20, 32, 2))
    x = (X[0] * 0 + X[0][:1],)  # inputs of rank one
    graph, result = run(model, x, Decompose(ratio=0.5, multiple=1, data_aware=data))
    assert len(result.details.layers) == 2
    torch.testing.assert_close(computed(graph, *x), model(*x), rtol=1e-4, atol=1e-4)


def test_data_that_are_missing_or_not_finite() -> None:
    graph = graphopt.trace(Net().eval(), X)
    with pytest.raises(InputError, match="needs data to weigh errors by"):
        Decompose(data_aware=True).run(graph, PassContext())
    with pytest.raises(GraphOptError, match=r"fc1.weight: what it reads on the calibration data is not finite"):
        Decompose().run(graph, PassContext(samples=[X], calibration=[(X[0] * torch.inf,)]))


def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.passes.decompose.find_spec", lambda name: None)
    with pytest.raises(GraphOptError, match=r"cp needs tensorly: pip install 'graphopt\[decomposition\]'"):
        run(Net(), X, Decompose(method="cp"))


def test_least_squares_that_fail_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = nn.Conv2d(16, 24, 3), (torch.randn(1, 16, 6, 6),)
    monkeypatch.setattr(cp, "_alternate", lambda *given: None)
    _, result = run(layer, x, Decompose(method="cp", ratio=0.5))
    (row,) = result.details.layers
    assert row.method == "svd"
    assert any("no finite numbers" in remark for remark in result.details.remarks)


def test_latency_without_engine() -> None:
    with pytest.raises(GraphOptError, match="the target has no engine"):
        run(Net(), X, Decompose(latency=0.5))


@pytest.mark.parametrize("method", ["svd", "tucker", "spatial"])
def test_generated_graphs(method: str) -> None:
    operators = (
        "linear",
        "mm",
        "matmul",
        "addmm",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "embedding",
        "relu",
    )
    pass_ = Decompose(method=method, ratio=0.9, multiple=1, embeddings=True)
    check_pass(pass_, examples=15, operators=operators, max_nodes=8)


def test_onnxruntime_runs_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, 64)).eval()
    x = (torch.randn(2, 3, 8, 8),)
    passes = "decompose{method=tucker, parameters=0.6}"
    small = graphopt.compile(model, x, target="onnxruntime", passes=passes)
    reference = graphopt.compile(model, x, target="fx", passes=passes)
    torch.testing.assert_close(small(*x), reference(*x), rtol=1e-4, atol=1e-4)
