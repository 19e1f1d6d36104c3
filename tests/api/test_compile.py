"""`graphopt.compile`: every calling convention, on every target, against eager PyTorch."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import graphopt
from graphopt.errors import InputError
from tests.api.models import Affine, Counter, Nested, assert_untouched, small, snapshot
from tests.zoo import MODELS

TARGETS = ["fx", "eager", "onnxruntime"]

AWKWARD = [
    "multi-output",
    "nested-input",
    "tied",
    "in-place",
    "input-mutation",
    "cond",
    "mixed-types",
    "empty",
    "constant-output",
    "stateful-lstm",
]


def assert_same(got: Any, want: Any, atol: float = 1e-5) -> None:
    """The same containers, the same values."""
    got_leaves, got_tree = pytree.tree_flatten(got)
    want_leaves, want_tree = pytree.tree_flatten(want)
    assert got_tree == want_tree
    for a, b in zip(got_leaves, want_leaves):
        if isinstance(b, torch.Tensor):
            torch.testing.assert_close(a, b, atol=atol, rtol=1e-4)
        else:
            assert type(a) is type(b) and a == b


def copied(value: Any) -> Any:
    return pytree.tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, value)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_models_give_eager_s_results(name: str, target: str) -> None:
    model = MODELS[name].build()
    args, kwargs = MODELS[name].inputs()
    before = snapshot(model)
    fast = graphopt.compile(model, copied(args), copied(kwargs), target=target)
    assert_untouched(model, before)
    twin = MODELS[name].build()
    for seed in (1, 2):  # twice: what a call does to buffers shows in the next
        args, kwargs = MODELS[name].inputs(seed=seed)
        own_args, own_kwargs = copied(args), copied(kwargs)
        with torch.no_grad():
            want, got = twin(*args, **kwargs), fast(*own_args, **own_kwargs)
        assert_same(got, want)
        assert_same((own_args, own_kwargs), (args, kwargs))  # what a call does to its inputs
    assert_untouched(model, before)


def test_cpu_takes_the_fastest_engine_and_reports_each() -> None:
    model, x = small()
    fast = graphopt.compile(model, (x,), target="cpu", engines=("eager", "onnxruntime"))
    trials = {trial.engine: trial for trial in fast.report.engines}
    assert set(trials) == {"eager", "onnxruntime"}
    assert all(trial.milliseconds is not None and not trial.reason for trial in trials.values())
    chosen = min(trials.values(), key=lambda trial: trial.milliseconds)
    assert chosen.chosen and fast.engine == chosen.engine
    assert_same(fast(x), model(x).detach())


def test_arguments_by_position_by_name_and_by_default() -> None:
    model, x, shift = Affine(), torch.randn(2, 4), torch.randn(3)
    plain = graphopt.compile(model, (x,), target="fx")
    for args, kwargs in [((x,), {}), ((), {"x": x}), ((x, None), {}), ((x,), {"scale": 1.0, "shift": None})]:
        assert_same(plain(*args, **kwargs), model(*args, **kwargs))
    full = graphopt.compile(model, (), {"scale": 0.5, "shift": shift, "x": x}, target="eager")
    for args, kwargs in [((x, shift), {"scale": 0.5}), ((), {"x": x, "shift": shift, "scale": 0.5})]:
        assert_same(full(*args, **kwargs), model(*args, **kwargs).detach())


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "'x' is missing"),
        ((1, 2, 3), {}, "captured with 1 positional"),
        (("x",), {"x": "x"}, "'x' is given twice"),
        (("x",), {"shifts": 1}, "no argument 'shifts'"),
        (("x",), {"shift": torch.ones(3)}, "'shift' was left out at capture, where it is None, got a tensor"),
        (("x",), {"scale": 2.0}, "'scale' was left out at capture, where it is 1.0, got 2.0"),
    ],
)
def test_arguments_that_were_not_captured(args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    x = torch.randn(2, 4)
    fast = graphopt.compile(Affine(), (x,), target="fx")
    with pytest.raises(InputError, match=message):
        fast(*(x if a == "x" else a for a in args), **{n: x if v == "x" else v for n, v in kwargs.items()})  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("target", ["fx", "eager"])
def test_nested_arguments_and_results(target: str) -> None:
    model = Nested()
    x, pair = torch.randn(2, 3), (torch.randn(2, 3), torch.randn(4))
    fast = graphopt.compile(model, ({"x": x, "unused": None}, pair), target=target)
    assert_same(fast({"unused": None, "x": x}, pair), model({"x": x}, pair))
    with pytest.raises(InputError, match=r"batch was a dict with keys \['x', 'unused'\] at capture, got keys \['x'\]"):
        fast({"x": x}, pair)
    with pytest.raises(InputError, match=r"pair was a tuple of 2 at capture, got a list of 2"):
        fast({"x": x, "unused": None}, list(pair))
    with pytest.raises(InputError, match=r"batch\['unused'\] was None at capture and is fixed, got 1"):
        fast({"x": x, "unused": 1}, pair)


def test_fixed_numbers_are_compared_with_their_type() -> None:
    x = torch.randn(2, 4)
    fast = graphopt.compile(Affine(), (x,), {"scale": 1.0}, target="fx")
    fast(x, scale=1.0)
    for other in (1, True, 0.5):
        with pytest.raises(InputError, match=f"scale was 1.0 at capture and is fixed, got {other!r}"):
            fast(x, scale=other)
    nan = graphopt.compile(Affine(), (x,), {"scale": float("nan")}, target="fx", validate=False)
    assert nan(x, scale=float("nan")).isnan().all()


def test_result_types_are_the_original_s() -> None:
    class Ordered(nn.Module):
        def forward(self, x: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
            return OrderedDict(b=x + 1, a=x * 2)

    x = torch.randn(3)
    got = graphopt.compile(Ordered(), (x,), target="eager")(x)
    assert type(got) is OrderedDict and list(got) == ["b", "a"] and torch.equal(got["a"], x * 2)


def test_buffers_start_where_the_original_s_are() -> None:
    """Trying and timing engines runs the model many times; none of that may show."""
    model, x = Counter(), torch.ones(2, 3)
    model(x)
    fast = graphopt.compile(model, (x,), target="cpu", engines=("eager", "onnxruntime"))
    assert model.calls == 1
    assert torch.equal(fast(x), torch.full((3,), 8.0))  # second call: total 4, times 2
    assert torch.equal(fast(x), torch.full((3,), 18.0))
    assert model.calls == 1


@pytest.mark.parametrize("target", ["fx", "eager", "onnxruntime"])
@pytest.mark.parametrize("shapes", ["batch", "auto", "torch"])
def test_dynamic_shapes(target: str, shapes: str) -> None:
    model, x = small()
    spec: Any = {"x": {0: torch.export.Dim("rows", min=1, max=64)}} if shapes == "torch" else shapes
    fast = graphopt.compile(model, (x,), target=target, dynamic_shapes=spec)
    for batch in (1, 2, 7):
        images = torch.randn(batch, 1, 6, 6)
        assert_same(fast(images).detach(), model(images).detach())
    if shapes == "torch":
        with pytest.raises(InputError, match=r"rows=65 is outside of \[1, 64\]"):
            fast(torch.randn(65, 1, 6, 6))


def test_inputs_that_share_a_dim_must_agree() -> None:
    class Add(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    fast = graphopt.compile(Add(), (torch.ones(2, 3), torch.ones(2, 3)), target="fx", dynamic_shapes="batch")
    with pytest.raises(InputError, match=r"'y' has size 3.*batch"):
        fast(torch.ones(2, 3), torch.ones(3, 3))


def test_properties_of_a_compiled_model(tmp_path: Any) -> None:
    model, x = small()
    fast = graphopt.compile(model, (x,), target="eager", dynamic_shapes="batch")
    assert isinstance(fast, nn.Module) and not fast.training
    assert fast.engine == "eager"
    assert str(fast.graph.inputs[0].type) == "f32[batch, 1, 6, 6]"
    assert_same(fast.module(x).detach(), model(x).detach())
    report = json.loads(fast.report.to_json())
    assert report["target"] == "eager" and report["passes"]["passes"]
    assert "eager" in str(fast.report) and "nodes" in str(fast.report)


def test_to_onnx_is_clean_and_keeps_dynamic_dims(tmp_path: Any) -> None:
    import onnx

    model, x = small()
    fast = graphopt.compile(model, (x,), target="eager", dynamic_shapes="batch", opset=18)
    path = tmp_path / "small.onnx"
    made = fast.to_onnx(path)
    onnx.checker.check_model(str(path), full_check=True)
    assert made.opset_import[0].version == 18
    shape = onnx.load(path).graph.input[0].type.tensor_type.shape
    assert [d.dim_param or d.dim_value for d in shape.dim] == ["batch", 1, 6, 6]


def test_exported_programs_and_archives(tmp_path: Any) -> None:
    model, x = small()
    program = torch.export.export(model, (x,))
    path = tmp_path / "small.pt2"
    torch.export.save(program, path)
    for source in (program, path, str(path)):
        fast = graphopt.compile(source, target="cpu", engines=("eager", "onnxruntime"))
        assert_same(fast(x), model(x).detach())
        # The example inputs of the program are used: the engines were measured.
        assert all(trial.milliseconds is not None for trial in fast.report.engines)


def test_functions_and_fx_modules() -> None:
    x = torch.randn(3)
    assert torch.equal(graphopt.compile(lambda t: t * 2 + 1, (x,), target="fx")(x), x * 2 + 1)
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 2), nn.ReLU()))
    assert_same(graphopt.compile(traced, (x,), target="fx")(x), traced(x))


def test_a_model_without_inputs() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3))

        def forward(self) -> torch.Tensor:
            return torch.softmax(self.weight, 0)

    model = Constant()
    assert_same(graphopt.compile(model, (), target="eager")(), model().detach())


def test_share_weights() -> None:
    model, x = small()
    fast = graphopt.compile(model, (x,), target="fx", share_weights=True)
    assert fast.get_parameter("head.weight").data_ptr() == model.head.weight.data_ptr()
    copied_ = graphopt.compile(model, (x,), target="fx")
    with torch.no_grad():
        model.head.bias += 1
    assert_same(fast(x), model(x))
    assert_same(copied_(x) + 1, model(x))


def test_engines_ignore_later_changes_of_the_original() -> None:
    model, x = small()
    fast = graphopt.compile(model, (x,), target="eager")
    want = fast(x)
    with torch.no_grad():
        model.head.weight.zero_()
    assert torch.equal(fast(x), want)
    assert "head.weight" in str(fast.graph)
    for action in (lambda: fast.save("never-written.gopt"), fast.to_onnx, fast.state_dict):
        with pytest.raises(
            graphopt.GraphOptError, match=r"head.weight of the original model changed.*compile it again"
        ):
            action()


@pytest.mark.parametrize("target", ["eager", "onnxruntime"])
def test_engines_run_in_half_under_no_autocast_but_their_own(target: str) -> None:
    """The graph says its precision; the caller's autocast does not change what was compiled and checked."""
    model, x = small()
    fast = graphopt.compile(model, (x,), target=target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fast(x).dtype is torch.float32


def test_random_outputs_leave_the_generator_alone_while_compiling() -> None:
    model = MODELS["noise"].build()
    args, kwargs = MODELS["noise"].inputs()
    before = snapshot(model)
    fast = graphopt.compile(model, args, kwargs, target="cpu", engines=("eager",))
    assert_untouched(model, before)
    torch.manual_seed(1)
    got = fast(*args, **kwargs)
    torch.manual_seed(1)
    assert_same(got, model(*args, **kwargs).detach())


def test_compile_and_export_the_result() -> None:
    model, x = small()
    fast = graphopt.compile(model, (x,), target="fx")
    with torch.no_grad():
        assert_same(torch.compile(fast, backend="eager", fullgraph=True)(x), model(x))
        program = torch.export.export(fast, (x,))
    assert set(program.state_dict) >= set(dict(model.named_parameters()))
    assert_same(program.module()(x).detach(), model(x).detach())
    again = graphopt.compile(fast, (x,), target="eager")
    assert_same(again(x), model(x).detach())


def test_engines_are_checked_at_a_second_size() -> None:
    """An engine that is right at the sample's size alone is left out."""
    from graphopt.backends.fx.engines import EagerEngine
    from graphopt.targets import Target, register_engine, registry

    class Fixed(EagerEngine):
        name = "fixed-size"

        def load(self, graph: Any) -> Any:
            executable = super().load(graph)

            class Padded:
                def run(self, inputs: Any) -> Any:
                    return [t.new_zeros(t.shape) if len(t) != 5 else t for t in executable.run(inputs)]

            return Padded()

    register_engine("fixed-size", Fixed)
    try:
        model, x = small()
        target = Target("odd", "", ("fixed-size", "eager"))
        assert {t.reason for t in graphopt.compile(model, (x,), target=target).report.engines} == {""}
        fast = graphopt.compile(model, (x,), target=target, dynamic_shapes="batch")
        assert fast.engine == "eager" and "wrong numbers" in fast.report.engines[0].reason
    finally:
        del registry._registered["fixed-size"]


@pytest.mark.parametrize("function", [torch.sigmoid, torch.tanh])
def test_functions_that_end_at_one_may_err_by_units_of_one(function: Any) -> None:
    x = torch.linspace(-15, -12, 64) if function is torch.sigmoid else torch.linspace(-1e-6, 1e-6, 64)
    fast = graphopt.compile(torch.export.export(_Function(function), (x,)), target="onnxruntime")
    torch.testing.assert_close(fast(x), function(x), rtol=0, atol=5e-7)


class _Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def test_without_example_inputs_engines_are_measured_on_made_up_ones() -> None:
    model, x = small()
    program = torch.export.export(model, (x,))
    program._example_inputs = None
    fast = graphopt.compile(program, target="cpu", engines=("eager", "onnxruntime"))
    assert all(trial.milliseconds is not None for trial in fast.report.engines)
    assert_same(fast(x), model(x).detach())


def test_repr_says_what_runs() -> None:
    model, x = small()
    assert repr(graphopt.compile(model, (x,), target="eager")).startswith(
        "CompiledModel(target='eager', engine='eager'"
    )
    lazy = graphopt.compile(model, target="eager")
    assert repr(lazy) == "CompiledModel(target='eager')"


def test_a_compiled_model_is_compiled_with_named_dims() -> None:
    model, x = small()
    fast = graphopt.compile(model, (x,), target="fx", dynamic_shapes="batch")
    again = graphopt.compile(fast, (x,), target="eager", dynamic_shapes={"x": {0: torch.export.Dim("rows")}})
    assert str(again.graph.inputs[0].type) == "f32[rows, 1, 6, 6]"
    assert_same(again(x[:3]), model(x[:3]).detach())


@pytest.mark.slow
def test_all_engines_of_the_cpu() -> None:
    model, x = small()
    fast = graphopt.compile(model, (x,), target="cpu", dynamic_shapes="batch")
    assert [t.engine for t in fast.report.engines if t.milliseconds is not None and not t.settings] == [
        *("onnxruntime", "openvino", "inductor", "eager")
    ]
    for engine in ("onnxruntime", "openvino", "inductor", "eager"):
        one = graphopt.compile(model, (x,), target="cpu", engines=(engine,), dynamic_shapes="batch")
        assert one.engine == engine
        for batch in (1, 5, 7):
            images = torch.randn(batch, 1, 6, 6)
            assert_same(one(images), model(images).detach())


def test_each_candidate_runs_its_own_form_of_the_graph() -> None:
    """Mish has no good kernel in ONNX Runtime, and a good one in PyTorch."""
    model, x = torch.nn.Mish(), torch.randn(4, 8)
    fast = graphopt.compile(model, (x,), target="cpu", engines=("onnxruntime", "eager"))
    torch.testing.assert_close(fast(x), model(x))
    assert any(node.name == "aten.mish" for node in fast.graph) is (fast.engine == "eager")
