"""`graphopt.quantize_search`: a format for each layer, within budgets or a drop of the caller's metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graphopt.api import trace
from graphopt.compiled import CompiledModel
from graphopt.errors import GraphOptError
from graphopt.ir import Graph
from graphopt.options import CompileOptions, Validate, check_arguments, make_options
from graphopt.program import build_program
from graphopt.pruning import model_title
from graphopt.targets import Target

if TYPE_CHECKING:
    from graphopt.api import Model
    from graphopt.calling import Arguments

BEFORE = "default"
AFTER = "fold-constants,dead-code"


def quantize_search(
    model: Model,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    metric: Callable[[CompiledModel], float] | None = None,
    target: str | Target = "onnxruntime",
    dynamic_shapes: Any = None,
    calibration: Iterable[Any] | None = None,
    validate: Validate = "each",
    trust: bool = False,
    **options: Any,
) -> CompiledModel:
    """Quantize a model with a format for each layer. The model is left as it was.

    An integer program finds the formats with the least predicted error within the budgets, or the cheapest ones with
    which `metric` falls by at most `max_drop`. What was measured so far is never lost: if nothing that is tried keeps
    the metric so near, the result is the choice with the least drop, and the report says so.

    model, args, kwargs, dynamic_shapes, validate, trust: as `graphopt.compile` takes them; args are example inputs.
    metric: `f(compiled)`, a number, higher is better. It is called with models compiled for the target: the original,
        and some that are quantized.
    calibration: batches of inputs, to choose ranges and to measure sensitivity.
    options: those of the pass, as `size`, `bops`, `latency`, `max_drop`, `formats`, `scheme`, `sensitivity`: see
        `graphopt.passes.choose_formats.ChooseFormats`.

    Returns:
        A `CompiledModel`; `report.quantization.search` lists what can be had for which cost.

    Raises:
        UnknownNameError: an option or name that there is not; the message suggests near ones.
        GraphOptError: no budget, one that cannot be met, or a metric that raises or gives no finite number.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)).eval()
    >>> x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    >>> small = quantize_search(model, (x,), calibration=[x], bops=0.05, formats=("int8", "int4"))
    >>> sorted(small.report.quantization.search.formats.values())
    ['int4', 'int8']
    """
    from graphopt.passes.choose_formats import ChooseFormats
    from graphopt.passmanager.options import check_names

    check_arguments(args, kwargs)
    if metric is not None and not callable(metric):
        raise GraphOptError(f"metric takes a function f(model) that gives a number, got {metric!r}")
    check_names(ChooseFormats, "graphopt.quantize_search", options)
    arguments = tuple(args or ()), dict(kwargs or {})
    compiling = make_options(
        target,
        passes=BEFORE,
        calibration=calibration,
        validate=validate,
        on_failure="raise",
        dynamic_shapes=dynamic_shapes,
    )
    graph = trace(model, *arguments, dynamic_shapes=dynamic_shapes, trust=trust)
    given = arguments if any(arguments) or not graph.inputs else None
    judge = None if metric is None else _Judge(metric, compiling, given)
    search = ChooseFormats(**options, metric=judge)
    after = make_options(target, passes=AFTER).passes.passes
    passes = replace(compiling.passes, passes=(*compiling.passes.passes, search, *after))
    program = build_program(graph, replace(compiling, passes=passes), given)
    program.report.model = model_title(model)
    return CompiledModel(compiling, program)


class _Judge:
    """Asks the caller's metric about a graph, compiled for the target."""

    def __init__(
        self, metric: Callable[[CompiledModel], float], options: CompileOptions, arguments: Arguments | None
    ) -> None:
        passes = make_options(options.target, passes=AFTER).passes
        self.metric = metric
        self.options = replace(options, passes=passes, validate=False, calibration=None)
        self.arguments = arguments
        self.__name__ = getattr(metric, "__name__", type(metric).__name__)

    def __call__(self, graph: Graph) -> float:
        return self.metric(CompiledModel(self.options, build_program(graph, self.options, self.arguments)))
