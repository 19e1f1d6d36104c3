"""Random programs of views and writes: the captured graph computes what eager computes, to the bit."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.frontends.running import check

EXAMPLES = int(os.environ.get("GRAPHOPT_PROPERTY_EXAMPLES", "60"))

Tensors = list[torch.Tensor]
Step = Callable[[Tensors], None]


def _view(target: int, make: Callable[[torch.Tensor], torch.Tensor]) -> Step:
    def step(tensors: Tensors) -> None:
        tensors.append(make(tensors[target % len(tensors)]))

    return step


def _write(target: int, source: int, make: Callable[[torch.Tensor, torch.Tensor], object]) -> Step:
    def step(tensors: Tensors) -> None:
        make(tensors[target % len(tensors)], tensors[source % len(tensors)])

    return step


def _half(x: torch.Tensor) -> int:
    return max(x.numel() // 2, 1)


VIEWS: list[Callable[[int, int], Callable[[torch.Tensor], torch.Tensor]]] = [
    lambda a, b: lambda x: x.view(-1),
    lambda a, b: lambda x: x.reshape(-1, 2),
    lambda a, b: lambda x: x.transpose(a % x.dim(), b % x.dim()),
    lambda a, b: lambda x: x.movedim(a % x.dim(), b % x.dim()),
    lambda a, b: lambda x: x.select(a % x.dim(), b % x.shape[a % x.dim()]),
    lambda a, b: lambda x: x.narrow(a % x.dim(), b % x.shape[a % x.dim()], 1),
    lambda a, b: lambda x: x[..., b % 3 :: 1 + a % 2],
    lambda a, b: lambda x: x[a % 2 : -1],
    lambda a, b: lambda x: x.unsqueeze(a % (x.dim() + 1)),
    lambda a, b: lambda x: x.squeeze(),
    lambda a, b: lambda x: x.squeeze(a % x.dim()),
    lambda a, b: lambda x: x.diagonal(0, 0, 1),
    lambda a, b: lambda x: x.chunk(2, a % x.dim())[b % 2],
    lambda a, b: lambda x: x.split(1 + b % 2, a % x.dim())[0],
    lambda a, b: lambda x: x.unbind(a % x.dim())[0],
    lambda a, b: lambda x: x.unfold(a % x.dim(), 1 + b % 2, 2),
    lambda a, b: lambda x: x.expand_as(x),
    lambda a, b: lambda x: x.contiguous(),
    lambda a, b: lambda x: x.detach(),
    lambda a, b: lambda x: x.flatten(a % x.dim()),
    lambda a, b: lambda x: x.unflatten(a % x.dim(), (-1, 2)),
    lambda a, b: lambda x: x.to(torch.float32),
    lambda a, b: lambda x: x.contiguous(),
    lambda a, b: lambda x: x * 1,
    lambda a, b: lambda x: x.clone(),
    lambda a, b: lambda x: x.reshape(x.shape[::-1]),
    lambda a, b: lambda x: x.permute(tuple(reversed(range(x.dim())))),
]
WRITES: list[Callable[[torch.Tensor, torch.Tensor], object]] = [
    lambda x, y: x.add_(1),
    lambda x, y: x.mul_(2),
    lambda x, y: x.copy_(y.clone()),
    lambda x, y: x.add_(y.clone()),
    lambda x, y: x.fill_(4),
    lambda x, y: x.zero_(),
    lambda x, y: x.sub_(y.clone()),
    lambda x, y: x.relu_(),
    lambda x, y: x.neg_(),
    lambda x, y: x.masked_fill_(x > 2, -1.0),
    lambda x, y: x.__setitem__(0, 9.0),
    lambda x, y: x.unsqueeze_(0),
    lambda x, y: x.squeeze_(),
    lambda x, y: x.transpose_(0, -1),
    lambda x, y: torch.add(x, 1, out=x),
    lambda x, y: x.index_fill_(0, torch.tensor([0]), 5.0),
    lambda x, y: torch._foreach_add_([x, y], 1.0),
    lambda x, y: x.clamp_(-3, 5),
    lambda x, y: setattr(x, "data", y),
]

STEPS = st.tuples(
    st.booleans(), st.integers(0, 7), st.integers(0, 7), st.integers(0, 60), st.integers(0, 3), st.integers(0, 3)
)


def _step(drawn: tuple[bool, int, int, int, int, int]) -> Step:
    is_view, target, source, kind, a, b = drawn
    if is_view:
        return _view(target, VIEWS[kind % len(VIEWS)](a, b))
    return _write(target, source, WRITES[kind % len(WRITES)])


def _start(x: torch.Tensor) -> Tensors:
    return [x * 1, x[0]]


def _runnable(steps: list[Step], x: torch.Tensor) -> list[Step]:
    """The steps that eager accepts (a write to overlapping memory raises), found by running a copy."""
    kept: list[Step] = []
    for step in steps:
        tensors = _start(x.clone())
        try:
            for earlier in (*kept, step):
                earlier(tensors)
        except (RuntimeError, IndexError, ValueError, ZeroDivisionError):
            continue
        if all(0 < t.numel() < 200 for t in tensors):
            kept.append(step)
    return kept


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=2, max_size=9), st.sampled_from([(2, 3, 4), (4, 4), (1, 6), (3, 1, 2)]))
def test_random_programs(drawn: list[tuple[bool, int, int, int, int, int]], shape: tuple[int, ...]) -> None:
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape) - 2
    with torch.no_grad():
        steps = _runnable([_step(d) for d in drawn], x)

    def function(given: torch.Tensor) -> Tensors:
        tensors = _start(given)
        for step in steps:
            step(tensors)
        return [t * 1 for t in tensors]

    check(function, x)
