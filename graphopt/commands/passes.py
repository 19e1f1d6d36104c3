"""`graphopt passes`."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

from graphopt.passmanager import FunctionPass, pass_names
from graphopt.passmanager.registry import registry
from graphopt.pipelines import NAMES, resolve_passes
from graphopt.rewrite import Contract
from graphopt.targets import get_target, target_names

if TYPE_CHECKING:
    from rich.table import Table


def pass_table() -> Table:
    """Return the table of all passes: name, contract, what it does."""
    from rich.table import Table

    table = Table("pass", "numbers", "what it does", title="Passes", title_justify="left", caption_justify="left")
    for name in pass_names():
        factory = registry.factory(name)
        table.add_row(name, _contract(factory), _summary(factory))
    table.caption = (
        "Combine them: -p canonicalize,fixpoint(fold-constants,dead-code{constants=false})\n"
        f"Pipelines with a name: {', '.join(NAMES)}. More: graphopt passes NAME"
    )
    return table


def target_table() -> Table:
    """Return the table of all targets."""
    from rich.table import Table

    table = Table("target", "engines", "what it is", title="Targets", title_justify="left")
    for name in target_names():
        target = get_target(name)
        table.add_row(name, ", ".join(target.engines) or "(an FX module)", target.description)
    return table


def describe_pass(name: str) -> str:
    """Return the method of a pass and its options with their defaults, or the passes of a named pipeline.

    Raises:
        UnknownNameError: no such pass; the message suggests near names.
    """
    if name in NAMES:
        return _describe_pipeline(name)
    factory = registry.factory(name)
    lines = [f"{name} ({_contract(factory)})", "", inspect.getdoc(factory) or "(no description)"]
    options = _options(factory)
    if options:
        lines += ["", "options:", *(f"  {option}" for option in options)]
        first = options[0].partition(":")[0]
        lines += ["", f"in a pipeline: {name}{{{first}=...}}"]
    return "\n".join(lines)


def _describe_pipeline(name: str) -> str:
    inference, training = (resolve_passes(name, target, target == "fx") for target in ("cpu", "fx"))
    lines = [f"{name} (a pipeline)", "", str(inference) or "no passes"]
    if str(training) != str(inference):
        lines += ["", "for a result that is trained, such as target fx:", "", str(training)]
    return "\n".join(lines)


def _contract(factory: Any) -> str:
    contract = getattr(factory, "contract", None)
    return contract.label if isinstance(contract, Contract) else "that of its passes"


def _options(factory: Any) -> list[str]:
    """`name: type = default` of each option; without a default, the option must be given."""
    if isinstance(factory, FunctionPass):
        return [str(parameter) for parameter in factory.option_parameters().values()]
    if not dataclasses.is_dataclass(factory):
        return []
    found = []
    for f in dataclasses.fields(factory):
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if f.repr:
            found.append(f"{f.name}: {f.type}" + ("" if default is dataclasses.MISSING else f" = {default!r}"))
    return found


def _summary(factory: Any) -> str:
    return (inspect.getdoc(factory) or "").partition("\n\n")[0].replace("\n", " ")
