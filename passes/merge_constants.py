"""Store equal constants once.

    %a = constant C; %b = constant C   →   %a alone, under the names of both

Bitwise: tensors are merged only if dtype, shape and every bit agree, so NaN payloads and the sign of zero survive.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace

import torch

from graphopt.ir import ConstantKind, Graph, Value
from graphopt.ir.storage import byte_view
from graphopt.passes.support.regions import graph_and_regions
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter, RewriteStatistics

_SAMPLES = 16
_ROLES = {ConstantKind.PARAMETER: 0, ConstantKind.BUFFER: 1, ConstantKind.CONSTANT: 2}


@dataclass(frozen=True)
class MergeConstants(Pass):
    """Replace duplicate constants by one, which keeps all their names.

    Where the result is trained, parameters and buffers stay apart even if they are equal now: training and
    `load_state_dict` change each on its own. A tensor that the graph updates is never merged.
    """

    contract = Contract.BITWISE

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place. Whole tensors are compared only where dtype, shape and 16 samples agree."""
        statistics = RewriteStatistics()
        for inner in graph_and_regions(graph):
            self._merge(inner, context, statistics)
        return PassResult(statistics.changes > 0, statistics)

    def _merge(self, graph: Graph, context: PassContext, statistics: RewriteStatistics) -> None:
        rewriter = Rewriter(graph, context.listeners)
        for group in _groups((v for v in graph.constants.values() if _mergeable(v, graph)), context.trainable):
            kept: list[Value] = []
            for value in sorted(group, key=_role):
                twin = next((v for v in kept if _same_bits(_tensor(v), _tensor(value))), None)
                if twin is None:
                    kept.append(value)
                else:
                    _absorb(twin, value, rewriter)
                    statistics.rule(self.name).applied += 1


def _mergeable(value: Value, graph: Graph) -> bool:
    assert value.constant is not None
    return value.name not in graph.mutations and value.constant.tensor.device.type != "meta"


def _groups(values: Iterable[Value], trainable: bool) -> list[list[Value]]:
    """Split values into groups that may be equal: first by type and role, then by a few samples."""
    alike: dict[Hashable, list[Value]] = {}
    for value in values:
        alike.setdefault((value.type, *_identity(value, trainable)), []).append(value)
    found: dict[Hashable, list[Value]] = {}
    for key, members in alike.items():
        if len(members) > 1:
            for value in members:
                found.setdefault((key, _samples(_tensor(value))), []).append(value)
    return [group for group in found.values() if len(group) > 1]


def _identity(value: Value, trainable: bool) -> tuple[Hashable, ...]:
    """What must agree besides the bits: state that may change is itself alone, a buffer stays saved or not."""
    assert value.constant is not None
    trained = trainable and value.constant.kind is not ConstantKind.CONSTANT
    return value.constant.persistent, id(value.constant.tensor) if trained else None


def _tensor(value: Value) -> torch.Tensor:
    assert value.constant is not None
    return value.constant.tensor.detach()


def _samples(tensor: torch.Tensor) -> bytes:
    if not tensor.numel():
        return b""
    # Indexing one dim at a time keeps a non-contiguous tensor from being copied whole.
    positions = torch.linspace(0, tensor.numel() - 1, min(_SAMPLES, tensor.numel()), dtype=torch.float64).long()
    indices: list[torch.Tensor] = []
    for size in reversed(tensor.shape):  # `torch.unravel_index` imports sympy
        indices.append(positions % size)
        positions = positions // size
    return _bits(tensor[tuple(reversed(indices))] if tensor.dim() else tensor).cpu().numpy().tobytes()


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return byte_view(tensor.contiguous())


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a is b or (a.data_ptr() == b.data_ptr() and a.stride() == b.stride()):
        return True
    return torch.equal(_bits(a), _bits(b))


def _role(value: Value) -> int:
    """Parameters before buffers before plain constants, so that the one kept has a state-dict name."""
    assert value.constant is not None
    return _ROLES[value.constant.kind]


def _absorb(kept: Value, other: Value, rewriter: Rewriter) -> None:
    assert kept.constant is not None and other.constant is not None
    names = tuple(dict.fromkeys((*kept.constant.names, *other.constant.names)))
    kept.constant = replace(kept.constant, names=names)
    rewriter.replace_value(other, kept)
    rewriter.drop_constant(other)
