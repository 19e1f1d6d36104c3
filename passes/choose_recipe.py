"""Choose how to quantize: recipes are judged on calibration data that they have not seen, and the best is applied.

A recipe moves scales first, or not, and quantizes with options of its own. It is fitted to one half of the samples.
With y the outputs in floating point and ŷ those of the quantized model, both on the other half, it is marked by

    10 log₁₀(Σ y² / Σ (ŷ − y)²)

Choices are made one after the other, each with the best of those before it: scales, ranges, weights, biases. What gains
less than the standard error of the gain is not chosen. The best recipe is then fitted to all samples.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch

from graphopt.analysis import Interpreter
from graphopt.errors import GraphOptError, requested
from graphopt.ir import Graph
from graphopt.passes.pruning.criteria.batches import input_names
from graphopt.passes.quantization.calibrate import samples_of
from graphopt.passes.quantization.report import QuantizationReport, Trial
from graphopt.passes.quantize import Quantize
from graphopt.passes.support.data import batches_of
from graphopt.passes.support.folds import fold_of
from graphopt.passes.support.noise import decibels, energies
from graphopt.passmanager import Pass, PassContext, PassResult, as_pipeline
from graphopt.passmanager.options import check_names
from graphopt.rewrite import Contract

Options = Mapping[str, Any]
Recipe = tuple[Any, ...]
"""What moves scales, and options for ranges, weights and biases."""
SCALING = ("", "smooth-quant{insert=true, convolutions=true}", "cross-layer-equalization")
RANGES: tuple[Options, ...] = ({}, {"power": 2.0}, {"power": 4.0})
"""Not min-max: that grows with the number of samples, so half of them do not tell what all will give."""
WEIGHTS: tuple[Options, ...] = ({}, {"rounding": "gptq"}, {"weights": "mse"})
BIASES: tuple[Options, ...] = ({}, {"correct_bias": False})

NOTHING_TO_COMPARE = "no sample has an output that is a float, so recipes cannot be compared, and the first is applied"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChooseRecipe(Pass):
    """Quantize by the recipe that keeps the outputs best on calibration data held out from it.

    quantizer: options of `quantize` that all recipes share, as `profile` or `ignore`.
    scaling: passes that may move scales first, as text; "" for none.
    ranges, weights, biases: options of `quantize` to choose from, {} for those of `quantizer`.
    samples: on how many samples recipes are compared, at most; each is fitted to one half and judged on the other.

    The first of each are the recipe to begin with. A recipe that fails is passed over, and the report says why.
    """

    contract = Contract.LOSSY
    establishes = frozenset({"quantized"})
    conflicts = frozenset({"quantized", "reduced-precision"})

    quantizer: Mapping[str, Any] = field(default_factory=dict)
    scaling: tuple[str, ...] = SCALING
    ranges: tuple[Mapping[str, Any], ...] = RANGES
    weights: tuple[Mapping[str, Any], ...] = WEIGHTS
    biases: tuple[Mapping[str, Any], ...] = BIASES
    samples: int = 128

    def __post_init__(self) -> None:
        """Refuse what can be seen to be wrong without a graph.

        Raises:
            GraphOptError: no choice at all for one of them, or a number outside its range.
            UnknownNameError: an unknown pass or option; the message suggests near names.
        """
        if not (self.scaling and self.ranges and self.weights and self.biases):
            raise GraphOptError('scaling, ranges, weights and biases have at least one choice each: "", and {}')
        if self.samples < 1:
            raise GraphOptError(f"samples is {self.samples}; at least one is needed")
        for options in (self.quantizer, *self.ranges, *self.weights, *self.biases):
            check_names(Quantize, self.name, options)
            Quantize(**{**self.quantizer, **options})
        for text in self.scaling:
            _scaling_passes(text)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Quantize `graph` in place.

        Raises:
            InputError: no data, data that does not fit, or activations that are not finite.
        """
        with requested():
            search = _Search(self, graph, context)
            results = [pass_.run(graph, search.context) for pass_ in search.best()]
        applied = results[-1]
        notes = [] if search.comparable else [NOTHING_TO_COMPARE]
        notes += [note for result in results for note in result.notes]
        if isinstance(applied.details, QuantizationReport):
            applied.details.trials = search.trials
            notes = [trial.line() for trial in search.trials] + notes
        return PassResult(any(result.changed for result in results), notes=notes, details=applied.details)


