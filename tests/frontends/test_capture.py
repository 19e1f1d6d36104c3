"""What capture takes and gives: signatures, stored tensors, model forms, locations."""

from __future__ import annotations

import collections
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graphopt.errors import CaptureError
from graphopt.frontends import capture
from graphopt.ir import ConstantKind, Literal, Slot, verify
from tests.frontends.running import captured, check, run, same

Pair = collections.namedtuple("Pair", "first second")


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.drop(self.norm(self.conv(x)))
        y += x
        return y.relu_()


def check_module(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, **options: Any) -> Any:
    graph = capture(model, args, kwargs, **options)
    verify(graph)
    result, _ = run(graph, args, kwargs)
    with torch.no_grad():
        same(result, copy.deepcopy(model)(*copy.deepcopy(args), **copy.deepcopy(kwargs or {})), 1e-6)
    return graph


# Signatures


def test_nested_structures_in_and_out() -> None:
    class Model(nn.Module):
        def forward(self, xs: list[torch.Tensor], options: dict[str, Any], *, pair: Pair, scale: float = 2.0) -> Any:
            total = xs[0] + xs[1] * options["weight"]
            return {
                "sum": total,
                "pair": Pair(pair.first * scale, [pair.second, None]),
                "name": options["name"],
                "n": 3,
            }

    x = torch.ones(2, 3)
    args = ([x, x * 2], {"weight": x * 3, "name": "a", "none": None})
    graph = check_module(Model(), args, {"pair": Pair(x * 4, x * 5), "scale": 3.0})
    signature = graph.signature
    assert signature.in_names == (
        "xs[0]",
        "xs[1]",
        "options['weight']",
        "options['name']",
        "options['none']",
        "pair.first",
        "pair.second",
        "scale",
    )
    assert signature.in_leaves[3] == Literal("a")
    assert signature.in_leaves[0] == Slot(0)
    assert Literal("a") in signature.out_leaves and Literal(3) in signature.out_leaves


def test_the_same_tensor_passed_twice() -> None:
    x = torch.ones(3)
    graph = check(lambda a, b: a * 2 + b, x, x)
    assert len(graph.inputs) == 2


def test_input_returned_and_output_repeated() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x + 1
        return x, y, y, x

    check(function, torch.ones(3))


def test_no_outputs_and_no_inputs() -> None:
    check(lambda x: None, torch.ones(3))
    check(lambda: torch.ones(2))


def test_variadic_arguments() -> None:
    class Model(nn.Module):
        def forward(self, *xs: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
            return sum(xs) + named["a"]

    graph = check_module(Model(), (torch.ones(2), torch.ones(2)), {"a": torch.ones(2)})
    assert len(graph.inputs) == 3
    with pytest.raises(CaptureError, match="named parameter"):
        capture(Model(), (torch.ones(2), torch.ones(2)), {"a": torch.ones(2)}, dynamic_shapes="batch")
    graph = check(lambda *xs: xs[0] + xs[1], torch.ones(2), torch.ones(2), dynamic_shapes="batch")
    assert str(graph.inputs[0].type) == "f32[batch]"


# Stored tensors


def test_tied_weights_are_one_constant_with_all_names() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(x))

    model = Tied().eval()
    graph = check_module(model, (torch.tensor([1, 2]),))
    (value,) = graph.constants.values()
    assert value.constant.names == ("embedding.weight", "head.weight")
    assert value.constant.tensor is model.embedding.weight
    assert value.constant.requires_grad and value.constant.kind is ConstantKind.PARAMETER


def test_constants_say_what_they_are_and_are_shared() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3), requires_grad=False)
            self.register_buffer("kept", torch.ones(3))
            self.register_buffer("temporary", torch.ones(3), persistent=False)
            self.loose = torch.ones(3)
            self.unused = nn.Parameter(torch.ones(7))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight + self.kept + self.temporary + self.loose + torch.tensor([1.0, 2.0, 3.0])

    model = Model().eval()
    graph = check_module(model, (torch.ones(3),))
    constants = {name: value.constant for name, value in graph.constants.items()}
    assert constants["weight"].tensor is model.weight and not constants["weight"].requires_grad
    assert constants["kept"].kind is ConstantKind.BUFFER and constants["kept"].persistent
    assert not constants["temporary"].persistent
    assert constants["loose"].kind is ConstantKind.CONSTANT and constants["loose"].tensor is model.loose
    assert not graph.constants["unused"].num_uses
    assert not any(constant.changed for constant in constants.values())
    model.kept.add_(1)
    assert constants["kept"].changed


