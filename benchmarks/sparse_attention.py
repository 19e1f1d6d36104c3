"""Attention with masks that leave little: the whole against `sparse-attention`, on PyTorch eager and ONNX Runtime.

Each case is one attention with a stored mask. Time and error are against `scaled_dot_product_attention` with that mask
on the same engine; `limit` is 1 / the share of the scores that the mask leaves. `flex` is PyTorch's flex_attention with
a block mask of the same function, compiled, where the machine has a compiler.

    python benchmarks/sparse_attention.py [--length 4096] [--peers] [--quick] [--json FILE]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import graphopt
from common import parse_args, print_table, ratio, time_interleaved, write_json
from graphopt.passmanager import PassContext, get_pass
from graphopt.targets import get_engine

HEADS, WIDTH = 8, 64


@dataclass(frozen=True)
class Case:
    """A mask as a function of query and key positions; tensors broadcast."""

    name: str
    shown: Callable[[Tensor, Tensor], Tensor]
    window: int | None = None


def near(window: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Half a window to either side."""
    return lambda q, k: (k >= q - window // 2) & (k <= q + (window - 1) // 2)


def behind(window: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The keys up to the query's own place, `window` at most."""
    return lambda q, k: (k <= q) & (k > q - window)


def blocks(share: float, size: int = 64) -> Callable[[Tensor, Tensor], Tensor]:
    """Random blocks, those on the diagonal among them."""
    chosen = torch.rand(1024, 1024, generator=torch.Generator().manual_seed(0)) < share
    chosen |= torch.eye(1024, dtype=torch.bool)
    return lambda q, k: chosen[q // size, k // size]


CASES = (
    Case("window 256", near(256), window=256),
    Case("window 256, causal", behind(256)),
    Case("window 256, 16 global tokens", lambda q, k: near(256)(q, k) | (q < 16) | (k < 16)),
    Case("window 1,024", near(1024)),
    Case("documents of 512", lambda q, k: q // 512 == k // 512),
    Case("random blocks of 64, 10 %", blocks(0.1)),
    Case("random blocks of 64, 50 %", blocks(0.5)),
    Case("causal", lambda q, k: k <= q),
)


class Attention(nn.Module):
    """One attention with a stored mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v, self.mask)


@dataclass(frozen=True)
class Row:
    """One case on one engine. Times in ms; error: the largest difference; expected: by the pass's model."""

    case: str
    length: int
    engine: str
    share: float
    dense: float
    sparse: float
    faster: float
    limit: float
    error: float
    decision: str
    flex: float | None = None


def measure(case: Case, length: int, engine: str, options: Any) -> Row:
    """Compile one attention for an engine, time it beside the whole."""
    place = torch.arange(length)
    mask = case.shown(place.unsqueeze(1), place.unsqueeze(0))
    share = float(mask.float().mean())
    inputs = tuple(torch.randn(1, HEADS, length, WIDTH, generator=torch.Generator().manual_seed(s)) for s in range(3))
    graph = graphopt.trace(Attention(mask).eval(), inputs)
    context = PassContext(samples=[list(inputs)], engine=get_engine(engine))
    copy = graph.clone()
    result = get_pass("sparse-attention").run(copy, context)
    before, after = (get_engine(engine).load(one) for one in (graph, copy))
    expected, found = before.run(list(inputs))[0], after.run(list(inputs))[0]
    functions: dict[str, Callable[[], Any]] = {
        "dense": lambda: before.run(list(inputs)),
        "sparse": lambda: after.run(list(inputs)),
    }
    peer = flex(case, inputs) if options.peers and engine == "eager" else None
    if peer is not None:
        functions["flex"] = peer
    times = time_interleaved(functions, rounds=1 if options.quick else options.rounds, seconds=0.1)
    return Row(
        case.name,
        length,
        engine,
        share,
        times["dense"].ms,
        times["sparse"].ms,
        1 / ratio(times, "sparse", "dense"),
        1 / share,
        float((expected - found).abs().max()),
        "lowered" if result.changed else "stays",
        times["flex"].ms if "flex" in times else None,
    )


def flex(case: Case, inputs: tuple[Tensor, ...]) -> Callable[[], Any] | None:
    """PyTorch's compiled attention by blocks; None where it does not compile."""
    from torch._dynamo.exc import TorchDynamoException
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    length = inputs[0].shape[2]
    shown = create_block_mask(lambda b, h, q, k: case.shown(q, k), None, None, length, length, device="cpu")
    compiled = torch.compile(flex_attention)
    try:
        compiled(*inputs, block_mask=shown)
    except (RuntimeError, TorchDynamoException) as error:
        print(f"flex_attention does not compile for {case.name}: {type(error).__name__}")
        return None
    return lambda: compiled(*inputs, block_mask=shown)


def main() -> None:
    """Print the table."""
    options = parse_args(
        __doc__,
        ("--length", {"type": int, "action": "append", "help": "sequence length (default: 512, 1024, 4096)"}),
        ("--peers", {"action": "store_true", "help": "also time flex_attention"}),
        ("--engine", {"action": "append", "choices": ("eager", "onnxruntime"), "help": "default: both"}),
    )
    lengths = options.length or ([512] if options.quick else [512, 1024, 4096])
    cases = CASES[:3] if options.quick else CASES
    with torch.no_grad():
        rows = [
            measure(case, length, engine, options)
            for engine in options.engine or ("eager", "onnxruntime")
            for length in lengths
            for case in cases
        ]
    print_table(
        f"Attention with a known mask: {HEADS} heads of {WIDTH}",
        (
            "mask",
            "length",
            "engine",
            "share",
            "dense ms",
            "sparse ms",
            "faster",
            "limit",
            "error",
            "decision",
            "flex ms",
        ),
        [tuple(vars(row).values()) for row in rows],
    )
    write_json(options.json, "sparse_attention", rows)


if __name__ == "__main__":
    main()
