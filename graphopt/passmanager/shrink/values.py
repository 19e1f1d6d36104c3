"""Plainer values: attributes at their defaults, numbers of one digit, inputs that anyone can make up."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from graphopt.ir import Node, Type
from graphopt.ir.attributes import Attributes
from graphopt.ir.op import MISSING
from graphopt.ir.printer import printed_attributes
from graphopt.passmanager.shrink.case import Case, rebuilt
from graphopt.passmanager.shrink.search import Search


def reduce_values(search: Search) -> None:
    """Put attributes to their defaults, round numbers, and leave the inputs to be made up."""
    tried: set[tuple[int, str]] = set()
    while (move := next((m for m in _defaults(search.best) if m not in tried), None)) is not None:
        tried.add(move)
        search.accept(_defaulted(search.best, *move))
    search.accept(_rounded(search.best))
    if search.best.inputs is not None:
        search.accept(Case(search.best.graph, None))


def _defaults(case: Case) -> Iterator[tuple[int, str]]:
    for number, node in enumerate(case.graph):
        defaults = {p.name: p.default for p in node.op.attribute_params}
        for name in printed_attributes(node):
            if defaults.get(name, MISSING) is not MISSING:
                yield number, name


def _defaulted(case: Case, number: int, name: str) -> Case | None:
    chosen = case.graph.nodes[number]
    default = next(p.default for p in chosen.op.attribute_params if p.name == name)

    def attributes_of(node: Node) -> Attributes:
        return node.attributes.updated(**{name: default}) if node is chosen else node.attributes

    return rebuilt(case, lambda value: value.type, attributes_of, lambda tensor, old, new: tensor)


def _rounded(case: Case) -> Case | None:
    """Numbers that read well: one significant digit each."""

    def plain(tensor: torch.Tensor, old: Type, new: Type) -> torch.Tensor:
        if not tensor.is_floating_point() or tensor.element_size() == 1:
            return tensor
        wide = tensor.double()
        step = 10.0 ** wide.abs().clamp_min(1e-300).log10().floor()
        return torch.where(wide.isfinite(), torch.round(wide / step) * step, wide).to(tensor.dtype)

    return rebuilt(case, lambda value: value.type, lambda node: node.attributes, plain)
