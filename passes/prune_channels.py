"""Remove whole channels, heads and neurons: structured pruning.

    1. group      find which slots of which dims live or die together (`graphopt.analysis.channels`)
    2. score      say how important each channel is, by a criterion (`graphopt.passes.pruning.criteria`)
    3. select     a share of each group, of all groups together, or as much as a budget needs
    4. rewrite    slice the stored tensors once, and recompute attributes (`graphopt.passes.pruning.rewrite`)

The pruned graph computes what the *masked* model computes: the original with every parameter slice of a removed channel
set to zero. That is lossy against the original, and held to rounding against the masked model.

Prune before quantizing: the scales of a quantized graph belong to the channels that it had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar, Literal, get_args

import torch

from graphopt.errors import GraphOptError, requested, unknown_name
from graphopt.ir import Graph
from graphopt.passes.pruning import options
from graphopt.passes.pruning.account import make_report
from graphopt.passes.pruning.chooser import Choice, Chooser
from graphopt.passes.pruning.criteria import get_criterion, get_normalization
from graphopt.passes.pruning.criteria.objective import Objective
from graphopt.passes.pruning.fidelity import MaskedModel, masked_error
from graphopt.passes.pruning.report import Curve
from graphopt.passes.pruning.rewrite.plan import Constants, Norms
from graphopt.passes.pruning.rewrite.prune import apply_plan
from graphopt.passes.pruning.selection import Limits, Scope
from graphopt.passes.pruning.sensitivity import sweep
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract
from graphopt.targets import get_target

DEFAULT_RATIO = 0.5


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Remove channels and everything that hangs on them. Lossy; equal to the masked model.

    How much, one of these:

    ratio: the share of channels to remove, at least 0 and below 1 (0.5 if nothing is said).
    macs, parameters: the share of the original's multiply-adds or parameters to keep, at most.
    speedup: how many times faster the result is to be on the engine, within 10 %.

    Which:

    criterion: `l1`, `l2`, `batch-norm-scale`, `fpgm`, `random`; with data `apoz`, `mean-activation`, `wanda`; with a
        loss `taylor`, `fisher`; or a function `f(group, evidence)` that returns a number a channel. The least go first.
    scope: `local` takes the same share of each group, `global` ranks all channels together, `isomorphic` those of
        groups of the same structure.
    normalize: how scores of different groups are made comparable: `none`, `mean`, `max`, `sum`, `gaussian`, `lamp`.
    ratios: shares of single groups by name, `{"layer1.*"=0.25}`, the first that fits; they take no part in the ranking.
    channels: channels to remove by group name, in place of a criterion for those groups.
    ignore, ignore_types: what keeps its outputs, by name or type of layer: `("head", "layer1.*")`, `(Linear,)`.
    min_width: the least number of slots that any dim keeps. round_to: widths are multiples of it; `target` takes what
        suits the target.

    With what:

    loss: `cross-entropy`, `mse`, or a function of the outputs, or of the outputs and the batch's targets.
    batches: how many batches of the calibration data are used, at most. seed: of whatever is random.
    engine: where `speedup` is measured, if not on the target's own engine.
    constants: `zero` zeroes the biases and shifts of removed channels in the masked model, too; `keep` leaves them and
        folds what they contribute into the next bias, which errs at padded borders.
    norms: `rescale` keeps the statistics of norms over pruned dims those of the full width; `refuse` leaves such dims.
    sweep: also measure the sensitivity of each group at these shares, for the report.
    widths: of groups that earlier steps have pruned, the channels that they had, which ratios count against.
    title: what is asked for over all steps, for the report.
    """

    contract = Contract.LOSSY
    conflicts = frozenset({"quantized"})

    ratio: float | None = None
    macs: float | None = None
    parameters: float | None = None
    speedup: float | None = None
    criterion: Any = "l2"
    scope: Scope = "local"
    normalize: str = "mean"
    ratios: Mapping[str, float] = field(default_factory=dict)
    channels: Mapping[str, Sequence[int]] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    ignore_types: tuple[str, ...] = ()
    min_width: int = 1
    round_to: int | Literal["target"] = 1
    loss: Any = None
    batches: int = 16
    seed: int = 0
    engine: str | None = None
    constants: Literal["zero", "keep"] = "zero"
    norms: Literal["rescale", "refuse"] = "rescale"
    sweep: tuple[float, ...] = ()
    widths: Mapping[str, int] = field(default_factory=dict, repr=False)
    title: str = field(default="", repr=False)

    BUDGETS: ClassVar[tuple[str, ...]] = ("ratio", "macs", "parameters", "speedup")

    def __post_init__(self) -> None:
        """Refuse what can be seen to be wrong without a graph.

        Raises:
            GraphOptError: a number outside its range, or several budgets at once.
            UnknownNameError: an unknown criterion, normalization or loss; the message suggests near names.
        """
        self._settle()
        given = [name for name in self.BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise GraphOptError(f"give one of {', '.join(self.BUDGETS)}, got {' and '.join(given)}")
        if self.scope not in get_args(Scope):
            raise unknown_name("scope", self.scope, get_args(Scope), f"There are {', '.join(get_args(Scope))}.")
        for name, known in (("constants", get_args(Constants)), ("norms", get_args(Norms))):
            if getattr(self, name) not in known:
                raise unknown_name(
                    f"value of {name}", str(getattr(self, name)), known, f"It takes {' or '.join(known)}."
                )
        if isinstance(self.round_to, str) and self.round_to != "target":
            raise unknown_name("value of round_to", self.round_to, ["target"], "It takes a number or 'target'.")
        get_criterion(self.criterion)
        get_normalization(self.normalize)
        if self.loss is not None:
            Objective(self.loss)
        self.limits("cpu")

    def _settle(self) -> None:
        """Check the kinds and ranges of options, and bring them into one form."""
        given: dict[str, Any] = {
            "ignore": options.names("ignore", self.ignore),
            "ignore_types": options.names("ignore_types", self.ignore_types),
            "ratios": options.by_name("ratios", self.ratios, '{"layer1.*": 0.25}'),
            "channels": options.by_name("channels", self.channels, '{"conv1": (3, 5)}'),
            "sweep": options.shares("sweep", self.sweep),
            "min_width": options.whole("min_width", self.min_width),
            "batches": options.whole("batches", self.batches),
            "seed": options.whole("seed", self.seed, least=0),
        }
        given["ratios"] = {name: options.share(f"ratio of {name!r}", one) for name, one in given["ratios"].items()}
        given["channels"] = {name: options.channels(name, one) for name, one in given["channels"].items()}
        if self.ratio is not None:
            given["ratio"] = options.share("ratio", self.ratio)
        for name in ("macs", "parameters"):
            if getattr(self, name) is not None:
                given[name] = options.kept_share(name, getattr(self, name))
        if not isinstance(self.round_to, str):
            given["round_to"] = options.whole("round_to", self.round_to)
        if self.speedup is not None and not (isinstance(self.speedup, Real) and self.speedup >= 1):
            raise GraphOptError(f"speedup must be at least 1, got {self.speedup!r}")
        if self.engine is not None and not isinstance(self.engine, str):
            raise GraphOptError(f"engine takes the name of an engine, as 'onnxruntime', got {self.engine!r}")
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def limits(self, target: str) -> Limits:
        """The minimum width and rounding on a target."""
        step = get_target(target).width_multiple if self.round_to == "target" else self.round_to
        return Limits(self.min_width, step)

    @property
    def share(self) -> float:
        """The share of channels to remove, where no budget decides."""
        return DEFAULT_RATIO if self.ratio is None else self.ratio

    @property
    def asked(self) -> str:
        """What is asked for, as text."""
        if self.title:
            return self.title
        return f"ratio={self.share:g}" if self.budget is None else f"{self.budget}={getattr(self, self.budget):g}"

    @property
    def budget(self) -> str | None:
        """The name of the option that says how much goes."""
        return next((name for name in self.BUDGETS if getattr(self, name) is not None), None)

    def options(self) -> dict[str, Any]:
        """The options that differ from their defaults, functions by their names."""
        return {name: _named(value) for name, value in super().options().items()}

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Prune `graph` in place.

        Raises:
            GraphOptError: what is asked cannot be had; the message says why, and what can. The graph is as it was.
        """
        with torch.random.fork_rng(devices=[]):  # models that draw random numbers are run
            torch.default_generator.manual_seed(self.seed)
            return self._prune(graph, context)

    def _prune(self, graph: Graph, context: PassContext) -> PassResult:
        with requested():
            chooser = Chooser(self, graph, context)
            choice = chooser.choose()
            curves = self._sweep(chooser, choice)
        report = make_report(self, chooser, choice)
        report.sweep = curves
        masked = MaskedModel(graph.clone(), chooser.analysis, choice.pruning.selection, self.constants)
        apply_plan(graph, choice.pruning, listeners=context.listeners, rule=self.name)
        if context.samples:
            keeps = self.constants == "keep"
            report.masked_error = masked_error(masked, graph, context.samples[0], lossy=keeps)
        return PassResult(bool(choice.pruning.selection), notes=report.lines(), details=report)

    def _sweep(self, chooser: Chooser, choice: Choice) -> list[Curve]:
        if not self.sweep:
            return []
        candidates = chooser.candidates(choice.scores, {})
        return sweep(chooser.graph, chooser.analysis, candidates, self.sweep, chooser.evidence)


def _named(value: Any) -> Any:
    return getattr(value, "__name__", type(value).__name__) if callable(value) else value
