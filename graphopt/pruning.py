"""`graphopt.prune`: structured pruning in one call, at once or in steps with fine-tuning between them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, Any

from torch import nn

from graphopt.api import trace
from graphopt.compiled import CompiledModel
from graphopt.errors import GraphOptError
from graphopt.ir import Graph
from graphopt.options import CompileOptions, Validate, check_arguments, make_options
from graphopt.program import build_program
from graphopt.targets import Target

if TYPE_CHECKING:
    from graphopt.api import Model
    from graphopt.calling import Arguments
    from graphopt.passes.prune_channels import PruneChannels
    from graphopt.passes.pruning.report import PruningReport

FineTune = Callable[[CompiledModel], Any]
"""Trains a pruned model in place. It is called with an FX module in evaluation mode."""

Layer = str | type[nn.Module] | nn.Module
"""A name (or glob) of parameters or modules, a type of module, or a module of the model."""


def prune(
    model: Model,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    target: str | Target = "fx",
    passes: Any = None,
    dynamic_shapes: Any = None,
    calibration: Iterable[Any] | None = None,
    ignore: Layer | Sequence[Layer] = (),
    steps: int = 1,
    finetune: FineTune | None = None,
    validate: Validate = "each",
    trust: bool = False,
    **options: Any,
) -> CompiledModel:
    """Remove channels, heads and neurons from a model. The model is left as it was.

    The result computes what the *masked* model computes: the original with every parameter slice of a removed channel
    set to zero. By default it is an FX module, to be fine-tuned and then compiled for an engine.

    model, args, kwargs, dynamic_shapes, validate, trust: as `graphopt.compile` takes them; args are example inputs.
    target: what the result is for; `"fx"` gives a trainable module.
    passes: what runs after pruning; by default the default pipeline where an engine runs the result, else nothing.
    calibration: batches for criteria that need data: inputs, or pairs of inputs and targets.
    ignore: what keeps its outputs: names (`"layer1.*"`), module types (`nn.Linear`) or modules of the model.
    steps: prune in so many steps, each by the same factor, and each followed by `finetune`.
    finetune: `f(pruned)`, called after each step with a trainable module that it trains in place.
    options: those of the pass, as `ratio`, `criterion`, `scope`, `macs`, `speedup`: see
        `graphopt.passes.prune_channels.PruneChannels`.

    Returns:
        A `CompiledModel`; `report.pruning` says what went, and what was refused and why.

    Raises:
        UnknownNameError: an option or name that there is not; the message suggests near ones.
        GraphOptError: a number outside its range, a budget that cannot be met, data that are missing or do not fit.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> small = prune(model, (torch.ones(1, 8),), ratio=0.75)
    >>> small.report.pruning.widths()
    [{'name': '0.weight', 'before': 32, 'after': 8}]
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise GraphOptError(f"steps must be a whole number of at least 1, got {steps!r}")
    if finetune is not None and not callable(finetune):
        raise GraphOptError(f"finetune takes a function f(pruned) that trains a module in place, got {finetune!r}")
    check_arguments(args, kwargs)
    pass_ = _pass(options, _ignored(model, ignore))
    arguments = tuple(args or ()), dict(kwargs or {})
    engines = make_options(target).engines
    after = make_options(
        target,
        passes=("default" if engines else "none") if passes is None else passes,
        calibration=calibration,
        validate=validate,
        on_failure="raise",
    )
    if after.calibration is not None:  # each step reads the data again
        after = replace(after, calibration=list(islice(after.calibration, pass_.batches)))
    graph = trace(model, *arguments, dynamic_shapes=dynamic_shapes, trust=trust)
    given = arguments if any(arguments) or not graph.inputs else None
    return _Steps(pass_, after, given, finetune, model_title(model)).run(graph, steps)


def model_title(model: Any) -> str:
    """What a report calls a model."""
    if isinstance(model, str | os.PathLike):
        return os.path.basename(model)
    return getattr(model, "__name__", type(model).__name__)