def test_buffer_mutation_is_an_update() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count[0] += x.sum()
            self.count.mul_(2)
            return x + self.count

    model = Counter().eval()
    graph = captured(model, torch.ones(2))
    result, updates = run(graph, (torch.ones(2),))
    assert torch.equal(model.count, torch.zeros(2))
    same(result, model(torch.ones(2)))
    same(updates, {"count": model.count})


def test_a_name_shared_by_an_input_and_a_parameter() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Parameter(torch.ones(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.x

    graph = check_module(Model().eval(), (torch.ones(2),))
    assert [value.name for value in graph.inputs] == ["x"]
    assert "x" not in graph.constants


def test_updating_a_buffer_that_shares_memory_is_refused() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("whole", torch.zeros(4))
            self.register_buffer("part", self.whole[:2])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.whole.add_(1)
            return x + self.part

    with pytest.raises(CaptureError, match="shares memory"):
        capture(Shared().eval(), (torch.ones(2),))


# The caller's model


def test_capture_leaves_the_model_as_it_was() -> None:
    class Messy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)
            self.loose = torch.zeros(3)
            self.history = [torch.zeros(3)]
            self.rnn = nn.LSTM(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.last = x
            self.loose.add_(1)
            self.history[0].add_(self.loose)
            return self.rnn(self.norm(x))[0]

    model = Messy().train()
    model.norm.eval()
    state = copy.deepcopy(model.state_dict())
    attributes = {name: set(module.__dict__) for name, module in model.named_modules()}
    weights = list(model.rnn._flat_weights)
    capture(model, (torch.randn(2, 3),))
    assert model.training and model.rnn.training and not model.norm.training
    same(model.state_dict(), state)
    assert torch.equal(model.loose, torch.zeros(3)) and torch.equal(model.history[0], torch.zeros(3))
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == attributes
    assert all(a is b for a, b in zip(model.rnn._flat_weights, weights))


def test_hooks_installed_while_tracing_are_taken_out_again() -> None:
    """As transformers does at the first call: kept, they would run twice once eager installs its own."""

    class Doubling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)
            self.installed = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.installed:
                self.inner.register_forward_hook(lambda module, args, output: 2 * output)
                self.installed = True
            return self.inner(x)

    model, x = Doubling().eval(), torch.randn(2, 3)
    with torch.no_grad():
        expected = 2 * torch.nn.functional.linear(x, model.inner.weight, model.inner.bias)
        capture(model, (x,))
        assert not model.inner._forward_hooks
        torch.testing.assert_close(model(x), expected)


def test_flags_are_restored_after_a_failure() -> None:
    class Failing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("no")

    model = Failing().train()
    with pytest.raises(Exception, match="ValueError: no"):
        capture(model, (torch.ones(1),))
    assert model.training


# Forms of models


def test_every_form_of_a_model_gives_the_same_results() -> None:
    model = Residual().eval()
    x = torch.randn(2, 3, 5, 5)
    expected = model(x)
    program = torch.export.export(model, (x,))
    forms: list[tuple[Any, tuple[Any, ...]]] = [
        (model, (x,)),
        (program, ()),
        (program.run_decompositions(), ()),
        (program.module(), (x,)),
        (torch.fx.symbolic_trace(model), (x,)),
        (torch.compile(model), (x,)),
        (model.forward, (x,)),
    ]
    for form, args in forms:
        graph = capture(form, args)
        verify(graph)
        same(run(graph, (x,))[0], expected, 1e-5)


def test_decomposed_program_with_buffer_and_input_mutation() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count.add_(x)
            x.mul_(2)
            return x + self.count

    program = torch.export.export(Model().eval(), (torch.ones(3),))
    direct, decomposed = capture(program), capture(program.run_decompositions({}))
    assert set(direct.mutations) == set(decomposed.mutations) == {"count", "x"}
    x = torch.arange(3.0)
    (result, updates), (other_result, other_updates) = run(direct, (x,)), run(decomposed, (x,))
    same(result, other_result)
    same(dict(sorted(updates.items())), dict(sorted(other_updates.items())))


def test_locations_name_the_users_line_and_the_module_path() -> None:
    graph = capture(Residual().eval(), (torch.randn(1, 3, 4, 4),))
    by_op = {node.op.name: node.location for node in graph}
    assert by_op["aten.conv2d"].scope == "conv"
    assert by_op["aten.batch_norm"].scope == "norm"
    assert all(location.file == __file__ for location in by_op.values())
    lines = Path(__file__).read_text().splitlines()
    assert lines[by_op["aten.add.Tensor"].line - 1].strip() == "y += x"
    assert lines[by_op["aten.conv2d"].line - 1].strip() == "y = self.drop(self.norm(self.conv(x)))"


def test_locations_in_a_plain_function() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    (node,) = capture(function, (torch.ones(2),))
    assert node.location.file == __file__


def test_numbers_become_scalar_overloads() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 1, (x + 2) * 3 - 1, x / 2) ** 2 + torch.maximum(x, torch.tensor(0.5)) // 3

    graph = check(function, torch.arange(4.0))
    names = {node.op.name for node in graph}
    assert {"aten.add.Scalar", "aten.mul.Scalar", "aten.sub.Scalar", "aten.div.Scalar"} <= names
    assert not names & {"aten.add.Tensor_", "aten.mul.Tensor", "aten.div.Tensor"}


