"""Error attribution against errors that are computed by hand, with hooks on the eager module."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.debugging import ErrorAttribution, NodeError
from graphopt.errors import GraphOptError
from graphopt.ir import Graph, clone_graph
from graphopt.ops import parse
from graphopt.passmanager import Provenance
from graphopt.rewrite import Rewriter
from graphopt.targets.registry import get_engine
from tests.debugging.lossy import leaky_relu, round_weights, rounded
from tests.zoo import MODELS

pytestmark = pytest.mark.unchecked_passes


def rms(value: Tensor, reference: Tensor) -> float:
    return ((value.double() - reference).norm() / reference.norm()).item()


def leaves(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if not list(module.children())}


def recorded(model: nn.Module, *args: Any) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor]:
    """(input, output) of each leaf module of a run, and the output of all."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(name: str) -> Callable[..., None]:
        return lambda module, given, result: found.__setitem__(name, (given[0].clone(), result.clone()))

    handles = [module.register_forward_hook(hook(name)) for name, module in leaves(model).items()]
    with torch.no_grad():
        output = model(*args)
    for handle in handles:
        handle.remove()
    return found, output


def by_scope(found: ErrorAttribution) -> dict[str, NodeError]:
    return {node.scope: node for node in found.nodes if node.op}


@pytest.fixture(scope="module")
def resnet() -> tuple[nn.Module, Tensor, ErrorAttribution]:
    model = MODELS["resnet8"].build()
    (image,), _ = MODELS["resnet8"].inputs(2)
    found = graphopt.attribute_error(model, (image,), passes=[round_weights], target="onnxruntime", engines="eager")
    return model, image, found


def weighted(model: nn.Module) -> list[str]:
    return [
        name for name, module in leaves(model).items() if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d)
    ]


def with_rounded_weights(model: nn.Module) -> nn.Module:
    made = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() >= 2:
                parameter.copy_(rounded(parameter))
    return made


def test_accumulated_errors_are_those_of_hooks(resnet: tuple[nn.Module, Tensor, ErrorAttribution]) -> None:
    model, image, found = resnet
    reference, _ = recorded(copy.deepcopy(model).double(), image.double())
    lossy, _ = recorded(with_rounded_weights(model), image)
    rows = by_scope(found)
    names = weighted(model)
    assert len(names) > 15
    for name in names:
        expected = rms(lossy[name][1], reference[name][1])
        assert rows[name].accumulated.rms == pytest.approx(expected, rel=1e-3), name


def test_local_errors_are_those_of_modules_on_right_inputs(resnet: tuple[nn.Module, Tensor, ErrorAttribution]) -> None:
    model, image, found = resnet
    reference, _ = recorded(copy.deepcopy(model).double(), image.double())
    lossy = leaves(with_rounded_weights(model))
    rows = by_scope(found)
    for name in weighted(model):
        given, wanted = reference[name]
        with torch.no_grad():
            expected = rms(lossy[name](given.float()), wanted)
        assert rows[name].local is not None
        if isinstance(lossy[name], nn.BatchNorm2d):  # not rounded: what it adds is its own rounding
            assert rows[name].local.rms < 1e-6
            assert rows[name].local_ok
            assert not rows[name].ok
        else:
            assert rows[name].local.rms == pytest.approx(expected, rel=1e-3), name
            assert not rows[name].local_ok


def test_own_errors_are_those_of_the_original(resnet: tuple[nn.Module, Tensor, ErrorAttribution]) -> None:
    model, image, found = resnet
    reference, _ = recorded(copy.deepcopy(model).double(), image.double())
    original, _ = recorded(model, image)
    row = by_scope(found)["stem.0"]
    assert row.own is not None
    assert row.own.rms == pytest.approx(rms(original["stem.0"][1], reference["stem.0"][1]), rel=0.5)


