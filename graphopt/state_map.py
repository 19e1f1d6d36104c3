"""From an old checkpoint to a pruned model: which slices of the model's own tensors are left.

A pruned tensor keeps its name. Along each dim it keeps some indices of the original, in order:

    new[name] = old[name].index_select(dim, kept[name][dim])     for each dim that was pruned
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from graphopt.errors import GraphOptError
from graphopt.ir import ConstantKind, Graph, Value

Kept = Mapping[int, np.ndarray[Any, Any]]
KeptByName = Mapping[str, Kept]


@dataclass(frozen=True)
class StateMap:
    """The entries of a pruned model's state_dict.

    kept: by name, the indices that are left of the original's entry of that name, by dim; empty where all is left.
    shapes: by name, the sizes that are left.
    """

    kept: Mapping[str, Kept]
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, graph: Graph) -> StateMap:
        """Return the map of a graph's parameters and persistent buffers."""
        kept: dict[str, Kept] = {}
        shapes = {}
        for value in graph.constants.values():
            for name in _entries(value):
                assert value.constant is not None
                kept[name] = value.constant.kept
                shapes[name] = tuple(value.constant.tensor.shape)
        return cls(kept, shapes)

    def slice_state_dict(self, old: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the part of an old checkpoint that the pruned model keeps. Entries that are not in it are left out.

        A checkpoint of a model with `torch.nn.utils.prune` masks (`weight_orig`, `weight_mask`) serves one without
        them, and the other way round.

        Raises:
            GraphOptError: an entry has another shape than the model had that was pruned.
        """
        found = {name: _find(old, name) for name in self.kept}
        return {name: self._sliced(name, tensor) for name, tensor in found.items() if tensor is not None}

    def _sliced(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        sliced = tensor.detach()
        for dim, indices in self.kept[name].items():
            if sliced.dim() <= dim or (len(indices) and int(indices.max()) >= sliced.shape[dim]):
                raise self._misfit(name, tensor)
            sliced = sliced.index_select(dim, torch.as_tensor(indices, dtype=torch.long, device=sliced.device))
        if tuple(sliced.shape) != self.shapes[name]:
            raise self._misfit(name, tensor)
        return sliced if self.kept[name] else sliced.clone()

    def _misfit(self, name: str, tensor: torch.Tensor) -> GraphOptError:
        dims = "".join(
            f", {len(i)} of dim {d} (up to index {int(i.max())})" for d, i in self.kept[name].items() if len(i)
        )
        return GraphOptError(
            f"{name!r} has shape {list(tensor.shape)} in the checkpoint, and the pruned model keeps "
            f"{list(self.shapes[name])} of it{dims}; the checkpoint is not of the model that was pruned"
        )


def _entries(value: Value) -> tuple[str, ...]:
    constant = value.constant
    if constant is None or constant.kind is ConstantKind.CONSTANT or not constant.persistent:
        return ()
    return constant.names or (value.name,)


def _find(old: Mapping[str, torch.Tensor], name: str) -> torch.Tensor | None:
    from graphopt.passes.fold_masks import MASK, ORIGINAL

    if name in old:
        return old[name]
    if name + ORIGINAL in old and name + MASK in old:
        return old[name + ORIGINAL] * old[name + MASK]
    return old.get(name.removesuffix(ORIGINAL)) if name.endswith(ORIGINAL) else None


def set_kept(graph: Graph, kept: KeptByName) -> None:
    """Record what constants keep, by any of their names."""
    for value in graph.constants.values() if kept else ():
        assert value.constant is not None
        found = next((kept[name] for name in (value.name, *value.constant.names) if name in kept), None)
        if found:
            value.constant = replace(value.constant, kept=found)


def kept_to_json(graph: Graph) -> dict[str, dict[str, list[int]]]:
    """Return what each constant keeps, as JSON takes it; constants that keep everything are left out."""
    return {
        name: {str(dim): np.asarray(indices).tolist() for dim, indices in value.constant.kept.items()}
        for name, value in graph.constants.items()
        if value.constant is not None and value.constant.kept
    }


def kept_from_json(entries: Mapping[str, Mapping[str, list[int]]]) -> dict[str, dict[int, np.ndarray[Any, Any]]]:
    """The inverse of `kept_to_json`, by name."""
    return {
        name: {int(dim): np.asarray(indices, dtype=np.int64) for dim, indices in dims.items()}
        for name, dims in entries.items()
    }
