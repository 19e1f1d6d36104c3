"""Cases as one line of text: an operator, the types of its operands, its attributes.

    linear(f32[N, 2, 8], f32[4, 8]!, none) {…}

A `!` makes the operand a stored constant. `~spec` says how values are drawn: `pos` positive, `unit` in (-1, 1), `prob`
in (0, 1), `special` with NaN, infinities and zeros among them, `nonzero`, `distinct`, `lo:hi` integers below hi,
`mask` bool with a true in every row, `sorted`. N and M are dynamic dims, run at several sizes. Where the IR cannot
infer the types of the results, they follow an arrow: `-> f32[N, 4], i64[N]`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphopt.ir import Graph, TensorType
from graphopt.ops import parse

SIZES: tuple[dict[str, int], ...] = ({"N": 3, "M": 5}, {"N": 1, "M": 6})

_LINE = re.compile(r"(?P<op>[\w.]+)\((?P<args>.*?)\)(?P<attributes>\s*\{.*\})?(?:\s*->\s*(?P<results>.*))?$")
_ARGUMENT = re.compile(r"(?P<type>\w+\[[^\]]*\])(?P<constant>!?)(?:~(?P<spec>[\w.:-]+))?$")


@dataclass(frozen=True)
class Argument:
    """One operand: a name, whether it is stored, and how its values are drawn."""

    name: str
    spec: str


@dataclass(frozen=True)
class Case:
    """A graph of one node."""

    text: str
    op: str
    graph: Graph
    inputs: tuple[Argument, ...]


def make_case(line: str) -> Case:
    """Parse a line."""
    match = _LINE.match(line.strip())
    assert match, f"not a case: {line}"
    statements, operands, inputs = [], [], []
    tensors: dict[str, torch.Tensor] = {}
    for index, text in enumerate(_split(match["args"])):
        if text == "none":
            operands.append("none")
            continue
        argument = _ARGUMENT.match(text)
        assert argument, f"not an operand: {text!r} in {line}"
        name = f"x{index}"
        operands.append(f"%{name}")
        if argument["constant"]:
            statements.append(f"buffer %{name}: {argument['type']}")
            type_ = parse(f"input %x: {argument['type']}\nreturn %x").inputs[0].type
            assert isinstance(type_, TensorType)
            tensors[name] = draw(type_, {}, argument["spec"] or "", index)
        else:
            statements.append(f"input %{name}: {argument['type']}")
            inputs.append(Argument(name, argument["spec"] or ""))
    for name in ("N", "M"):  # a size that no operand tells comes with an operand of its own
        if re.search(rf"\b{name}\b", line) and not re.search(rf"[\[,]\s*{name}\s*[\],]", match["args"]):
            statements.append(f"input %{name}: f32[{name}]")
            inputs.append(Argument(name, ""))
    results = [f"%r{i}: {text}" for i, text in enumerate(_split(match["results"] or ""))]
    assignment = f"{', '.join(results)} = " if results else ""
    statements.append(f"{assignment}{match['op']}({', '.join(operands)}){match['attributes'] or ''}")
    graph = parse("\n".join([*statements, "return"]), tensors)
    (node,) = graph.nodes
    graph.set_outputs(node.results)
    return Case(line.strip(), node.op.name, graph, tuple(inputs))


def _split(text: str) -> list[str]:
    parts, depth, current = [], 0, ""
    for char in text:
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += char
    return [*parts, current.strip()] if current.strip() else parts


def case_inputs(case: Case, sizes: dict[str, int], seed: int = 0) -> list[torch.Tensor]:
    """Draw the inputs of a case."""
    types = [value.type for value in case.graph.inputs]
    return [
        draw(type_, sizes, argument.spec, seed + index)
        for index, (type_, argument) in enumerate(zip(types, case.inputs))
        if isinstance(type_, TensorType)
    ]


def draw(type_: TensorType, sizes: dict[str, int], spec: str, seed: int) -> torch.Tensor:
    """Draw a tensor of a type."""
    from graphopt.ir.dims import evaluate

    generator = torch.Generator().manual_seed(seed)
    shape = [evaluate(dim, sizes) for dim in type_.shape]
    dtype = type_.dtype.torch
    if dtype == torch.bool:
        mask = torch.randint(0, 2, shape, generator=generator, dtype=torch.bool)
        if spec == "mask" and mask.numel():
            mask[..., 0] = True
        return mask
    if not dtype.is_floating_point:
        return _integers(shape, dtype, spec, generator)
    return _floats(shape, spec, generator).to(dtype)


def _integers(shape: Sequence[int], dtype: torch.dtype, spec: str, generator: torch.Generator) -> torch.Tensor:
    if ":" in spec:
        low, high = map(int, spec.split(":"))
        return torch.randint(low, high, shape, generator=generator).to(dtype)
    low = 0 if dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64) else -5
    values = torch.randint(low, 7, shape, generator=generator)
    if spec == "nonzero":
        values = torch.where(values == 0, 3, values)
    if spec == "distinct":
        values = torch.randperm(values.numel(), generator=generator).reshape(shape)
    if spec == "sorted":
        values = values.sort(-1).values
    return values.to(dtype)


def _floats(shape: Sequence[int], spec: str, generator: torch.Generator) -> torch.Tensor:
    values = torch.randn(shape, generator=generator, dtype=torch.float64) * 1.5
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    if spec == "pos":
        return uniform * 3 + 0.05
    if spec == "prob":
        return uniform
    if spec == "unit":
        return uniform * 1.98 - 0.99
    if spec == "over":
        return 1 + uniform * 3
    if spec == "nonzero":
        return torch.where(values.abs() < 0.2, 0.7, values)
    if spec == "sorted":
        return values.sort(-1).values
    if spec == "special" and values.numel():
        specials: list[Any] = [float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 0.5, -0.5, 1.5, 30.0, -30.0]
        flat = values.reshape(-1)
        count = min(len(specials), flat.numel())
        flat[:count] = torch.tensor(specials[:count], dtype=torch.float64)
        return flat.reshape(shape)
    return values
