"""What a zoo entry is: how to build a model, how to call it, and which input dims are dynamic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Inputs = tuple[tuple[Any, ...], dict[str, Any]]

BATCH = "batch"
LENGTH = "length"


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Run a block from a fixed seed and leave the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class ZooModel:
    """One model of the zoo.

    `make_inputs(generator, batch, length)` draws the inputs of a call.

    `dynamic` maps a parameter name of `forward` to the names of its dynamic dims,
    `{"input_ids": {0: "batch", 1: "length"}}`, nested like the argument where that is a dict or a list; None
    where torch.export specializes the batch, for the reason in `static_reason`. `ranges` bounds a named dim,
    `{"length": (2, 64)}`, and `steps` says what divides it.

    `strengthen` redraws the weights of architectures whose own initialization hides most of the network;
    `trained` leaves the weights exactly as `make` gives them.
    """

    name: str
    make: Callable[[], nn.Module]
    make_inputs: Callable[[torch.Generator, int, int], Inputs]
    tags: frozenset[str]
    dynamic: Mapping[str, Any] | None = None
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)
    length: int = 0
    strengthen: bool = False
    trained: bool = False
    static_reason: str = ""

    def build(self, seed: int = 0) -> nn.Module:
        """The model in eval mode, its weights set by the seed alone and its statistics not trivial."""
        with seeded(seed), torch.no_grad():
            model = self.make().eval()
            if self.trained:
                return model
            if self.strengthen:
                rescale_weights(model)
            args, kwargs = self.inputs(batch=4, seed=seed + 1)
            settle_batch_norms(model, args, kwargs)
            perturb_vectors(model)
        return model

    def inputs(self, batch: int = 2, length: int | None = None, seed: int = 0) -> Inputs:
        """Example arguments `(args, kwargs)`; `length` is the sequence length, where the model has one."""
        generator = torch.Generator().manual_seed(seed)
        return self.make_inputs(generator, batch, self.length if length is None else length)

    def dynamic_shapes(self) -> dict[str, Any]:
        """The `dynamic_shapes` of `torch.export.export` for the arguments that `inputs` gives."""
        if self.dynamic is None:
            raise ValueError(f"{self.name} exports with static shapes only: {self.static_reason}")
        dims = {name: self._dim(name) for name in self.dynamic_dims}
        spec = {parameter: substitute(axes, dims) for parameter, axes in self.dynamic.items()}
        return {**spec, **{name: None for name in self.inputs()[1] if name not in spec}}

    @property
    def dynamic_dims(self) -> list[str]:
        """The names of the dynamic dims, sorted."""
        return sorted(names_in(self.dynamic or {}))

    def _dim(self, name: str) -> Any:
        low, high = self.ranges.get(name, (1, 1024))
        step = self.steps.get(name, 1)
        if step == 1:
            return torch.export.Dim(name, min=low, max=high)
        return step * torch.export.Dim(f"{name}_in_steps", min=-(-low // step), max=high // step)

    def export(self, *, dynamic: bool = False, batch: int = 2) -> torch.export.ExportedProgram:
        """`torch.export.export` of a fresh build, static or with the declared dynamic dims."""
        args, kwargs = self.inputs(batch)
        shapes = self.dynamic_shapes() if dynamic else None
        return torch.export.export(self.build(), args, kwargs, dynamic_shapes=shapes, strict=False)


def is_axes(spec: Any) -> bool:
    """Whether a part of a dynamic spec is that of one tensor: {axis: name}, {} for a static one."""
    return isinstance(spec, Mapping) and all(isinstance(key, int) for key in spec)


def names_in(spec: Any) -> set[str]:
    """The names of the dims in a dynamic spec."""
    if is_axes(spec):
        return set(spec.values())
    parts = spec.values() if isinstance(spec, Mapping) else spec or ()
    return {name for part in parts for name in names_in(part)}


def substitute(spec: Any, dims: Mapping[str, Any]) -> Any:
    """A dynamic spec with each name replaced by its dim object."""
    if is_axes(spec):
        return {axis: dims[name] for axis, name in spec.items()}
    if isinstance(spec, Mapping):
        return {key: substitute(part, dims) for key, part in spec.items()}
    return spec if spec is None else type(spec)(substitute(part, dims) for part in spec)


def rescale_weights(model: nn.Module) -> None:
    """Redraw matrices with variance 1/fan-in: a transformer's usual 0.02 leaves attention nearly uniform."""
    for parameter in model.parameters():
        if parameter.dim() >= 2 and parameter.is_floating_point():
            fan_in = parameter.numel() // parameter.shape[0]
            parameter.normal_(0.0, 1.0 / math.sqrt(max(fan_in, 1)))


def settle_batch_norms(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Set running statistics to those of one batch, so that deep nets neither fade nor explode."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    tracking = [norm for norm in norms if norm.track_running_stats]
    if not tracking:
        return
    momenta = [norm.momentum for norm in tracking]
    for norm in tracking:
        norm.train()
        norm.momentum = 1.0
    model(*args, **kwargs)
    for norm, momentum in zip(tracking, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
        assert norm.running_var is not None
        norm.running_var.clamp_(min=1e-3)


def perturb_vectors(model: nn.Module, scale: float = 0.1) -> None:
    """Shift biases and norm weights off zero and one, so that a lost bias or scale shows in the output."""
    for parameter in model.parameters():
        if parameter.dim() == 1 and parameter.is_floating_point():
            parameter.add_(torch.randn_like(parameter), alpha=scale)


def images(channels: int = 3, size: int = 32) -> Callable[[torch.Generator, int, int], Inputs]:
    """Inputs of a vision model: one float image batch `[batch, channels, size, size]`."""
    return lambda generator, batch, _: ((torch.randn(batch, channels, size, size, generator=generator),), {})


def tokens(generator: torch.Generator, batch: int, length: int, vocabulary: int = 99) -> Tensor:
    """Random token ids `[batch, length]`, none of them a special token."""
    return torch.randint(5, vocabulary, (batch, length), generator=generator)
