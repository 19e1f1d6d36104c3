"""Choosing engines: the right and fastest one, settings, several in one model, and choices that are kept."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import graphopt
from graphopt.backends.fx.engines import EagerEngine
from graphopt.engine_choice import choice as choosing
from graphopt.engine_choice import choose_engine
from graphopt.engine_choice.kept import SWITCH
from graphopt.engine_choice.mixture import Mixture
from graphopt.engine_choice.plan import Plan, Share, load_plan
from graphopt.errors import SerializationError, TargetError
from graphopt.ir import Graph
from graphopt.ops import parse
from graphopt.targets import Engine, Executable, Tunable, get_engine
from graphopt.targets.machine_cache import FOLDER
from graphopt.validation import output_check

ENGINES = ("onnxruntime", "openvino", "eager")
GRAPH = """
input %x: f32[n, 32]
parameter %w: f32[32, 32]
%a = linear(%x, %w)
%b = sin(%a)
%c = linear(%b, %w)
%d = exp(%c)
return %d"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fastest is not asked here, but where it is clear."""
    monkeypatch.setattr(choosing, "SECONDS_PER_ROUND", 0.002)
    monkeypatch.setattr(choosing, "MIXABLE", 1e3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Choices are kept here."""
    monkeypatch.setenv(SWITCH, "yes")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    yield tmp_path


class Slow(EagerEngine):
    """Eager PyTorch that waits where a graph has an operator, as an engine with a bad kernel does."""

    def __init__(self, name: str, operator: str, seconds: float) -> None:
        super().__init__()
        self.name, self.operator, self.wait = name, operator, seconds

    def variants(self, graph: Graph) -> Sequence[EagerEngine]:
        return ()

    def load(self, graph: Graph) -> Executable:
        waits = self.wait * sum(node.op.base == self.operator for node in graph)
        return _Waiting(super().load(graph), waits)


class _Waiting:
    def __init__(self, inner: Executable, seconds: float) -> None:
        self.inner, self.seconds = inner, seconds

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        return self.inner.run(inputs)


def samples(graph: Graph, x: torch.Tensor) -> list[Any]:
    return [([x], output_check(graph, [x]))]


# Settings


def test_images_with_channels_last_are_the_same_numbers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    x = torch.randn(2, 3, 12, 12)
    graph = graphopt.trace(model, (x,), dynamic_shapes="batch")
    (variant,) = EagerEngine().variants(graph)
    assert variant.settings == "channels_last" and variant.variants(graph) == ()
    (got,) = variant.load(graph).run([x])
    torch.testing.assert_close(got, model(x), rtol=1e-5, atol=1e-6)
    assert got.is_contiguous() and all(v.constant.tensor.is_contiguous() for v in graph.constants.values())


def test_no_images_no_variant() -> None:
    assert EagerEngine().variants(parse(GRAPH)) == ()


def test_threads_are_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    for name in ("onnxruntime", "openvino"):
        engine = get_engine(name)
        assert isinstance(engine, Tunable) and engine.settings == ""
        (variant,) = engine.variants(parse(GRAPH))
        assert variant.settings == "1 thread" and variant.threads == 1  # type: ignore[attr-defined]


def test_the_table_says_what_is_planned() -> None:
    graph = parse(GRAPH)
    x = torch.randn(8, 32)
    found = choose_engine(graph, [get_engine(name) for name in ENGINES], samples(graph, x))
    for trial in found.trials:
        assert trial.milliseconds is not None and trial.planned_bytes is not None
        assert trial.planned_bytes >= 32 * 32 * 4 + 2 * 8 * 32 * 4
    assert sum(trial.chosen for trial in found.trials) == 1


# Several engines in one model


def test_each_part_gets_the_engine_that_is_fast_for_it() -> None:
    graph = parse(GRAPH)
    x = torch.randn(8, 32)
    engines = [Slow("slow-sin", "aten.sin", 4e-3), Slow("slow-exp", "aten.exp", 4e-3)]
    found = choose_engine(graph, engines, samples(graph, x))
    assert len(found.plan.shares) == 2, found.trials
    assert [share.engine for share in found.plan.shares] == ["slow-exp", "slow-sin"]
    chosen = next(trial for trial in found.trials if trial.chosen)
    assert chosen.engine == found.name == "slow-exp + slow-sin" and chosen.milliseconds < 4
    torch.testing.assert_close(found.executable.run([x]), EagerEngine().load(graph).run([x]))


def test_parts_that_gain_nothing_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = parse(GRAPH)
    x = torch.randn(8, 32)
    engines = [Slow("slow", "aten.sin", 1e-3), Slow("slower", "aten.sin", 1.2e-3)]
    found = choose_engine(graph, engines, samples(graph, x))
    assert [share.engine for share in found.plan.shares] == ["slow"]


def test_a_mixture_that_is_wrong_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = parse(GRAPH)
    x = torch.randn(8, 32)
    find = Mixture.find

    def spoiled(*args: Any) -> Mixture | None:
        found = find(*args)
        assert found is not None
        found.executable = _Spoiled(found.executable)
        return found

    monkeypatch.setattr(choosing.Mixture, "find", staticmethod(spoiled))
    engines = [Slow("slow-sin", "aten.sin", 4e-3), Slow("slow-exp", "aten.exp", 4e-3)]
    found = choose_engine(graph, engines, samples(graph, x))
    assert len(found.plan.shares) == 1
    assert any("wrong numbers" in trial.reason for trial in found.trials)


def test_a_mixture_that_does_not_load_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, x = parse(GRAPH), torch.randn(8, 32)

    def fail(*args: Any) -> Mixture | None:
        raise RuntimeError("no such loop")

    monkeypatch.setattr(choosing.Mixture, "find", staticmethod(fail))
    engines = [Slow("slow-sin", "aten.sin", 4e-3), Slow("slow-exp", "aten.exp", 4e-3)]
    found = choose_engine(graph, engines, samples(graph, x))
    assert len(found.plan.shares) == 1
    assert found.trials[-1].reason == "RuntimeError: no such loop" and not found.trials[-1].chosen


class _Spoiled:
    def __init__(self, inner: Executable) -> None:
        self.inner = inner

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        return [output * 1.01 for output in self.inner.run(inputs)]


def test_a_single_right_engine_is_not_mixed_with_wrong_ones() -> None:
    class Wrong(EagerEngine):
        name = "wrong"

        def load(self, graph: Graph) -> Executable:
            return _Spoiled(super().load(graph))

    graph, x = parse(GRAPH), torch.randn(8, 32)
    found = choose_engine(graph, [Wrong(), EagerEngine()], samples(graph, x))
    assert found.name == "eager" and [trial.engine for trial in found.trials] == ["wrong", "eager"]


def test_beside_others_threads_of_onnx_runtime_do_not_spin() -> None:
    graph, x = parse(GRAPH), torch.randn(8, 32)
    plan = Plan((Share(2, "eager"), Share(4, "onnxruntime", "no spinning")))
    executable, _ = load_plan(plan, graph)
    torch.testing.assert_close(executable.run([x]), EagerEngine().load(graph).run([x]), rtol=1e-5, atol=1e-5)


def test_plans_as_json() -> None:
    plan = Plan((Share(3, "eager"), Share(9, "onnxruntime", "1 thread")))
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    for wrong in (None, [], [[3, "eager"]], [[3, "a", ""], [3, "b", ""]], "abc"):
        with pytest.raises(SerializationError, match="damaged"):
            Plan.from_json(wrong)


def test_a_plan_for_another_graph_is_refused() -> None:
    with pytest.raises(TargetError, match="is for 99 nodes"):
        load_plan(Plan((Share(99, "eager"),)), parse(GRAPH))
    with pytest.raises(TargetError, match="no settings 'fast'"):
        load_plan(Plan((Share(4, "eager", "fast"),)), parse(GRAPH))


def test_a_saved_model_keeps_its_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)).eval()
    x = torch.randn(2, 8)
    made = graphopt.compile(model, (x,), target="cpu", engines=ENGINES)
    count = len(made.graph)
    made._program.plan = Plan((Share(1, "eager"), Share(count, "onnxruntime")))  # type: ignore[union-attr]
    made.save(tmp_path / "model.gopt")
    loaded = graphopt.load(tmp_path / "model.gopt")
    assert loaded.engine == "eager + onnxruntime"
    torch.testing.assert_close(loaded(x), model(x), rtol=1e-5, atol=1e-6)


# Kept choices


def compiled(x: torch.Tensor, model: nn.Module, **options: Any) -> graphopt.CompiledModel:
    return graphopt.compile(model, (x,), target="cpu", engines=ENGINES, **options)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def notes(made: graphopt.CompiledModel) -> str:
    return "\n".join(made.report.passes.notes)


def test_the_second_compile_takes_the_choice(folder: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 16)
    first = compiled(x, model)
    (file,) = folder.glob("engines-*.json")
    monkeypatch.setattr(choosing, "interleaved_medians", lambda *a: pytest.fail("measured again"))
    second = compiled(x, model)
    assert "chosen before" in notes(second) and "chosen before" not in notes(first)
    assert second.engine == first.engine and str(file) in notes(second)
    assert [t.to_dict() for t in second.report.engines] == [t.to_dict() for t in first.report.engines]
    torch.testing.assert_close(second(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change", ["weights", "shape", "engines", "passes", "checks"])
def test_what_a_choice_depends_on(folder: Path, model: nn.Module, change: str) -> None:
    x = torch.randn(3, 16)
    compiled(x, model)
    if change == "weights":
        with torch.no_grad():
            model[0].weight.add_(1)
        again = compiled(x, model)
    elif change == "shape":
        again = compiled(torch.randn(4, 16), model)
    elif change == "engines":
        again = graphopt.compile(model, (x,), target="cpu", engines=ENGINES[1:])
    elif change == "passes":
        again = compiled(x, model, passes="none")
    else:
        again = compiled(x, model, validate=False)
    assert "chosen before" not in notes(again)
    assert len(list(folder.glob("engines-*.json"))) == 2


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda d: d["values"]["versions"].update(onnxruntime="0.1"), "was made with onnxruntime 0.1"),
        (lambda d: d["values"]["versions"].update(graphopt="0.0.1"), "was made with graphopt 0.0.1"),
        (lambda d: d.update(version=99), "is of version 99"),
        (lambda d: d["machine"].update(chip="another"), "on another machine"),
        (lambda d: d["values"].pop("plan"), "is damaged"),
        (lambda d: d["values"].update(plan=[[1, "eager", ""]]), "does not load"),
        (lambda d: d["values"].update(plan=[[4, "unheard-of", ""]]), "does not load"),
        (lambda d: d["values"]["trials"][0].update(speed=3), "is damaged"),
    ],
)
def test_what_cannot_be_used_is_measured_again(folder: Path, model: nn.Module, damage: Any, reason: str) -> None:
    x = torch.randn(3, 16)
    compiled(x, model)
    (file,) = folder.glob("engines-*.json")
    document = json.loads(file.read_text())
    damage(document)
    file.write_text(json.dumps(document))
    again = compiled(x, model)
    assert reason in notes(again) and "measured again" in notes(again)
    assert "chosen before" in notes(compiled(x, model))


def test_a_truncated_file(folder: Path, model: nn.Module) -> None:
    x = torch.randn(3, 16)
    compiled(x, model)
    (file,) = folder.glob("engines-*.json")
    file.write_bytes(file.read_bytes()[:-40])
    assert "is damaged" in notes(compiled(x, model))


def test_engines_that_name_no_packages_are_measured_each_time(folder: Path) -> None:
    class Own:
        name = "own"
        packages: ClassVar[tuple[str, ...]]

        def missing(self) -> None:
            return None

        def unsupported(self, graph: Graph) -> None:
            return None

        def load(self, graph: Graph) -> Executable:
            return EagerEngine().load(graph)

    graph, x = parse(GRAPH), torch.randn(2, 32)
    engines: list[Engine] = [Own(), EagerEngine()]
    choose_engine(graph, engines, samples(graph, x), inputs=[x])
    assert not list(folder.glob("engines-*.json"))


def test_it_can_be_turned_off(folder: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "no")
    compiled(torch.randn(3, 16), model)
    assert not list(folder.glob("engines-*.json"))