def test_waterfall_adds_up(resnet: tuple[nn.Module, Tensor, ErrorAttribution]) -> None:
    model, image, found = resnet
    with torch.no_grad():
        reference = copy.deepcopy(model).double()(image.double())
        lossy = with_rounded_weights(model)(image)
    assert [(step.kind, step.name) for step in found.steps] == [
        ("original", "original"),
        ("pass", "round-weights"),
        ("engine", "eager"),
    ]
    bars = [step.outputs[0] for step in found.steps]
    assert sum(bar.share for bar in bars) == pytest.approx(1)
    assert sum(bar.change for bar in bars) == pytest.approx(bars[-1].accumulated.rms)
    assert bars[1].accumulated.rms == pytest.approx(rms(lossy, reference), rel=1e-3)
    assert found.worst_step is not None and found.worst_step.name == "round-weights"
    assert bars[1].share == pytest.approx(1, abs=1e-3)


def test_shares_of_two_losses_are_projections() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    given = torch.randn(8, 64)
    found = graphopt.attribute_error(
        model, (given,), passes=[leaky_relu, round_weights], target="eager", on_failure="raise"
    )
    with torch.no_grad():
        reference = copy.deepcopy(model).double()(given.double())
        leaky = nn.Sequential(model[0], nn.LeakyReLU(0.1), model[2])
        outputs = [model(given), leaky(given), with_rounded_weights(leaky)(given)]
    last = outputs[-1].double() - reference
    before = reference
    for step, output in zip(found.steps, outputs):
        part = output.double() - before
        assert step.outputs[0].share == pytest.approx(((part * last).sum() / last.square().sum()).item(), abs=1e-6)
        before = output.double()


@pytest.mark.parametrize("name", ["minilm", "lstm", "resnet8", "hf-mobilenet-v2"])
def test_lossless_pipelines_stay_within_the_tolerance(name: str) -> None:
    args, kwargs = MODELS[name].inputs(2)
    found = graphopt.attribute_error(
        MODELS[name].build(), args, kwargs, target="onnxruntime", engines="eager,onnxruntime{optimization=off}"
    )
    assert found.first is None, str(found)
    assert not found.guilty
    assert len(found.nodes) > 5
    for engine in found.engines:
        assert engine.ok and engine.first is None and not engine.reason, str(found)
    assert json.loads(found.to_json())["steps"][0]["kind"] == "original"


