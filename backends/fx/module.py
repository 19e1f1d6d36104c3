"""The module that emission returns: a `torch.fx.GraphModule` whose deep copies keep all of its state."""

from __future__ import annotations

from typing import Any

import torch


class EmittedModule(torch.fx.GraphModule):
    """A `GraphModule` that keeps buffers non-persistent and tied names tied when it is copied.

    `GraphModule.__deepcopy__` re-registers what stands at the root: every buffer as persistent, and a
    parameter with two names under the first alone.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.fx.GraphModule:
        for spec in (self.__dict__.get("_in_spec"), self.__dict__.get("_out_spec")):
            memo[id(spec)] = spec  # immutable
        copy = super().__deepcopy__(memo)
        copy._parameters = {name: _copied(value, memo) for name, value in self._parameters.items()}
        copy._buffers = {name: _copied(value, memo) for name, value in self._buffers.items()}
        copy._non_persistent_buffers_set = set(self._non_persistent_buffers_set)
        return copy


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """The copy that `copy.deepcopy` made already and left in its memo."""
    return memo[id(value)] if value is not None else None
