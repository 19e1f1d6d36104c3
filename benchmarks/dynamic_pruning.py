"""Where dynamic pruning breaks even: gated layers, dropped tokens, early exits.

* gating: a ReLU block of 512 → 2,048 → 512, of which a share of the channels is live, on few and on many rows.
* tokens: MiniLM on real sentences, by the share that is kept from layer 3 on; cosine to the embeddings of all tokens.
* exits: a stack of eight blocks with a head after each second one, by the share of batches that leave at the first.

    python benchmarks/dynamic_pruning.py [--quick] [--json FILE]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from padding_free import batches
from torch import Tensor, nn
from torch.export import Dim

import graphopt
from common import parse_args, print_table, ratio, time_interleaved, write_json
from graphopt.ir import Graph
from graphopt.passes.early_exit import EarlyExit
from graphopt.passes.gate_activations import GateActivations
from graphopt.passes.prune_tokens import PruneTokens
from graphopt.passmanager import Pass, PassContext
from graphopt.targets import get_engine
from tests.zoo.minilm import minilm

WIDE, NARROW = 2048, 512


@dataclass(frozen=True)
class Row:
    """What was left out, and the times of a call in ms. agreement: cosine, or the share of equal answers."""

    what: str
    engine: str
    share: float
    before: float
    after: float
    faster: float
    agreement: float


def timed(graph: Graph, pass_: Pass, inputs: Sequence[Any], engine: str, options: Any) -> tuple[Graph, list[float]]:
    """The graph after a pass, and the times before, after, and their ratio."""
    copy = graph.clone()
    result = pass_.run(copy, PassContext(samples=[list(inputs)]))
    assert result.changed, result.notes
    old, new = (get_engine(engine).load(one) for one in (graph, copy))
    functions = {"before": lambda: old.run(list(inputs)), "after": lambda: new.run(list(inputs))}
    times = time_interleaved(functions, rounds=1 if options.quick else options.rounds, seconds=0.1)
    return copy, [times["before"].ms, times["after"].ms, 1 / ratio(times, "after", "before")]


class Block(nn.Module):
    """Two layers with a ReLU between, most of whose channels are switched off by their bias."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(NARROW, WIDE), nn.Linear(WIDE, NARROW)
        with torch.no_grad():
            self.first.bias[int(WIDE * share) :] = -100.0

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def gating(options: Any, engine: str) -> list[Row]:
    """Blocks with a known share of live channels."""
    found = []
    for rows in (1, 128):
        for share in (0.1,) if options.quick else (0.05, 0.1, 0.25, 0.5, 0.75):
            torch.manual_seed(0)
            x = torch.randn(rows, NARROW)
            model = Block(share).eval()
            graph = graphopt.trace(model, (x,))
            copy, times = timed(graph, GateActivations(most=1.0), [x], engine, options)
            result = get_engine(engine).load(copy).run([x])[0]
            alike = float(torch.nn.functional.cosine_similarity(result, model(x)).mean())
            found.append(Row(f"gated channels, {rows} rows", engine, share, *times, alike))
    return found


def tokens(options: Any, engine: str) -> list[Row]:
    """MiniLM on one batch of sentences."""
    batch = batches(32, 1, alike=True)[0]
    dims = {0: Dim("batch"), 1: Dim("length", min=3, max=512)}
    shapes = dict.fromkeys(batch, dims)
    model = minilm()
    compiled = graphopt.compile(model, (), batch, target="fx", passes="default", dynamic_shapes=shapes)
    expected, inputs = model(**batch), list(batch.values())
    found = []
    for keep in (0.5,) if options.quick else (0.9, 0.7, 0.5, 0.3):
        copy, times = timed(compiled.graph, PruneTokens(keep=keep, layer=3), inputs, engine, options)
        result = get_engine(engine).load(copy).run(inputs)[0]
        found.append(Row("tokens kept from layer 3", engine, keep, *times, float((result * expected).sum(-1).mean())))
    return found


class Stack(nn.Module):
    """Blocks with a residual, and a head after each second one."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(1.0) for _ in range(8))
        self.heads = nn.ModuleList(nn.Linear(NARROW, 10) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found = []
        for index, block in enumerate(self.blocks):
            x = x + block(x)
            if index % 2:
                found.append(self.heads[index // 2](x))
        return tuple(found)


def exits(options: Any, engine: str) -> list[Row]:
    """Batches of which none, or all, leave at the first head."""
    torch.manual_seed(0)
    model, x = Stack().eval(), torch.randn(64, NARROW)
    graph = graphopt.trace(model, (x,))
    found = []
    for share, threshold in ((0.0, 1.0), (1.0, 1e-3)):
        copy, times = timed(graph, EarlyExit(threshold=threshold), [x], engine, options)
        answers = [get_engine(engine).load(one).run([x])[-1].argmax(-1) for one in (graph, copy)]
        same = float((answers[0] == answers[1]).float().mean())
        found.append(Row("batches that leave at the first of four exits", engine, share, *times, same))
    return found


def main() -> None:
    """Print the table."""
    options = parse_args(__doc__)
    with torch.no_grad():
        rows = [
            row
            for engine in ("eager", "onnxruntime")
            for part in (gating, tokens, exits)
            for row in part(options, engine)
        ]
    print_table(
        "Dynamic pruning",
        ("what", "engine", "share", "before ms", "after ms", "faster", "agreement"),
        [tuple(vars(row).values()) for row in rows],
    )
    write_json(options.json, "dynamic_pruning", rows)


if __name__ == "__main__":
    main()