class HalfPrecision(nn.Module):
    """A model with its inside in float16."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.half()

    def forward(self, image: Tensor) -> Tensor:
        return self.inner(image.half()).float()


def test_half_precision_is_measured_with_its_own_rounding() -> None:
    model = HalfPrecision(MODELS["resnet8"].build())
    (image,), _ = MODELS["resnet8"].inputs(2)
    found = graphopt.attribute_error(model, (image,), target="eager")
    assert found.first is None, str(found)
    assert found.steps[0].outputs[0].accumulated.rms > 1e-4  # float16 is that coarse
    lossy = graphopt.attribute_error(model, (image,), target="eager", passes=[leaky_relu])
    assert lossy.guilty and all("leaky-relu" in node.rules for node in lossy.guilty)


def test_the_first_value_out_of_tolerance_is_the_guilty_node() -> None:
    args, _ = MODELS["resnet8"].inputs(2)
    found = graphopt.attribute_error(MODELS["resnet8"].build(), args, target="eager", passes=[leaky_relu])
    assert found.first is not None
    assert found.first.op == "aten.leaky_relu"
    assert found.first.original.startswith("%relu = aten.relu(")
    assert found.first.rules == ("leaky-relu",)
    assert {node.op for node in found.guilty} == {"aten.leaky_relu"}
    later = [node for node in found.nodes if node.op == "aten.batch_norm"]
    assert all(node.local_ok for node in later) and not later[-1].ok
    assert "first value out of tolerance: %relu" in str(found)
    made = f"{len(found.guilty)} values, most of it at " if len(found.guilty) > 1 else ""
    assert f"the error is made at {made}%" in str(found)


def test_a_tolerance_of_ones_own() -> None:
    args, _ = MODELS["resnet8"].inputs(2)
    model = MODELS["resnet8"].build()
    strict, lax = (
        graphopt.attribute_error(model, args, target="eager", passes=[round_weights], tolerance=t) for t in (1e-4, 0.5)
    )
    assert strict.first is not None
    assert lax.first is None


class _Broken:
    """An engine that forgets ReLUs."""

    name = "broken"

    def missing(self) -> str | None:
        return None

    def unsupported(self, graph: Graph) -> str | None:
        return None

    def load(self, graph: Graph) -> Any:
        wrong = clone_graph(graph)
        rewriter = Rewriter(wrong)
        for node in wrong.nodes:
            if node.op.name == "aten.relu":
                rewriter.replace(node, [node.operands[0]])
        return get_engine("eager").load(wrong)


class _Failing(_Broken):
    name = "failing"

    def load(self, graph: Graph) -> Any:
        raise RuntimeError("no such kernel")


def test_a_broken_engine_is_caught_at_its_first_wrong_value() -> None:
    args, _ = MODELS["resnet8"].inputs(2)
    found = graphopt.attribute_error(
        MODELS["resnet8"].build(),
        args,
        target="eager",
        engines={"broken": _Broken(), "failing": _Failing(), "eager": get_engine("eager")},
    )
    broken, failing, eager = found.engines
    assert found.first is None
    assert not broken.ok and broken.first is not None
    assert found.nodes[broken.first].op == "aten.relu"
    assert failing.reason == "engine 'failing' failed: RuntimeError: no such kernel"
    assert eager.ok and eager.first is None
    assert found.steps[-1].name == "broken"
    assert "no such kernel" in str(found)


def test_onnxruntime_as_it_is_and_with_values_in_sight() -> None:
    args, _ = MODELS["resnet8"].inputs(2)
    found = graphopt.attribute_error(MODELS["resnet8"].build(), args, target="onnxruntime")
    (engine,) = found.engines
    assert engine.engine == "onnxruntime"
    assert len(engine.outputs) == len(engine.tapped) == 1
    assert engine.tapped[0].rms < 1e-5
    seen = [node for node in found.nodes if "onnxruntime" in node.engines]
    assert len(seen) == len([node for node in found.nodes if node.op])


def test_a_compiled_model_with_its_history() -> None:
    args, _ = MODELS["resnet8"].inputs(2)
    model = MODELS["resnet8"].build()
    compiled = graphopt.compile(model, args, target="fx", passes=[round_weights], instruments=[Provenance()])
    found = graphopt.attribute_error(compiled, args)
    assert [step.kind for step in found.steps] == ["original", "pass", "engine"]
    assert found.first is not None
    with pytest.raises(GraphOptError, match="compiled without its history"):
        graphopt.attribute_error(graphopt.compile(model, args, target="fx"), args)
    with pytest.raises(GraphOptError, match="'passes' comes too late"):
        graphopt.attribute_error(compiled, args, passes="default")


def test_updates_of_buffers_are_outputs() -> None:
    found = graphopt.attribute_error(_Counter(), (torch.ones(3),), target="eager")
    assert len(found.outputs) == 2 and found.outputs[1].endswith("(updated)")
    assert found.first is None and found.engines[0].ok


class _Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.count += x
        return self.count * 2


def test_integers_must_be_exact() -> None:
    graph = parse("""input %x: f32[4]
    %m = aten.mul.Scalar(%x) {other=2.0}
    %r = aten.relu(%m)
    %n = aten.argmax(%r)
    return %n""")
    given = [torch.tensor([-100.0, -2.0, -3.0, -4.0])]
    found = graphopt.attribute_error(graph, given, passes=[leaky_relu])
    assert found.first is not None and found.first.op == "aten.leaky_relu"
    assert found.nodes[-1].op == "aten.argmax"
    assert found.nodes[-1].accumulated.mismatches == 1 and not found.nodes[-1].ok
    assert found.nodes[-1].local_ok


class _Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu() + torch.randn_like(x)


def test_random_numbers_of_engines_are_not_judged() -> None:
    found = graphopt.attribute_error(
        _Noisy(), (torch.ones(8),), target="fx", engines="onnxruntime{optimization=off}", validate=False
    )
    (engine,) = found.engines
    assert engine.first is None and engine.ok
    assert "draws random numbers" in found.notes[0]


def test_rich_view() -> None:
    from rich.console import Console

    args, _ = MODELS["resnet8"].inputs(2)
    found = graphopt.attribute_error(MODELS["resnet8"].build(), args, target="eager", passes=[round_weights])
    console = Console(width=200, record=True, file=_Nowhere())
    console.print(found.rich())
    text = console.export_text()
    assert "round-weights" in text and "100.0%" in text and "against the original in float64" in text


class _Nowhere:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass
