"""Codebooks against steps of equal size, at equal size: the same trained weights, the same held-out data.

For each network every layer's weight is stored in 4 bits: as steps of equal size (int4, and uint4 with zero points, a
half-precision scale for each channel or block, chosen by least squared error), and as indices into codebooks
(`palettize`, single numbers and pairs, with scales for channels in half precision, or for blocks in 8 bits, which ONNX
knows for codebooks but not for equal steps). All bytes count: indices, codebooks, scales, zero points. Figures: bits a
number, the signal-to-noise ratio of the weights (mean over layers, in decibels) and of the network's output, and by how
much both are above those of the best steps of equal size with as many bits, interpolated between their block sizes.
`weighted` codebooks count errors by E[x²] of the inputs, from calibration data.

Then files of MiniLM, embedding tables included: bytes, and the output's noise in ONNX Runtime.

    python benchmarks/quantize_codebooks.py [--quick] [--json FILE] [--networks LeNet,ResNet-8,MiniLM]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

import graphopt
from common import parse_args, print_table, write_json
from graphopt.analysis import run_graph
from graphopt.ir import Graph
from graphopt.ops.quantization import find_format
from graphopt.ops.quantization.arithmetic import dequantized, quantized
from graphopt.passes.palettize import Palettize
from graphopt.passes.quantization.blocks import block_parameters
from graphopt.passes.weight_pruning.layers import find_layers
from graphopt.passmanager import PassContext, PassManager
from graphopt.pipelines import default_pipeline
from tests.zoo.minilm import minilm, tokenize
from tests.zoo.sentences import split_sentences
from tests.zoo.trained import trained_lenet, trained_resnet8

SENTENCES, CALIBRATION = 200, 64
BLOCKS = (0, 128, 96, 64, 48, 32, 16)
"""Numbers that share a scale, where they divide the inputs of a layer; 0 for a channel's."""


@dataclass(frozen=True)
class Network:
    """A module, its samples for calibration, and held-out batches, as arguments by name."""

    module: nn.Module
    calibration: list[dict[str, Tensor]]
    held_out: list[dict[str, Tensor]]
    shapes: Any

    def graph(self) -> Graph:
        """Captured, with batch norms folded and products as linear layers."""
        captured = graphopt.trace(self.module, (), self.held_out[0], dynamic_shapes=self.shapes)
        return PassManager(default_pipeline("onnx"), validate=False).run(captured)[0]


@dataclass(frozen=True)
class Figures:
    """One way to store the weights of one network. gain, output_gain: over equal steps with as many bits, in dB."""

    network: str
    method: str
    bits: float
    weights: float
    output: float
    gain: float | None = None
    output_gain: float | None = None


def images(trained: Any) -> Network:
    """A network for images."""
    data = trained.data
    return Network(
        trained.module,
        [{"x": x} for x in data.train_images[:256].split(64)],
        [{"x": x} for x in data.images.split(250)],
        {"x": {0: Dim("batch")}},
    )