class _Steps:
    """Prunes and fine-tunes in turn. after: how the last result is compiled. title: the model's, for the report."""

    def __init__(
        self,
        pass_: PruneChannels,
        after: CompileOptions,
        arguments: Arguments | None,
        finetune: FineTune | None,
        title: str,
    ) -> None:
        self.pass_ = pass_
        self.after = after
        self.arguments = arguments
        self.finetune = finetune
        self.title = title
        self.between = make_options("fx", calibration=after.calibration, validate=after.validate, on_failure="raise")
        self.records: list[Any] = []

    def run(self, graph: Graph, steps: int) -> CompiledModel:
        """Prune so many times, and compile the result."""
        for step in range(1, steps):
            graph = self._step(graph, step / steps)
        if self.finetune is None:
            return self._compiled(graph, self.after, self._share_of(1.0))
        graph = self._step(graph, 1.0)
        return self._compiled(graph, self.after, None)

    def _step(self, graph: Graph, progress: float) -> Graph:
        made = self._compiled(graph, self.between, self._share_of(progress))
        self.records = made.report.passes.records
        if self.finetune is not None:
            self.finetune(made)
            made.eval()
        return made.graph

    def _compiled(self, graph: Graph, options: CompileOptions, pass_: PruneChannels | None) -> CompiledModel:
        passes = (*(() if pass_ is None else (pass_,)), *options.passes.passes)
        program = build_program(graph, replace(options, passes=replace(options.passes, passes=passes)), self.arguments)
        program.report.model = self.title
        program.report.passes.records[:0] = self.records
        return CompiledModel(options, program)

    def _share_of(self, progress: float) -> PruneChannels:
        """The pass that prunes on to where the result is to be by then.

        What is to be left falls by the same factor in each step, and is counted from the original.
        """
        pass_ = replace(self.pass_, title=self.pass_.asked)
        done: list[PruningReport] = [record.details for record in self.records if record.details is not None]
        for name in ("macs", "parameters"):
            target = getattr(pass_, name)
            if target is not None:
                left = getattr(done[-1].after, name) / getattr(done[0].before, name) if done else 1.0
                return replace(pass_, **{name: min(target**progress / left, 1.0)})
        if pass_.speedup is not None:
            fast = prod(report.speedup for report in done if report.speedup)
            return replace(pass_, speedup=max(pass_.speedup**progress / fast, 1.0))
        widths = {row.name: row.before for report in reversed(done) for row in report.groups}
        ratios = {name: _reached(share, progress) for name, share in pass_.ratios.items()}
        return replace(pass_, ratio=_reached(pass_.share, progress), ratios=ratios, widths=widths)


def _reached(share: float, progress: float) -> float:
    """The share that is gone by then."""
    return 1 - (1 - share) ** progress


def _pass(options: Mapping[str, Any], ignore: tuple[str, ...]) -> PruneChannels:
    from graphopt.passes.prune_channels import PruneChannels
    from graphopt.passmanager.options import check_names

    check_names(PruneChannels, "graphopt.prune", options)
    return PruneChannels(**{**options, "ignore": ignore})


def _ignored(model: Any, given: Layer | Sequence[Layer]) -> tuple[str, ...]:
    """The names of what keeps its outputs.

    Raises:
        GraphOptError: a module or type of module that the model does not have.
    """
    layers = given if isinstance(given, list | tuple | set | frozenset) else (given,)
    names: list[str] = []
    for layer in layers:
        names += [layer] if isinstance(layer, str) else _modules(model, layer)
    return tuple(dict.fromkeys(names))


def _modules(model: Any, layer: Any) -> list[str]:
    """The names of modules with parameters that are, or are within, a module or modules of a type."""
    is_type = isinstance(layer, type) and issubclass(layer, nn.Module)
    if not (is_type or isinstance(layer, nn.Module)) or not isinstance(model, nn.Module):
        raise GraphOptError(
            f"ignore takes names, and module types and modules of an nn.Module, got {layer!r} for a "
            f"{type(model).__name__}"
        )
    found = [
        name or "*"
        for name, module in model.named_modules(remove_duplicate=False)
        if (isinstance(module, layer) if is_type else module is layer) and any(True for _ in module.parameters())
    ]
    if not found:
        title = layer.__name__ if is_type else type(layer).__name__
        raise GraphOptError(f"ignore names {title}, and no module of the model with parameters is one")
    return found