class _Search:
    """The search on one graph. context: with all samples. trials: the recipes that were judged, in order."""

    def __init__(self, asked: ChooseRecipe, graph: Graph, context: PassContext) -> None:
        self.asked, self.graph = asked, graph
        names, most = input_names(graph), Quantize(**asked.quantizer).samples
        batches = [dict(zip(names, inputs)) for inputs in batches_of(graph, context, most, asked.name)]
        samples = [sample.inputs for sample in islice(samples_of(graph, batches), asked.samples)]
        fitted = [dict(zip(names, inputs)) for k, inputs in enumerate(samples) if fold_of(k) == 0]
        self.held = [inputs for k, inputs in enumerate(samples) if fold_of(k)] or samples
        self.context = replace(context, calibration=batches)
        self.inner = replace(self.context, calibration=fitted, listeners=[], engine=None)
        self.wanted = [self._outputs(graph, inputs) for inputs in self.held]
        self.trials: list[Trial] = []
        self._graphs: dict[str, Graph] = {}

    @property
    def comparable(self) -> bool:
        """Whether there is anything to judge recipes by: a sample, and an output that is a float."""
        return bool(self.wanted and self.wanted[0])

    def best(self) -> list[Pass]:
        """The passes of the recipe that is chosen."""
        asked = self.asked
        choices: Sequence[Sequence[Any]] = (asked.scaling, asked.ranges, asked.weights, asked.biases)
        best: Recipe = (asked.scaling[0], asked.ranges[0], asked.weights[0], asked.biases[0])
        chosen, noise = self._tried(best)
        assert noise is not None, "the first one that fails raises"
        for place, some in enumerate(choices):
            for choice in some[1:] if bool(noise.any()) else ():
                recipe = (*best[:place], choice, *best[place + 1 :])
                trial, found = self._tried(recipe)
                if found is not None and gains(noise, found):
                    best, chosen, noise = recipe, trial, found
        chosen.chosen = True
        return [*_scaling_passes(best[0]), self._quantizer(best)]

    def _quantizer(self, recipe: Recipe) -> Quantize:
        return Quantize(**{name: value for some in (self.asked.quantizer, *recipe[1:]) for name, value in some.items()})

    def _tried(self, recipe: Recipe) -> tuple[Trial, torch.Tensor | None]:
        """A recipe fitted to one half of the samples, and each other sample's noise; None where it fails."""
        quantizer = self._quantizer(recipe)
        trial = Trial(str(as_pipeline([*_scaling_passes(recipe[0]), quantizer])))
        self.trials.append(trial)
        _log.info("trying %s", trial.recipe)
        try:
            copy = self._scaled(recipe[0]).clone()
            quantizer.run(copy, self.inner)
        except GraphOptError as error:
            if len(self.trials) == 1:
                raise
            trial.failed = str(error)
            return trial, None
        noise = self._noise(copy)
        trial.decibels = decibels(1.0, float(noise.sum()))
        return trial, noise

    def _scaled(self, text: str) -> Graph:
        """The graph with scales moved, kept for the recipes that begin so."""
        if text not in self._graphs:
            graph = self.graph.clone()
            for pass_ in _scaling_passes(text):
                pass_.run(graph, self.inner)
            self._graphs[text] = graph
        return self._graphs[text]

    def _noise(self, graph: Graph) -> torch.Tensor:
        """Each sample's noise as a share of the signal in all samples, the mean over outputs, [samples]."""
        if not self.comparable:
            return torch.zeros(len(self.held))
        found = [
            [energies([w], [y]) for w, y in zip(wanted, self._outputs(graph, inputs))]
            for wanted, inputs in zip(self.wanted, self.held)
        ]
        signal, noise = torch.tensor(found, dtype=torch.float64).unbind(2)
        return (noise / signal.sum(0).clamp(min=torch.finfo(torch.float64).tiny)).mean(1).nan_to_num(nan=math.inf)

    @staticmethod
    def _outputs(graph: Graph, inputs: Sequence[Any]) -> list[torch.Tensor]:
        with torch.no_grad():
            found = Interpreter(graph).run(*inputs)
        return [y for y in found if isinstance(y, torch.Tensor) and y.is_floating_point()]


def gains(before: torch.Tensor, after: torch.Tensor) -> bool:
    """True if noise falls by more than the standard error of that, over samples: less may be chance.

    >>> gains(torch.tensor([4.0, 5.0, 6.0]), torch.tensor([3.0, 4.0, 5.5]))
    True
    >>> gains(torch.tensor([4.0, 5.0, 6.0]), torch.tensor([1.0, 6.0, 7.0]))
    False
    """
    gain = before - after
    return bool(gain.mean() > (gain.std() / len(gain) ** 0.5 if len(gain) > 1 else 0))


def _scaling_passes(text: str) -> list[Pass]:
    return list(as_pipeline(text).leaves()) if text else []