def encoder() -> Network:
    """MiniLM and sentences."""
    known, held_out = split_sentences()
    dims = {0: Dim("batch"), 1: Dim("length", min=3, max=512)}
    pick = slice(None, None, len(held_out) // SENTENCES)
    texts = [
        [s.text for s in part][:count] for part, count in ((known[pick], CALIBRATION), (held_out[pick], SENTENCES))
    ]
    calibration, batches = ([tokenize(part[i : i + 32]) for i in range(0, len(part), 32)] for part in texts)
    return Network(minilm(), calibration, batches, dict.fromkeys(("input_ids", "attention_mask"), dims))


NETWORKS: dict[str, Callable[[], Network]] = {
    "LeNet": lambda: images(trained_lenet()),
    "ResNet-8": lambda: images(trained_resnet8()),
    "MiniLM": encoder,
}


def ratio(reference: Tensor, found: Tensor) -> float:
    """Signal to noise in decibels."""
    return float(10 * torch.log10(reference.double().square().sum() / (found - reference).double().square().sum()))


def outputs(graph: Graph, batches: Sequence[dict[str, Tensor]]) -> Tensor:
    """The first output on all batches."""
    return torch.cat([run_graph(graph, *batch.values())[0].reshape(-1) for batch in batches])


def in_equal_steps(graph: Graph, format_: str, block: int, names: Sequence[str]) -> tuple[Graph, float, float]:
    """A copy with rounded weights, the bits of a number, and the mean signal-to-noise ratio of the weights."""
    copy, kind = graph.clone(), find_format(format_)
    taken, total, noises = 0.0, 0, []
    for layer in find_layers(copy, folded=True):
        if layer.name not in names:
            continue
        rows = layer.to_matrices(layer.tensor).flatten(0, 1)
        own = block if block and rows.shape[1] % block == 0 else 0
        matrix = rows.t().contiguous()
        scales, zeros = block_parameters(matrix, kind, own, True)
        scales, points = scales.half().float(), None if zeros is None else zeros.to(kind.storage)
        axis = 0 if own else 1
        found = dequantized(quantized(matrix, scales, points, kind, axis, own), scales, points, axis, own).t()
        noises.append(ratio(rows, found))
        taken += rows.numel() * 4 + scales.numel() * (16 if zeros is None else 20)
        total += rows.numel()
        assert layer.weight.constant is not None
        restored = layer.from_matrices(found.reshape(layer.matrix_shape))
        layer.weight.constant = type(layer.weight.constant)(restored)
    return copy, taken / total, sum(noises) / len(noises)


def in_codebooks(graph: Graph, network: Network, **options: Any) -> tuple[Graph, float, float, list[str]]:
    """The same by the pass, and the names of the weights."""
    copy = graph.clone()
    context = PassContext(calibration=network.calibration if options.get("weighted") else None)
    report = Palettize(embeddings=False, **options).run(copy, context).details
    counts = [math.prod(figures.shape) for figures in report.weights]
    bits = sum(figures.bits * count for figures, count in zip(report.weights, counts)) / sum(counts)
    noise = sum(figures.noise for figures in report.weights) / len(counts)
    return copy, bits, noise, [figures.name for figures in report.weights]


def measured(name: str, quick: bool) -> list[Figures]:
    """All ways to store the weights of a network."""
    network = NETWORKS[name]()
    graph = network.graph()
    batches = network.held_out[:1] if quick else network.held_out
    reference = outputs(graph, batches)
    ours: list[Figures] = []
    names: list[str] = []
    for title, options in choices(quick):
        made, bits, noise, names = in_codebooks(graph, network, **options)
        ours.append(Figures(name, title, bits, noise, ratio(reference, outputs(made, batches))))
    steps: list[Figures] = []
    for format_ in ("int4", "uint4"):
        for block in BLOCKS[:1] + BLOCKS[3:6:2] if quick else BLOCKS:
            made, bits, noise = in_equal_steps(graph, format_, block, names)
            title = f"{format_}, {f'blocks of {block}' if block else 'channels'}"
            steps.append(Figures(name, title, bits, noise, ratio(reference, outputs(made, batches))))
    return steps + [with_gains(figures, steps) for figures in ours]


def choices(quick: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Codebooks of 4 bits."""
    for vector, title in ((1, "codebook"), (2, "codebook of pairs")):
        for block in (0, 64) if quick else (0, 64, 32, 16):
            grain = f"blocks of {block}" if block else "channels"
            yield f"{title}, {grain}", {"vector": vector, "block_size": block, "weighted": False}
    yield "codebook, no scales", {"scaled": False, "weighted": False}
    yield "codebook of pairs, channels, weighted", {"vector": 2, "weighted": True}
    yield "codebook of pairs, blocks of 64, weighted", {"vector": 2, "block_size": 64, "weighted": True}


def with_gains(figures: Figures, steps: Sequence[Figures]) -> Figures:
    """With the gains over equal steps of the same size."""
    gains = [
        own - at_size(figures.bits, [(s.bits, getattr(s, field)) for s in steps])
        for own, field in ((figures.weights, "weights"), (figures.output, "output"))
    ]
    return Figures(figures.network, figures.method, figures.bits, figures.weights, figures.output, *gains)


def at_size(bits: float, points: Sequence[tuple[float, float]]) -> float:
    """The best ratio with so many bits: on the line between neighbouring sizes, the best of each at that size or below;
    with fewer bits than any, that of the smallest."""
    best, frontier = -math.inf, []
    for size, noise in sorted(points):
        if noise > best:
            best = noise
            frontier.append((size, noise))
    for (low, below), (high, above) in pairwise(frontier):
        if low <= bits <= high:
            return below + (above - below) * (bits - low) / (high - low)
    return frontier[0][1] if bits < frontier[0][0] else frontier[-1][1]


@dataclass(frozen=True)
class File:
    """An ONNX file: megabytes, share of the float file, the output's signal-to-noise ratio, mean cosine."""

    passes: str
    megabytes: float
    share: float
    output: float
    cosine: float


def files(quick: bool) -> list[File]:
    """MiniLM, embedding tables included, in ONNX Runtime."""
    network = encoder()
    found: list[File] = []
    reference, whole = torch.empty(0), 0.0
    for text in (
        "",
        "quantize-weights{block_size=64}",
        "quantize-weights{block_size=32}",
        "palettize{weighted=false}",
        "palettize{vector=2, weighted=false}",
        "palettize{vector=2}",
        "palettize{vector=2, block_size=32}",
        "palettize{vector=2, block_size=16}",
    )[: 4 if quick else None]:
        made = graphopt.compile(
            network.module,
            (),
            network.held_out[0],
            target="onnxruntime",
            dynamic_shapes=network.shapes,
            passes=f"default,{text},dead-code" if text else "default",
            calibration=network.calibration,
            on_failure="raise",
        )
        size = made.to_onnx().ByteSize() / 1e6
        batches = network.held_out[:1] if quick else network.held_out
        with torch.no_grad():
            result = torch.cat([made(**batch) for batch in batches])
        reference, whole = (reference, whole) if text else (result, size)
        cosine = float(nn.functional.cosine_similarity(reference, result).mean())
        found.append(File(text or "float32", size, size / whole, ratio(reference, result), cosine))
    return found


def main() -> None:
    chosen = parse_args(__doc__, ("--networks", {"default": ",".join(NETWORKS), "help": "which ones, by commas"}))
    found: list[Figures] = []
    for name in chosen.networks.split(","):
        own = measured(name, chosen.quick)
        found += own
        print_table(
            f"{name}: 4 bits",
            ("stored as", "bits a number", "weights, dB", "output, dB", "gain, weights", "gain, output"),
            [(f.method, f.bits, f.weights, f.output, f.gain, f.output_gain) for f in own],
            "gains: decibels above the best steps of equal size with as many bits",
        )
    written: list[File] = []
    if "MiniLM" in chosen.networks:
        written = files(chosen.quick)
        print_table(
            "MiniLM: files, embedding tables included",
            ("passes", "megabytes", "of float32", "output, dB", "cosine"),
            [(f.passes, f.megabytes, f.share, f.output, f.cosine) for f in written],
        )
    write_json(chosen.json, "quantize_codebooks", {"weights": found, "files": written})


if __name__ == "__main__":
    main()
