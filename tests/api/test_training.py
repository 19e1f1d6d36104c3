"""The FX target: a module that trains, loads, copies and saves like the original; and what engines refuse."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphopt
from graphopt.errors import GraphOptError
from tests.api.models import Small, assert_untouched, small, snapshot
from tests.zoo import MODELS


@pytest.fixture(params=["args", "first call"])
def pair(request: pytest.FixtureRequest) -> tuple[Small, graphopt.CompiledModel, Tensor]:
    """An original, the same compiled for FX, and a batch."""
    model, x = small()
    args = (x,) if request.param == "args" else None
    fast = graphopt.compile(model, args, target="fx")
    fast(x)
    return model, fast, x


def step(model: nn.Module, x: Tensor) -> Tensor:
    """One step of SGD; returns the loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = F.mse_loss(model(x), torch.ones(len(x), 3))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def test_parameters_are_the_module_s_own(pair: Any) -> None:
    model, fast, x = pair
    before = snapshot(model)
    assert [n for n, _ in fast.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert list(fast.state_dict()) == list(model.state_dict())
    first, second = step(fast, x), step(fast, x)
    assert second < first
    assert_untouched(model, before)


@pytest.mark.parametrize("mode", [False, True])
def test_trains_as_the_original_does(mode: bool) -> None:
    model, x = small()
    model.drop.p = 0.0
    fast = graphopt.compile(model, (x,), target="fx")
    model.train(mode)
    fast.train(mode)
    for _ in range(3):
        torch.testing.assert_close(step(fast, x), step(model, x))
    torch.testing.assert_close(fast.state_dict(), model.state_dict())


def test_the_tensors_of_the_module_and_of_its_fx_module_are_the_same() -> None:
    model, x = small()
    fast = graphopt.compile(model, (x,), target="fx")
    own, inner = dict(fast.named_parameters()), dict(fast.module.named_parameters())
    assert own.keys() == inner.keys() and all(own[n] is inner[n] for n in own)
    fast.train()
    assert fast.module.training and all(m.training for m in fast.modules())
    fast.eval()
    assert not fast.module.training and not any(m.training for m in fast.modules())


def test_train_and_eval_differ_as_they_do_in_the_original() -> None:
    model, x = small()
    fast = graphopt.compile(model, (x,), target="fx")
    fast.train()
    torch.manual_seed(0)
    got = fast(x)
    model.train()
    torch.manual_seed(0)
    torch.testing.assert_close(got, model(x))
    assert not torch.equal(fast(x), fast(x))  # dropout
    torch.testing.assert_close(fast.state_dict(), {**model.state_dict(), **_norm_state(fast)})
    fast.eval()
    assert torch.equal(fast(x), fast(x))


def _norm_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: t for name, t in model.state_dict().items() if name.startswith("norm.")}


def test_a_model_in_train_mode_gives_a_module_that_follows(pair: Any) -> None:
    model, x = small()
    model.train()
    before = snapshot(model)
    fast = graphopt.compile(model, (x,), target="fx")
    assert_untouched(model, before)
    assert not fast.training
    torch.testing.assert_close(fast(x), model.eval()(x), atol=1e-5, rtol=1e-4)


def test_loads_the_original_s_state_dict(pair: Any) -> None:
    _, fast, x = pair
    other, _ = small(seed=5)
    assert fast.load_state_dict(other.state_dict()).missing_keys == []
    torch.testing.assert_close(fast(x), other(x), atol=1e-5, rtol=1e-4)
    with pytest.raises(RuntimeError, match=r"Missing key"):
        fast.load_state_dict({"head.bias": torch.zeros(3)})


def test_buffers_that_a_state_dict_changes_are_not_folded() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.rand(3))
            self.register_buffer("other", torch.rand(3))
            self.unused = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return x * (self.scale * self.other + torch.arange(3) * 2)

    x = torch.randn(2, 3)
    fast = graphopt.compile(Scaled(), (x,), target="fx")
    other = Scaled()
    fast.load_state_dict(other.state_dict())
    torch.testing.assert_close(fast(x), other(x))


def test_equal_parameters_are_trained_apart() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    fast = graphopt.compile(model, (torch.randn(8, 3),), target="fx")
    fast.train(), model.train()
    x = torch.randn(8, 3) * 2 + 1
    torch.testing.assert_close(step(fast, x), step(model, x))
    torch.testing.assert_close(fast.state_dict(), model.state_dict())
    assert not torch.equal(fast.state_dict()["0.running_mean"], fast.state_dict()["2.running_mean"])


def test_tied_weights_stay_tied() -> None:
    model = MODELS["tied"].build()
    args, kwargs = MODELS["tied"].inputs()
    fast = graphopt.compile(model, args, kwargs, target="fx")
    assert fast.get_parameter("embed.weight") is fast.get_parameter("head.weight")
    assert len(list(fast.parameters())) == len(list(model.parameters()))
    for copied in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert copied.get_parameter("embed.weight") is copied.get_parameter("head.weight")
        torch.testing.assert_close(copied(*args, **kwargs), model(*args, **kwargs), atol=1e-5, rtol=1e-4)


def test_gradients_reach_the_input(pair: Any) -> None:
    model, fast, x = pair
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    fast(a).sum().backward()
    model(b).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)