def test_scalars_promote_as_numbers_do() -> None:
    def function(i: torch.Tensor, h: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return i + 1.5, h * 2.5, z + 2.5, i // 2, h > 1, torch.clamp(i, min=1), h.lerp(h + 1, 0.25), 2 - i, 1 / h

    half = torch.ones(3, dtype=torch.bfloat16)
    check(function, torch.arange(3), half, torch.tensor(2.0, dtype=torch.float16))


def test_conversions_have_one_form() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x.double(), x.to(torch.int32), x.type_as(y), x.float(), x.to("cpu"), x.bool(), x.to(x), x.long() * 2

    graph = check(function, torch.arange(3.0), torch.arange(3))
    assert {node.op.name for node in graph} == {"aten._to_copy", "aten.mul.Scalar"}


def test_assertions_and_copies_vanish() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        torch._check(x.shape[0] > 1)
        torch._assert(x.shape[0] < 100, "long")
        return x.detach() + torch.tensor([1.0, 2.0]) * x.to(torch.float32)

    graph = check(function, torch.ones(2))
    assert [node.op.name for node in graph] == ["aten.mul.Tensor", "aten.add.Tensor"]


def test_factories_name_their_dtype() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x + torch.zeros(3) + torch.arange(3) + torch.full((3,), 2) + torch.ones(3, dtype=torch.float64)

    graph = check(function, torch.ones(3))
    for node in graph:
        if not node.operands:
            assert node.attributes["dtype"] is node.result.dtype


def test_random_operators_keep_their_order() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a = torch.rand(3)
        b = torch.randn(3)
        return a + x, b, torch.rand_like(x), torch.nn.functional.dropout(x, 0.5)

    graph = captured(function, torch.ones(3))
    torch.manual_seed(0)
    expected = function(torch.ones(3))
    torch.manual_seed(0)
    same(run(graph, (torch.ones(3),))[0], expected)


def test_normal_draws_in_place() -> None:
    graph = captured(lambda x: x.clone().normal_().uniform_(0, 2).bernoulli_(0.3), torch.ones(1000))
    result, _ = run(graph, (torch.ones(1000),))
    assert set(result.unique().tolist()) == {0.0, 1.0} and 0.2 < result.mean() < 0.4


def test_device_conversion_stays_on_cpu() -> None:
    graph = check(lambda x: x.cpu() + 1, torch.ones(2))
    assert graph.outputs[0].type.device == "cpu"
