"""Weights alone in few bits: the size of MiniLM's file and the cosines of its sentence embeddings with those of fp32.

For each scheme: the ONNX file against the fp32 file in percent, embedding tables quantized too; the cosine of the
embeddings of held-out sentences with those of fp32, mean and minimum over the sentences; and the signal-to-noise ratio.
Sentences and calibration are the labelled ones of `tests/zoo/sentences.py`; ONNX Runtime computes all embeddings.

    python benchmarks/quantize_weights.py [--quick] [--json FILE] [--held-out N] [--calibration N]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnxruntime
import torch
from torch import Tensor

import graphopt
from common import onnxruntime_options, parse_args, print_table, write_json
from tests.zoo.minilm import minilm, tokenize
from tests.zoo.sentences import Sentence, split_sentences

WORST = '{"*position_embeddings*"=uint8, "*layer.[345].intermediate*"=uint8}'
"""The matrices that lose most for their size, in 8 bits: still within 16 % of the fp32 file."""
SCHEMES = {
    "fp32": "",
    "int8 nearest": "quantize-weights{dtype=uint8, block_size=64}",
    "int4 nearest": "quantize-weights",
    "int4 gptq": "quantize-weights{rounding=gptq}",
    "int4 gptq, of the model": "quantize-weights{rounding=gptq, objective=model}",
    "int4 gptq, of the model, some int8": f"quantize-weights{{rounding=gptq, objective=model, formats={WORST}}}",
    "int4 nearest, tuned": "quantize-weights{tuning=3}",
    "int4 gptq, of the model, some int8, tuned": (
        f"quantize-weights{{rounding=gptq, objective=model, formats={WORST}, tuning=3}}"
    ),
    "int4 awq and gptq": "activation-aware-scaling,quantize-weights{rounding=gptq}",
    "int4 adaround": "quantize-weights{rounding=adaround, iterations=300}",
    "codebook of 4 bits": "palettize",
}
QUICK = ("fp32", "int8 nearest", "int4 nearest")


@dataclass(frozen=True)
class Figures:
    """size: of the file against fp32. mean, least: of the cosines. sqnr: of the embeddings in decibels."""

    scheme: str
    size: float
    mean: float
    least: float
    sqnr: float
    seconds: float


def batches(sentences: Sequence[Sentence], count: int, size: int) -> list[dict[str, Tensor]]:
    """`count` sentences, evenly drawn, in batches of about one length."""
    chosen = sorted((sentences[i * len(sentences) // count].text for i in range(count)), key=len)
    return [tokenize(chosen[i : i + size]) for i in range(0, count, size)]


def embeddings(model: bytes, held_out: list[dict[str, Tensor]], threads: int) -> Tensor:
    """Of all sentences, [sentences, 384]."""
    options = onnxruntime_options(threads)
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    parts = [session.run(None, {name: batch[name].numpy() for name in names})[0] for batch in held_out]
    return torch.cat([torch.from_numpy(part) for part in parts])


def main() -> None:
    extra = (
        ("--held-out", {"type": int, "default": 1000}),
        ("--calibration", {"type": int, "default": 1024}),
        ("--schemes", {"nargs": "*", "help": f"some of: {', '.join(SCHEMES)}"}),
    )
    chosen = parse_args(__doc__, *extra)
    names = chosen.schemes or (QUICK if chosen.quick else SCHEMES)
    given, others = split_sentences()
    held_out = batches(others, 40 if chosen.quick else chosen.held_out, 20)
    calibration = batches(given, 40 if chosen.quick else chosen.calibration, 8)
    module = minilm()
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=3, max=512)}
    found: list[Figures] = []
    base: dict[str, Any] = {}
    for name in dict.fromkeys(["fp32", *names]):
        start = time.perf_counter()
        model = graphopt.compile(
            module,
            (),
            calibration[0],
            target="onnxruntime",
            dynamic_shapes=dict.fromkeys(calibration[0], dims),
            passes=f"default,{SCHEMES[name]}" if SCHEMES[name] else "default",
            calibration=calibration,
            validate=False,
        )
        file = model.to_onnx().SerializeToString()
        seconds = time.perf_counter() - start
        vectors = embeddings(file, held_out, chosen.threads)
        base = base or {"bytes": len(file), "vectors": vectors}
        cosines = (vectors * base["vectors"]).sum(1)
        noise = (vectors - base["vectors"]).square().sum()
        sqnr = float(10 * torch.log10(base["vectors"].square().sum() / noise)) if noise else float("inf")
        size = len(file) / base["bytes"]
        found.append(Figures(name, 100 * size, float(cosines.mean()), float(cosines.min()), sqnr, seconds))
    columns = ("scheme", "size %", "cosine, mean", "least", "SQNR dB", "seconds to make")
    rows = [(f.scheme, f"{f.size:.2f}", f"{f.mean:.4f}", f"{f.least:.4f}", f.sqnr, f.seconds) for f in found]
    print_table(f"MiniLM, {len(base['vectors'])} held-out sentences", columns, rows)
    write_json(chosen.json, "quantize_weights", found)


if __name__ == "__main__":
    main()
