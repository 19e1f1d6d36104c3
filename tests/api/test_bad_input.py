"""Bad input: one clear `GraphOptError`, and the model as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.errors import (
    CaptureError,
    GraphOptError,
    InputError,
    ParseError,
    PassError,
    TargetError,
    UnknownNameError,
    ValidationError,
)
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter, aten, var
from graphopt.targets import Target, register_engine
from tests.api.models import Branch, assert_untouched, small, snapshot


@pytest.fixture
def model() -> Any:
    """A model that must be as it was when the test is over."""
    made, _ = small()
    made.train()
    before = snapshot(made)
    yield made
    assert_untouched(made, before)


@pytest.fixture
def x() -> Tensor:
    return small()[1]


# Models


@pytest.mark.parametrize("name", ["conv.weight", "norm.running_var"])
def test_nan_weights(name: str, x: Tensor) -> None:
    model, _ = small()
    model.state_dict()[name].view(-1)[1] = float("nan")
    before = snapshot(model)
    with pytest.raises(
        InputError, match=rf"'{name}' holds NaN.*mend the weights, or give graphopt.compile validate=False"
    ):
        graphopt.compile(model, (x,), target="eager")
    fast = graphopt.compile(model, (x,), target="eager", validate=False)
    assert torch.equal(fast(x).isnan(), model(x).isnan())
    assert_untouched(model, before)


def test_infinite_and_eight_bit_weights_are_fine() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf, torch.inf]))
            self.register_buffer("small", torch.ones(3).to(torch.float8_e4m3fn))

        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(x + self.mask.clamp(max=0), -1) * self.small.float()

    model, x = Model(), torch.randn(2, 3)
    torch.testing.assert_close(graphopt.compile(model, (x,), target="eager")(x), model(x))


@pytest.mark.parametrize("target", ["fx", "eager", "onnxruntime"])
def test_an_empty_model_is_fine(target: str) -> None:
    x = torch.randn(3)
    fast = graphopt.compile(nn.Sequential(), (x,), target=target)
    assert torch.equal(fast(x), x) and len(fast.graph) == 0
    assert "nodes 0" in str(fast.report)


def test_data_dependent_control_flow() -> None:
    with pytest.raises(CaptureError, match=r"control flow depends on values.*models.py:\d+.*use torch.cond"):
        graphopt.compile(Branch(), (torch.ones(3),), target="eager")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (42, "cannot capture an object of type int; pass an nn.Module"),
        (None, "cannot capture an object of type NoneType"),
        (nn.Linear, r"Linear is a class; make a model of it first: Linear\(...\)"),
        ("no/such/file.pt2", "no file 'no/such/file.pt2'"),
    ],
)
def test_what_is_no_model(given: Any, message: str) -> None:
    for call in (graphopt.trace, graphopt.compile):
        with pytest.raises(CaptureError, match=message):
            call(given, (torch.ones(3),))
    with pytest.raises(CaptureError, match=message):
        graphopt.compile(given)


def test_a_file_that_is_no_archive(tmp_path: Any) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"nothing")
    with pytest.raises(CaptureError, match=r"model.pt2"):
        graphopt.compile(path, target="eager")


def test_torchscript() -> None:
    with pytest.raises(CaptureError, match=r"TorchScript.*nn.Module that it was made from"):
        graphopt.compile(torch.jit.script(nn.ReLU()), (torch.ones(3),))


def test_results_that_are_no_tensors() -> None:
    class Opaque(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return object()

    with pytest.raises(CaptureError, match=r"returns a object, which is not a tensor or a container"):
        graphopt.compile(Opaque(), (torch.ones(3),))


def test_a_model_that_raises() -> None:
    class Raises(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("out of cheese")

    with pytest.raises(CaptureError, match=r"out of cheese \(at .*test_bad_input.py:\d+, in forward"):
        graphopt.compile(Raises(), (torch.ones(3),))


# Example inputs


@pytest.mark.parametrize("call", [graphopt.trace, graphopt.compile])
def test_args_are_a_tuple(call: Callable[..., Any], model: nn.Module, x: Tensor) -> None:
    with pytest.raises(GraphOptError, match=r"args must be a tuple of example inputs, got Tensor; write \(x,\)"):
        call(model, x)
    with pytest.raises(GraphOptError, match=r"args must be a tuple of example inputs, got dict"):
        call(model, {"x": x})
    with pytest.raises(GraphOptError, match=r"kwargs must be a mapping of names to example inputs, got tuple"):
        call(model, (), (x,))
    with pytest.raises(CaptureError, match=r"don't fit Small.forward: .*'x'"):
        call(model, ())
    with pytest.raises(CaptureError, match=r"don't fit Small.forward: .*'y'"):
        call(model, (x,), {"y": x})


def test_example_inputs_that_do_not_fit(model: nn.Module) -> None:
    with pytest.raises(CaptureError, match=r"conv|channels"):
        graphopt.compile(model, (torch.ones(2, 3, 6, 6),), target="fx")
    with pytest.raises(CaptureError, match=r"ndarray"):
        graphopt.compile(model, (np.ones((2, 1, 6, 6), np.float32),), target="fx")


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("bacth", UnknownNameError, "Unknown word for dynamic_shapes 'bacth'. Did you mean 'batch'"),
        ({"y": {0: torch.export.Dim("n")}}, CaptureError, "does not name the arguments of the call, which are .'x'"),
        ({"x": {1: torch.export.Dim("n")}}, CaptureError, "to have 1 channels"),
    ],
)
def test_dynamic_shapes(spec: Any, error: type[Exception], message: str, model: nn.Module, x: Tensor) -> None:
    for call in (graphopt.trace, graphopt.compile):
        with pytest.raises(error, match=message):
            call(model, (x,), dynamic_shapes=spec)


# Calls


CALLS: list[tuple[Callable[[Tensor], Any], str]] = [
    (lambda x: x.double(), r"must be torch.float32, got torch.float64; convert it with .to\(torch.float32\)"),
    (lambda x: x.int(), "must be torch.float32, got torch.int32"),
    (lambda x: x[:3], r"must be f32\[5, 1, 6, 6\], got shape \[3, 1, 6, 6\]: dim 0 was captured with size 5"),
    (lambda x: x[0], r"must be of rank 4 .*, got shape \[1, 6, 6\]"),
    (lambda x: x.to("meta"), "must be on device 'cpu', got a tensor on 'meta'"),
    (lambda x: x.to_sparse(), r"must be dense, got layout torch.sparse_coo"),
    (lambda x: x.numpy(), "must be a tensor .*, got a NumPy array; convert it with torch.from_numpy"),
    (lambda x: x.tolist(), "must be a tensor .*, got a list"),
    (lambda x: None, "must be a tensor .*, got None"),
    (lambda x: 3, "must be a tensor .*, got 3"),
]


@pytest.fixture(scope="module", params=["fx", "eager", "onnxruntime"])
def fast(request: pytest.FixtureRequest) -> graphopt.CompiledModel:
    model, x = small()
    return graphopt.compile(model, (x,), target=request.param)


@pytest.mark.parametrize(("change", "message"), CALLS)
def test_inputs_at_call_time(change: Callable[[Tensor], Any], message: str, fast: nn.Module, x: Tensor) -> None:
    with pytest.raises(InputError, match=message):
        fast(change(x))


def test_counts_at_call_time(fast: nn.Module, x: Tensor) -> None:
    for args, kwargs, message in [
        ((), {}, "argument 'x' is missing; the model was captured with x"),
        ((x, x), {}, r"captured with 1 positional arguments and keywords \[\], got 2"),
        ((x,), {"mask": x}, "there is no argument 'mask'; the model was captured with x"),
    ]:
        with pytest.raises(InputError, match=message):
            fast(*args, **kwargs)
    fast(x=x)


# Names


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": "onnxruntme"}, UnknownNameError, "Unknown target 'onnxruntme'. Did you mean 'onnxruntime'"),
        ({"target": 3}, GraphOptError, "target takes a name .*or a Target, got 3"),
        ({"engines": ("eagre",)}, UnknownNameError, "Unknown engine 'eagre'. Did you mean 'eager'"),
        ({"engines": "eagre"}, UnknownNameError, "Unknown engine 'eagre'. Did you mean 'eager'"),
        ({"target": "fx", "engines": ("eager",)}, GraphOptError, "target 'fx' runs no engine; leave engines out"),
        ({"passes": "dead-cod"}, GraphOptError, "'dead-cod'.*Did you mean 'dead-code'"),
        ({"passes": "dead-code{constnts=true}"}, GraphOptError, "'constnts'.*Did you mean 'constants'"),
        ({"passes": "dead-code{constants=maybe}"}, GraphOptError, "maybe"),
        ({"passes": [3]}, GraphOptError, "3 is no pass"),
        ({"validate": "eahc"}, UnknownNameError, "Unknown value of validate 'eahc'. Did you mean 'each'"),
        ({"validate": 1.5}, GraphOptError, "validate takes one of 'each', 'end', True, False, got 1.5"),
        ({"on_failure": "rise"}, UnknownNameError, "'rise'. Did you mean 'raise'"),
        ({"budget": "0.1"}, GraphOptError, "budget takes a number .*, got '0.1'"),
        ({"budget": -1.0}, GraphOptError, "budget .*at least 0, got -1.0"),
        ({"opset": "18"}, GraphOptError, "opset takes a whole number, got '18'"),
    ],
)
def test_names_and_choices(
    options: dict[str, Any], error: type[Exception], message: str, model: nn.Module, x: Tensor
) -> None:
    with pytest.raises(error, match=message):
        graphopt.compile(model, (x,), **options)
    with pytest.raises(error, match=message):  # without inputs too, at once
        graphopt.compile(model, **options)


@pytest.mark.parametrize(
    ("text", "token"),
    [("dead-code,,dead-code", ","), ("dead-code{constants=", ""), ("dead-code}", "}"), ("fixpoint(dead-code", "")],
)
def test_malformed_pipelines_are_underlined(text: str, token: str, model: nn.Module, x: Tensor) -> None:
    with pytest.raises(ParseError) as caught:
        graphopt.compile(model, (x,), passes=text)
    line, caret = str(caught.value).splitlines()[-2:]
    assert line.endswith(text) and caret.strip() == "^"
    assert line[caret.index("^") :].startswith(token)


def test_an_opset_that_does_not_exist(model: nn.Module, x: Tensor) -> None:
    fast = graphopt.compile(model, (x,), target="fx")
    with pytest.raises(GraphOptError, match="opset"):
        fast.to_onnx(opset=3)


# Passes


@dataclass(frozen=True)
class Raises(Pass):
    """A pass with a bug."""

    def run(self, graph: Any, context: PassContext) -> PassResult:
        raise ZeroDivisionError("by accident")


@dataclass(frozen=True)
class Breaks(Pass):
    """A pass that leaves a graph that does not hold together."""

    def run(self, graph: Any, context: PassContext) -> PassResult:
        node = next(iter(graph))
        graph.set_outputs([node.operands[0]])
        return PassResult(True)


@dataclass(frozen=True)
class Miscomputes(Pass):
    """A pass that breaks its promise."""

    contract = Contract.BITWISE

    def run(self, graph: Any, context: PassContext) -> PassResult:
        rewriter = Rewriter(graph)
        node = next(n for n in graph if n.op.name == "aten.relu")
        with rewriter.at(node, "wrong"):
            rewriter.replace(node, [rewriter.create("aten.abs", node.operands[0]).result])
        return PassResult(True)


PASSES = [
    (Raises(), PassError, r"pass 'raises' raised ZeroDivisionError: by accident"),
    (Breaks(), PassError, r"pass 'breaks' returned a broken graph: .*output 0"),
    (Miscomputes(), ValidationError, r"pass 'miscomputes' promises to be bitwise, but output 0"),
]


@pytest.mark.unchecked_passes
@pytest.mark.parametrize(("bad", "error", "message"), PASSES)
def test_a_bad_pass_is_undone_and_reported(
    bad: Pass, error: type[Exception], message: str, model: nn.Module, x: Tensor
) -> None:
    fast = graphopt.compile(model, (x,), target="eager", passes=[bad, *_default()])
    twin, _ = small()
    torch.testing.assert_close(fast(x), twin(x).detach(), atol=1e-5, rtol=1e-4)
    (record,) = fast.report.passes.rolled_back
    assert record.name == bad.name
    assert __import__("re").search(message, record.reason)
    assert bad.name in str(fast.report)


@pytest.mark.unchecked_passes
@pytest.mark.parametrize(("bad", "error", "message"), PASSES)
def test_a_bad_pass_raises_if_asked(
    bad: Pass, error: type[Exception], message: str, model: nn.Module, x: Tensor
) -> None:
    with pytest.raises(error, match=message):
        graphopt.compile(model, (x,), target="eager", passes=[bad], on_failure="raise")


def _default() -> list[Pass]:
    from graphopt.pipelines import resolve_passes

    return list(resolve_passes("default", "eager", False).leaves())


def test_a_rule_that_raises(model: nn.Module, x: Tensor) -> None:
    v = var("v")

    @graphopt.rewrite(aten.relu(v), name="bad-rule")
    def bad_rule(v: Any) -> Any:
        return 1 / 0

    with pytest.raises(PassError, match=r"rule 'bad-rule' raised ZeroDivisionError"):
        graphopt.compile(model, (x,), target="fx", passes=[bad_rule], on_failure="raise")


# Engines


class Odd:
    """An engine that computes something else, or fails."""

    def __init__(self, name: str, result: Any) -> None:
        self.name, self.result = name, result

    def missing(self) -> str | None:
        return None

    def unsupported(self, graph: Any) -> str | None:
        return None

    def load(self, graph: Any) -> Any:
        return self

    def run(self, inputs: Any) -> list[Any]:
        return self.result(inputs)


def _fails(inputs: Any) -> list[Any]:
    raise ValueError("no such kernel")


@pytest.fixture(scope="module")
def odd_engines() -> Any:
    from graphopt.targets import registry

    odd = {
        "wrong": lambda inputs: [torch.zeros(5, 3)],
        "short": lambda inputs: [],
        "flat": lambda inputs: [torch.zeros(15)],
        "failing": _fails,
    }
    for name, result in odd.items():
        register_engine(name, lambda name=name, result=result: Odd(name, result))
    yield tuple(odd)
    for name in odd:
        del registry._registered[name]


def test_engines_that_compute_something_else(odd_engines: Any, model: nn.Module, x: Tensor) -> None:
    fast = graphopt.compile(model, (x,), target=Target("odd", "", (*odd_engines, "eager")))
    reasons = {trial.engine: trial.reason for trial in fast.report.engines}
    assert fast.engine == "eager" and reasons.pop("eager") == ""
    assert "wrong numbers: output 0: the error" in reasons["wrong"]
    assert reasons["short"] == "wrong numbers: 0 outputs in place of 1"
    assert "had shape [5, 3], has [15]" in reasons["flat"]
    assert reasons["failing"] == "ValueError: no such kernel"
    for text in reasons.values():
        assert text in str(fast.report)
    with pytest.raises(TargetError, match=r"no engine can run this model \(wrong: .*failing: ValueError"):
        graphopt.compile(model, (x,), target=Target("odd", "", odd_engines))


def test_wrong_numbers_behind_random_numbers_are_noticed(odd_engines: Any) -> None:
    """Attention may drop out at random, so it counts as random; what does not depend on the seed is compared."""

    class Attention(nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(q, q, q).sum((0, 1))[:5, :3]

    with pytest.raises(TargetError, match="wrong numbers"):
        graphopt.compile(Attention(), (torch.randn(2, 3, 5, 4),), target=Target("odd", "", ("wrong",)))
