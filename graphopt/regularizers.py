"""Regularizers for sparse training: terms of the loss that make whole channels, or single weights, small.

Train with one of them, then prune: what went towards zero goes at little cost.

    finetune(model, loader, loss, epochs=10, regularizers=[group_lasso(1e-4)])

All but `l1` and `batch_norm_l1` look at the groups of channels that are coupled (`graphopt.analysis.channels`). A model
compiled with `target="fx"` brings its graph; for any other module, give the analysis of its traced graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import nn

from graphopt.analysis.channels import ChannelAnalysis, Group
from graphopt.compiled import CompiledModel
from graphopt.errors import GraphOptError, unknown_name
from graphopt.ir import ConstantKind, Graph
from graphopt.state import named_tensors

Source = ChannelAnalysis | Graph | None


@dataclass(frozen=True)
class _Sum:
    """strength · Σ |w| over the parameters that `chosen` accepts."""

    strength: float
    chosen: Callable[[str, nn.Parameter], bool]

    def __call__(self, model: nn.Module) -> torch.Tensor:
        """Return the term."""
        terms = [p.abs().sum() for name, p in model.named_parameters() if p.requires_grad and self.chosen(name, p)]
        return self.strength * _total(terms)


def l1(strength: float, names: str | Sequence[str] = "*") -> _Sum:
    """strength · Σ |w| over all weights with at least two dims: single weights go to zero.

    Afterwards `prune-weights{threshold=...}` takes those that are nearly there.

    names: names or globs of parameters.
    """
    globs = (names,) if isinstance(names, str) else tuple(names)
    return _Sum(strength, lambda name, p: p.dim() > 1 and any(fnmatchcase(name, glob) for glob in globs))


def batch_norm_l1(strength: float, source: Source = None) -> _Channels:
    """strength · Σ |γ| over the scales of batch norms (network slimming, Liu et al., 2017).

    Only channels that can be removed are counted. Afterwards prune by `criterion=batch-norm-scale`.

    source: see the module's docstring.
    """
    return _Channels(strength, source, norm=1, roles=("scale",))


def group_lasso(strength: float, source: Source = None) -> _Channels:
    """strength · Σ_g √|g| · Σ_k ‖w_g,k‖₂: every channel k, with all the slices coupled to it, is one variable.

    |g| is the number of weights of a channel. Channels go to zero as a whole, which no sum over single weights does.

    source: see the module's docstring.
    """
    return _Channels(strength, source, norm=2)


def growing(strength: float, source: Source = None, alpha: float = 4.0) -> _Growing:
    """strength · Σ_k γ_k ‖w_k‖₂², with γ_k = 2^(α (I_max − I_k) / (I_max − I_min)) (DepGraph, Fang et al., 2023).

    I_k = ‖w_k‖₂² is the importance of channel k at the start of the epoch: the weakest of a group decay 2^α times as
    fast as the strongest.

    source: see the module's docstring.
    """
    return _Growing(strength, source, alpha=alpha)


@dataclass(eq=False)
class _Slices:
    """The slices of a parameter along one dim, and the channel of each."""

    parameter: nn.Parameter
    dim: int
    slots: torch.Tensor
    channels: torch.Tensor

    def powers(self, exponent: int) -> torch.Tensor:
        """Σ |w|^exponent over each slice that has a channel."""
        moved = self.parameter.movedim(self.dim, 0).flatten(1) if self.parameter.dim() > 1 else self.parameter[:, None]
        return moved.abs().pow(exponent).sum(1)[self.slots]


@dataclass(eq=False)
class _Bundle:
    """A group of channels. width: the number of weights of one channel, on average."""

    group: Group
    slices: list[_Slices]
    width: float

    def sums(self, exponent: int) -> torch.Tensor:
        """Σ |w|^exponent over all slices of each channel, [channels]."""
        first = self.slices[0].parameter
        total = torch.zeros(self.group.size, dtype=first.dtype, device=first.device)
        for part in self.slices:
            total = total.index_add(0, part.channels, part.powers(exponent))
        return total


@dataclass
class _Grouped:
    """Finds the parameters of a model that carry the channels of each group, once."""

    strength: float
    source: Source = None
    roles: tuple[str, ...] = ()
    _bundles: list[_Bundle] | None = field(default=None, init=False, repr=False)
    _model: nn.Module | None = field(default=None, init=False, repr=False)

    def bundles(self, model: nn.Module) -> list[_Bundle]:
        """The groups of a model with their parameters.

        Raises:
            GraphOptError: there is no graph to see the groups in, or none of its names is the model's.
        """
        if self._bundles is None or self._model is not model:
            self._bundles, self._model = _bundles(model, self._analysis(model), self.roles), model
        return self._bundles

    def _analysis(self, model: nn.Module) -> ChannelAnalysis:
        if isinstance(self.source, ChannelAnalysis):
            return self.source
        if self.source is not None:
            return ChannelAnalysis(self.source)
        if not isinstance(model, CompiledModel):
            raise GraphOptError(
                "coupled channels are seen in a graph: train a model compiled with target='fx', or give the "
                "regularizer source=graphopt.trace(model, args)"
            )
        return ChannelAnalysis(model.graph)


@dataclass
class _Channels(_Grouped):
    norm: int = 2

    def __call__(self, model: nn.Module) -> torch.Tensor:
        """Return the term."""
        terms = []
        for bundle in self.bundles(model):
            sums = bundle.sums(self.norm)
            # The root has no slope at zero; so far below any weight it changes nothing else.
            terms.append(sums.sum() if self.norm == 1 else math.sqrt(bundle.width) * (sums + 1e-12).sqrt().sum())
        return self.strength * _total(terms)


@dataclass
class _Growing(_Grouped):
    alpha: float = 4.0
    _factors: dict[str, torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    def start_epoch(self, model: nn.Module, number: int) -> None:
        """Set the factors by the importance that channels have now."""
        with torch.no_grad():
            for bundle in self.bundles(model):
                importance = bundle.sums(2)
                spread = (importance.max() - importance.min()).clamp(min=1e-12)
                self._factors[bundle.group.name] = 2 ** (self.alpha * (importance.max() - importance) / spread)

    def __call__(self, model: nn.Module) -> torch.Tensor:
        """Return the term."""
        if not self._factors:
            self.start_epoch(model, 0)
        return self.strength * _total([(self._factors[b.group.name] * b.sums(2)).sum() for b in self.bundles(model)])


def _bundles(model: nn.Module, analysis: ChannelAnalysis, roles: Sequence[str]) -> list[_Bundle]:
    parameters = _parameters(model)
    found = []
    for group in analysis.groups:
        slices, weights = [], 0
        for member in group.members:
            constant = member.constant.constant
            if constant is None or constant.kind is not ConstantKind.PARAMETER:
                continue
            if roles and member.role.value not in roles:
                continue
            parameter = next((parameters[name] for name in constant.names if name in parameters), None)
            if parameter is None:
                raise unknown_name("parameter of the model", member.name, parameters, "It is in the analysed graph.")
            slots = (member.channels >= 0).nonzero()[0]
            weights += parameter.numel() // max(1, parameter.shape[member.dim]) * len(slots)
            index = torch.from_numpy(slots)
            channels = torch.from_numpy(member.channels[slots])
            slices.append(_Slices(parameter, member.dim, index.to(parameter.device), channels.to(parameter.device)))
        if slices:
            found.append(_Bundle(group, slices, weights / group.size))
    if not found:
        raise GraphOptError("no channel of the model can be removed, so there is nothing to regularize")
    return found


def _parameters(model: nn.Module) -> Mapping[str, nn.Parameter]:
    """The parameters of a model by the names that its graph has for them."""
    tensors = named_tensors(model)
    renamed = model.module.meta["names"] if isinstance(model, CompiledModel) else {}
    found = {name: tensors[path] for name, path in renamed.items() if path in tensors}
    return {n: p for n, p in {**tensors, **found}.items() if isinstance(p, nn.Parameter)}


def _total(terms: Iterable[torch.Tensor]) -> torch.Tensor:
    terms = list(terms)
    return torch.stack(terms).sum() if terms else torch.zeros(())
