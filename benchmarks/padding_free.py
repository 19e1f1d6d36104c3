"""Encoding batches of sentences of mixed length with MiniLM: padded, against `padding-free`.

Batches are drawn at random from rated tweets, films' reviews, products' reviews and editorials, and padded to their
longest. `promised` is 1 / the share of live tokens, what there would be to gain if time went with tokens alone, and
`reached` how much of that the gain comes to. Both sides run on one engine, compiled alike but for the pass; `sorted`
batches hold sentences of like length, as a careful caller makes them.

    python benchmarks/padding_free.py [--quick] [--json FILE]
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

import graphopt
from common import parse_args, print_table, ratio, time_interleaved, write_json
from tests.zoo.minilm import minilm, tokenize
from tests.zoo.sentences import labelled_sentences

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Row:
    """Times of all batches, in ms. error: the largest difference of an embedding, whose length is 1."""

    engine: str
    batches: str
    size: int
    live: float
    padded: float
    free: float
    faster: float
    promised: float
    reached: float
    error: float


def batches(size: int, count: int, alike: bool) -> list[Batch]:
    """Batches of real sentences, from all kinds."""
    texts = [s.text for s in labelled_sentences() if s.text]
    chosen = random.Random(0).sample(texts, size * count)
    if alike:
        chosen.sort(key=len)
    return [tokenize(chosen[start : start + size]) for start in range(0, len(chosen), size)]


def compiled(engine: str, pass_: str, example: Batch) -> nn.Module:
    """The encoder for an engine."""
    dims = {0: Dim("batch"), 1: Dim("length", min=3, max=512)}
    shapes = dict.fromkeys(("input_ids", "attention_mask"), dims)
    passes = f"default{pass_}"
    return graphopt.compile(minilm(), (), example, target=engine, passes=passes, dynamic_shapes=shapes)


def measure(engine: str, size: int, count: int, alike: bool, options: Any) -> Row:
    """One kind of batches on one engine."""
    given = batches(size, count, alike)
    padded = compiled(engine, "", given[0])
    free = compiled(engine, ",padding-free,dead-code", given[0])
    error = max(float((padded(**batch) - free(**batch)).abs().max()) for batch in given)
    functions = {
        "padded": lambda: [padded(**batch) for batch in given],
        "free": lambda: [free(**batch) for batch in given],
    }
    times = time_interleaved(functions, rounds=1 if options.quick else options.rounds, seconds=0.1, warmup=1)
    masks = [batch["attention_mask"] for batch in given]
    live = float(sum(mask.sum() for mask in masks)) / sum(mask.numel() for mask in masks)
    faster = 1 / ratio(times, "free", "padded")
    kind = "sorted" if alike else "random"
    return Row(engine, kind, size, live, times["padded"].ms, times["free"].ms, faster, 1 / live, faster * live, error)


def main() -> None:
    """Print the table."""
    options = parse_args(__doc__, ("--engine", {"action": "append", "help": "default: eager, onnxruntime"}))
    count = 1 if options.quick else 3
    kinds = [(32, False)] if options.quick else [(8, False), (32, False), (64, False), (32, True)]
    engines = options.engine or ("eager", "onnxruntime")
    with torch.no_grad():
        rows = [measure(engine, size, count, alike, options) for engine in engines for size, alike in kinds]
    print_table(
        "MiniLM on batches of sentences",
        ("engine", "batches", "size", "live", "padded ms", "free ms", "faster", "promised", "reached", "error"),
        [tuple(vars(row).values()) for row in rows],
    )
    write_json(options.json, "padding_free", rows)


if __name__ == "__main__":
    main()
