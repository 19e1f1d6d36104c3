"""Models compiled without example inputs: captured at the first call, and anew for a new kind of arguments."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt import lazy
from graphopt.errors import CaptureError, GraphOptError, InputError, TargetError
from tests.api.models import Affine, Branch, assert_untouched, small, snapshot


class Mix(nn.Module):
    """Any shape, any dtype, a number and an optional tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor, y: Tensor | None = None, *, power: Any = 2) -> Tensor:
        z = x * self.weight if y is None else x * y.sum()
        return z**power if isinstance(power, int | float) else z


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The `dynamic_shapes` of each capture."""
    seen: list[Any] = []
    original = graphopt.api._build

    def counted(*args: Any) -> Any:
        seen.append(args[4])
        return original(*args)

    monkeypatch.setattr(graphopt.api, "_build", counted)
    yield seen


def check(fast: nn.Module, model: nn.Module, *args: Any, **kwargs: Any) -> None:
    with torch.no_grad():
        torch.testing.assert_close(fast(*args, **kwargs), model(*args, **kwargs), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("target", ["fx", "eager"])
def test_captures_once_per_kind_of_arguments(target: str, builds: list[Any]) -> None:
    model = Mix()
    before = snapshot(model)
    fast = graphopt.compile(model, target=target)
    assert not builds
    for _ in range(2):  # the second time around, all are known
        check(fast, model, torch.ones(2, 3))
        check(fast, model, torch.ones(4, 3))  # another size
        check(fast, model, torch.ones(2, 3, dtype=torch.float64))  # dtype
        check(fast, model, torch.ones(3))  # rank
        check(fast, model, torch.ones(2, 3), torch.ones(2))  # structure
        check(fast, model, torch.ones(2, 3), y=torch.ones(2))  # the same by name, or with a default spelled out
        check(fast, model, x=torch.ones(2, 3), power=2, y=torch.ones(2))
        check(fast, model, torch.ones(2, 3), power=3)  # a number
    assert len(builds) == 6
    assert_untouched(model, before)


def test_numbers_are_told_apart_by_type_and_sign(builds: list[Any]) -> None:
    class Divide(nn.Module):
        def forward(self, x: Tensor, by: Any) -> Tensor:
            return x / by

    model = Divide()
    fast = graphopt.compile(model, target="eager", validate=False)
    x = torch.tensor([2.0, -3.0])
    for by in (0.0, -0.0, 1, 1.0, True, float("nan"), float("nan")):
        torch.testing.assert_close(fast(x, by), model(x, by), equal_nan=True)
    assert len(builds) == 6


def test_training_and_grad_are_guards_where_the_result_trains(builds: list[Any]) -> None:
    model, x = small()
    fast = graphopt.compile(model, target="fx")
    fast(x)
    with torch.no_grad():
        fast(x)
    fast.train()
    fast(x)
    assert fast.training and len(builds) == 3
    fast.eval()(x)
    assert not fast.training and len(builds) == 3


def test_engines_are_not_captured_again_without_grad(builds: list[Any]) -> None:
    model, x = small()
    fast = graphopt.compile(model, target="eager")
    fast(x)
    with torch.no_grad():
        fast(x)
    with torch.inference_mode():
        fast(x)
    assert len(builds) == 1


@pytest.mark.parametrize("target", ["fx", "eager"])
def test_autocast_is_captured(target: str, builds: list[Any]) -> None:
    model, x = small()
    fast = graphopt.compile(model, target=target, validate=False)
    check(fast, model, x)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype), torch.no_grad():
            got, want = fast(x), model(x)
        assert got.dtype is want.dtype is dtype
        torch.testing.assert_close(got, want, atol=0.02, rtol=0.02)
    check(fast, model, x)
    assert len(builds) == 3


@pytest.mark.parametrize("last", [1, 9])
def test_dims_turn_dynamic_after_eight_captures(last: int, builds: list[Any]) -> None:
    model = Affine()
    fast = graphopt.compile(model, target="eager")
    for size in (2, 3, 4, 5, 6, 7, 8, 20, last, 11, 1, 50):
        check(fast, model, torch.randn(size, 4))
    assert builds[:8] == [None] * 8 and builds[8] is not None and len(builds) == 9
    assert str(fast.graph.inputs[0].type).endswith(", 4]") and fast.graph.symbols()


def test_dims_that_differ_in_nested_inputs(builds: list[Any]) -> None:
    class Pair(nn.Module):
        def forward(self, pair: dict[str, Tensor], scale: Tensor) -> Tensor:
            return (pair["a"] @ pair["b"]) * scale

    model, fixed = Pair(), torch.randn(3)
    fast = graphopt.compile(model, target="eager")
    for size in range(2, 13):
        check(fast, model, {"a": torch.randn(size, 5), "b": torch.randn(5, 3)}, fixed)
    assert len(builds) == 9
    assert [v.type.rank - len(v.type.symbols) for v in fast.graph.inputs] == [1, 2, 1]  # one dim of `a` alone


def test_too_many_kinds_are_an_error(builds: list[Any]) -> None:
    fast = graphopt.compile(Mix(), target="eager")
    x = torch.ones(2)
    with pytest.raises(CaptureError, match=r"captured 9 times.*dynamic_shapes"):
        for power in range(20):
            fast(x, power=power)
    assert len(builds) == 9
    fast(x, power=3)  # what is captured still runs


def test_dynamic_shapes_are_used_from_the_first_call(builds: list[Any]) -> None:
    model, _ = small()
    fast = graphopt.compile(model, target="eager", dynamic_shapes="batch")
    for batch in (4, 1, 9):
        check(fast, model, torch.randn(batch, 1, 6, 6))
    assert builds == ["batch"]


def test_many_sizes_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "MAX_KEYS", 3)
    model, _ = small()
    fast = graphopt.compile(model, target="eager", dynamic_shapes="batch")
    for batch in range(1, 8):
        check(fast, model, torch.randn(batch, 1, 6, 6))
    assert len(fast._captures._programs) == 3


def test_threads_share_captures(builds: list[Any]) -> None:
    model = Affine()
    fast = graphopt.compile(model, target="eager")
    # torch.export patches every module's call while it traces, so the eager results are made before.
    cases = [(x, model(x).detach()) for x in (torch.randn(size, 4) for size in (2, 3, 4))] * 6
    right: list[bool] = []
    barrier = threading.Barrier(6)

    def work(mine: list[tuple[Tensor, Tensor]]) -> None:
        barrier.wait()
        right.extend(torch.allclose(fast(x), expected, atol=1e-5) for x, expected in mine * 5)

    threads = [threading.Thread(target=work, args=(cases[i::6],)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 90 and len(builds) == 3


def test_models_compiled_in_several_threads() -> None:
    models = [small(seed) for seed in range(4)]
    results: dict[int, Tensor] = {}

    def work(index: int) -> None:
        model, x = models[index]
        results[index] = graphopt.compile(model, (x,), target="eager", dynamic_shapes="batch")(x)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, (model, x) in enumerate(models):
        torch.testing.assert_close(results[index], model(x).detach(), atol=1e-5, rtol=1e-4)


def test_a_model_may_call_a_compiled_model() -> None:
    """Capture happens inside a call; a call inside of another one must not lock up."""
    inner = graphopt.compile(Affine(), target="eager")

    class Outer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return inner(x) + 1

    x = torch.randn(2, 4)
    torch.testing.assert_close(Outer()(x), inner(x) + 1)


def test_new_weights_of_the_original_reach_every_capture() -> None:
    model = Affine()
    fast = graphopt.compile(model, target="eager")
    a, b = torch.randn(2, 4), torch.randn(3, 4)
    check(fast, model, a)
    with torch.no_grad():
        model.weight.mul_(2)
    check(fast, model, b)  # a new capture sees the new weights, and drops what has the old ones
    check(fast, model, a)


def test_before_the_first_call() -> None:
    model, _ = small()
    fast = graphopt.compile(model, target="eager")
    for action in (lambda: fast.graph, lambda: fast.report, lambda: fast.save("x.gopt"), fast.state_dict, fast.to_onnx):
        with pytest.raises(GraphOptError, match=r"needs a captured model: call it once, or give args"):
            action()
    with pytest.raises(GraphOptError, match=r"target='fx'"):
        fast.half()


def test_availability_is_checked_without_args(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.backends.fx.engines import EagerEngine

    monkeypatch.setattr(EagerEngine, "missing", lambda self: "it is on holiday; wait")
    with pytest.raises(TargetError, match=r"'eager' cannot run here .eager: it is on holiday; wait"):
        graphopt.compile(nn.ReLU(), target="eager")


def test_failures_leave_the_cache_as_it_was(builds: list[Any]) -> None:
    fast = graphopt.compile(Branch(), target="eager")
    for _ in range(12):
        with pytest.raises(CaptureError, match=r"models.py.*torch.cond"):
            fast(torch.ones(3))
    assert len(builds) == 12 and not fast._captures._captures


def test_arguments_that_cannot_be_compared() -> None:
    fast = graphopt.compile(Mix(), target="eager")
    with pytest.raises(InputError, match=r"an argument is a bytearray"):
        fast(torch.ones(2), power=bytearray(b"x"))


def test_a_lazy_fx_model_has_its_state_from_the_start(builds: list[Any]) -> None:
    model, x = small()
    fast = graphopt.compile(model, target="fx")
    assert list(fast.state_dict()) == list(model.state_dict())
    assert all(a is not b for a, b in zip(fast.parameters(), model.parameters()))
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.5)
    weights = [p.detach().clone() for p in fast.parameters()]
    for batch in (3, 4, 5):  # each step is a new capture of the same parameters
        optimizer.zero_grad()
        fast(torch.randn(batch, 1, 6, 6)).square().sum().backward()
        optimizer.step()
    assert len(builds) == 3
    assert all(not torch.equal(a, b) for a, b in zip(fast.parameters(), weights))
    twin, _ = small()
    twin.load_state_dict(fast.state_dict())
    check(fast, twin, x)
    for value in fast.graph.constants.values():
        assert torch.equal(value.constant.tensor, twin.state_dict()[value.name])


def test_a_lazy_fx_model_shares_running_statistics() -> None:
    model, _ = small()
    fast = graphopt.compile(model, target="fx").train()
    twin, _ = small()
    twin.train()
    twin.drop.p = 0.0
    model.drop.p = 0.0
    for batch in (3, 4):
        images = torch.randn(batch, 1, 6, 6)
        torch.testing.assert_close(fast(images), twin(images))
    torch.testing.assert_close(fast.state_dict(), twin.state_dict())


def test_a_lazy_fx_model_loads_weights_before_its_first_call() -> None:
    model, x = small()
    other, _ = small(seed=3)
    fast = graphopt.compile(model, target="fx")
    fast.load_state_dict(other.state_dict())
    check(fast, other, x)


def test_a_lazy_fx_model_is_not_converted() -> None:
    model, x = small()
    fast = graphopt.compile(model, target="fx")
    fast.to("cpu").float()
    with pytest.raises(GraphOptError, match=r"convert the original"):
        fast.double()
    check(fast, model, x)
