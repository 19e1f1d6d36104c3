"""Train and eval: tracing in eval without touching the caller's model, and what follows the module's mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from graphopt.ops.schema import FOLLOW

TRAINING_ATTRIBUTES = {
    "dropout": "train",
    "feature_dropout": "train",
    "alpha_dropout": "train",
    "feature_alpha_dropout": "train",
    "native_dropout": "train",
    "batch_norm": "training",
    "_native_batch_norm_legit": "training",
    "native_batch_norm": "training",
    "instance_norm": "use_input_stats",
    "rrelu": "training",
    "lstm": "train",
    "gru": "train",
    "rnn_tanh": "train",
    "rnn_relu": "train",
}
"""The attribute that says "training" in each operator that behaves differently there, by base name."""


@dataclass(frozen=True)
class TrainingModes:
    """The `.training` flags of a model before capture, by module path."""

    root: bool = False
    modules: Mapping[str, bool] = field(default_factory=dict)

    def attribute(self, scope: str) -> bool | str:
        """Return what a `training=False` seen while tracing in eval stands for.

        A module in eval inside a model in train was frozen on purpose; everything else follows the module.
        """
        frozen = self.root and not self.modules.get(scope, True)
        return False if frozen else FOLLOW


def modes_of(model: torch.nn.Module) -> TrainingModes:
    """Record the `.training` flag of every submodule, under each of its names."""
    return TrainingModes(model.training, {name: m.training for name, m in model.named_modules(remove_duplicate=False)})


@contextmanager
def traced_in_eval(model: torch.nn.Module) -> Iterator[None]:
    """Put a model in train into eval for the duration; one that is in eval keeps submodules that were left in train.

    Flags are set directly, so overridden `train()` methods don't run.
    """
    changed = [m for m in model.modules() if m.training] if model.training else []
    try:
        for module in changed:
            module.training = False
        yield
    finally:
        for module in changed:
            module.training = True