def test_frozen_parameters_stay_frozen() -> None:
    model, x = small()
    model.conv.requires_grad_(False)
    fast = graphopt.compile(model, (x,), target="fx")
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    assert {n: p.requires_grad for n, p in fast.named_parameters()} == flags
    fast.get_parameter("head.bias").requires_grad_(False)
    again = copy.deepcopy(fast)
    assert {n: p.requires_grad for n, p in again.named_parameters()} == {**flags, "head.bias": False}


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save", "save"])
def test_copies_keep_what_was_trained(how: str, pair: Any, tmp_path: Any) -> None:
    _, fast, x = pair
    step(fast, x)
    if how == "deepcopy":
        again = copy.deepcopy(fast)
    elif how == "pickle":
        again = pickle.loads(pickle.dumps(fast))
    elif how == "torch.save":
        buffer = io.BytesIO()
        torch.save(fast, buffer)
        again = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    else:
        fast.save(tmp_path / "trained.gopt")
        again = graphopt.load(tmp_path / "trained.gopt")
    torch.testing.assert_close(again.state_dict(), fast.state_dict())
    want = fast(x).detach()
    torch.testing.assert_close(again(x), want)
    assert step(again, x) > step(again, x)  # it still trains, on its own
    assert torch.equal(fast(x), want)
    assert again.engine == "fx" and list(again.state_dict()) == list(fast.state_dict())


def test_copies_keep_the_mode() -> None:
    model, x = small()
    fast = graphopt.compile(model, (x,), target="fx").train()
    assert copy.deepcopy(fast).training and not copy.deepcopy(fast.eval()).training


def test_the_graph_and_onnx_follow_the_training(pair: Any) -> None:
    import onnxruntime

    _, fast, x = pair
    step(fast, x)
    fast.eval()
    weights = {v.name: v.constant.tensor for v in fast.graph.constants.values()}
    for name, tensor in fast.state_dict().items():
        assert torch.equal(weights[name], tensor)
    session = onnxruntime.InferenceSession(fast.to_onnx().SerializeToString())
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), fast(x).detach(), atol=1e-5, rtol=1e-4)


def test_convert() -> None:
    model, x = small()
    fast = graphopt.compile(model, (x,), target="fx").double()
    assert fast(x.double()).dtype is torch.float64
    torch.testing.assert_close(fast(x.double()), model.double()(x.double()))
    with pytest.raises(GraphOptError, match=r"float64.*compiled for f32.*convert the original"):
        fast.save("never-written.gopt")


def test_a_trained_module_compiles_for_an_engine() -> None:
    model, x = small()
    tuned = graphopt.compile(model, (x,), target="fx")
    step(tuned, x)
    fast = graphopt.compile(tuned, (x,), target="eager")
    torch.testing.assert_close(fast(x), tuned.eval()(x).detach(), atol=1e-5, rtol=1e-4)


def test_not_trainable_folds_batch_norms() -> None:
    model, x = small()
    fast = graphopt.compile(model, (x,), target="fx", trainable=False)
    torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-4)
    assert not any("batch_norm" in node.op.name for node in fast.graph)
    assert any("batch_norm" in node.op.name for node in graphopt.compile(model, (x,), target="fx").graph)


def test_names_that_fx_itself_uses() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.graph = nn.Linear(2, 2)
            self.code = nn.Parameter(torch.randn(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.graph(x) * self.code

    model, x = Model(), torch.randn(3, 2)
    for args in ((x,), None):
        fast = graphopt.compile(model, args, target="fx")
        fast(x)
        assert set(fast.state_dict()) == set(model.state_dict())
        other = Model()
        fast.load_state_dict(other.state_dict())
        torch.testing.assert_close(fast(x), other(x))
        step_of = torch.optim.SGD(fast.parameters(), lr=0.1)
        fast(x).sum().backward()
        step_of.step()
        torch.testing.assert_close(copy.deepcopy(fast)(x), fast(x))


# Engines


@pytest.fixture(scope="module")
def engine() -> tuple[Small, graphopt.CompiledModel, Tensor]:
    model, x = small()
    return model, graphopt.compile(model, (x,), target="onnxruntime"), x


@pytest.mark.parametrize(
    "action",
    [
        lambda m: m.train(),
        lambda m: m.half(),
        lambda m: m.double(),
        lambda m: m.to(torch.bfloat16),
        lambda m: m.to("meta"),
        lambda m: m.load_state_dict({}),
    ],
)
def test_engines_refuse_what_needs_the_weights(action: Any, engine: Any) -> None:
    with pytest.raises(GraphOptError, match=r"not possible on target 'onnxruntime'.*target='fx'"):
        action(engine[1])


def test_engines_take_what_changes_nothing(engine: Any) -> None:
    model, fast, x = engine
    fast.eval().to("cpu").cpu().float().train(False).requires_grad_(False)
    torch.testing.assert_close(fast(x), model(x).detach(), atol=1e-5, rtol=1e-4)


def test_engines_show_the_weights_under_the_original_s_names(engine: Any) -> None:
    model, _, x = engine
    fast = graphopt.compile(model, (x,), target="eager", passes="none")
    torch.testing.assert_close(dict(fast.state_dict()), dict(model.state_dict()))
    optimized = engine[1].state_dict()
    assert optimized.keys() <= model.state_dict().keys() and "head.weight" in optimized


def test_engines_copy_and_pickle(engine: Any) -> None:
    _, fast, x = engine
    for again in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        torch.testing.assert_close(again(x), fast(x))
        assert again.engine == "onnxruntime"


def test_a_compiled_model_as_a_part_of_another() -> None:
    model, x = small()
    whole = nn.Sequential(graphopt.compile(model, (x,), target="fx"), nn.Linear(3, 2))
    assert {f"0.{name}" for name in model.state_dict()} < set(whole.state_dict())
    whole.load_state_dict(whole.state_dict())
    whole.train()
    step_of = torch.optim.SGD(whole.parameters(), lr=0.1)
    whole(x).sum().backward()
    step_of.step()
    part = nn.Sequential(graphopt.compile(model, (x,), target="eager", passes="none"), nn.Linear(3, 2))
    assert "0.head.weight" in part.state_dict() and "1.bias" in part.state_dict()
