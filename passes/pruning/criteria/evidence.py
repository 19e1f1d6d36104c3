"""What a criterion may look at: the stored tensors, and statistics of runs over the caller's data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from graphopt.analysis import Interpreter
from graphopt.analysis.channels import ChannelAnalysis, Group, Member, Role
from graphopt.errors import GraphOptError, InputError
from graphopt.ir import ConstantKind, Node, Value
from graphopt.passes.pruning.criteria.batches import Batch, single_samples
from graphopt.passes.pruning.criteria.objective import Objective


class Evidence:
    """The tensors of a graph, and runs of it over batches.

    batches: a function that reads the data at the first question, or None if there are none.
    objective: the loss, for criteria that differentiate it.
    """

    def __init__(
        self,
        analysis: ChannelAnalysis,
        batches: Callable[[], Sequence[Batch]] | None = None,
        objective: Objective | None = None,
    ) -> None:
        self.analysis = analysis
        self.graph = analysis.graph
        self.objective = objective
        self._read = batches

    @cached_property
    def batches(self) -> Sequence[Batch]:
        """The data.

        Raises:
            InputError: there are none, or they do not fit.
        """
        if self._read is None:
            raise InputError("there are no data to run the model on; give calibration batches or example inputs")
        return self._read()

    def gradients(self, values: Sequence[Value], *, by_sample: bool = False) -> Iterator[dict[Value, torch.Tensor]]:
        """Yield ∂loss/∂value for each batch, or for each sample alone. Values that the loss does not depend on are
        left out.

        Raises:
            GraphOptError: there is no loss, or the outputs do not depend on the values in a differentiable way.
        """
        if self.objective is None:
            raise InputError("there is no loss to differentiate; give loss=f(outputs) or f(outputs, targets)")
        interpreter = Interpreter(self.graph, differentiate=values)
        leaves = [interpreter.leaf(value) for value in values]
        for batch in self._samples() if by_sample else self.batches:
            with torch.enable_grad():
                loss = self.objective(self.graph, interpreter.run(*batch.inputs), batch)
            if not loss.requires_grad:
                raise GraphOptError("the loss does not depend on the weights in a differentiable way")
            found = torch.autograd.grad(loss, leaves, allow_unused=True)
            yield {value: grad for value, grad in zip(values, found) if grad is not None}

    def watch(self, values: Sequence[Value], see: Callable[[Value, torch.Tensor], None]) -> int:
        """Run over all batches and call `see` with each of these values as it is computed. Returns their number."""
        if not values:
            return 0
        by_node: dict[Node, list[Value]] = {}
        for value in values:
            assert value.producer is not None
            by_node.setdefault(value.producer, []).append(value)

        def observe(node: Node, results: Sequence[Any]) -> None:
            for value in by_node.get(node, ()):
                see(value, results[value.index])

        interpreter = Interpreter(self.graph, observer=observe)
        for batch in self.batches:
            interpreter.run(*batch.inputs)
        return len(self.batches)

    def _samples(self) -> Iterator[Batch]:
        for batch in self.batches:
            yield from single_samples(self.graph, batch)


def weights(group: Group, *roles: Role) -> list[Member]:
    """The members of a group that are trained tensors (statistics of batch norms are not), of these roles if any."""
    return [
        m
        for m in group.members
        if m.constant.constant is not None
        and m.constant.constant.kind is not ConstantKind.BUFFER
        and tensor_of(m).is_floating_point()
        and (not roles or m.role in roles)
    ]


def tensor_of(member: Member) -> torch.Tensor:
    """The stored tensor that a member is a dim of."""
    constant = member.constant.constant
    assert constant is not None
    return constant.tensor.detach()


def slot_sums(tensor: torch.Tensor, dim: int) -> np.ndarray:
    """Sum a tensor over all dims but one, in double precision."""
    others = [d for d in range(tensor.dim()) if d != dim % tensor.dim()]
    total = tensor.sum(others, dtype=torch.float64) if others else tensor.double()
    return total.cpu().numpy()


def channel_sums(slots: np.ndarray, channels: np.ndarray, size: int) -> np.ndarray:
    """Add up what each slot has, for each of `size` channels. channels: that of each slot, or -1.

    >>> channel_sums(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 0, 1, -1]), 2).tolist()
    [2.0, 4.0]
    """
    live = channels >= 0
    return np.bincount(channels[live], weights=slots[live], minlength=size)
