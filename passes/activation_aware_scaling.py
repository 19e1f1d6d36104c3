"""Activation-aware weight scaling (AWQ, Lin et al. 2023): make the weights that matter large before they are rounded.

    W X  =  (W diag(s)) (diag(s)⁻¹ X),    s = s_X^α,   s_X,ⱼ = E|Xⱼ|

    α = argmin over [0, 1] of ‖Q(W diag(s)) diag(s)⁻¹ X − W X‖²

Rounding errors of a block are about equal; those of columns that read large activations are made small by their s. With
E = Q(W diag(s)) diag(s)⁻¹ − W the loss is tr(E X Xᵀ Eᵀ), so activations are kept as second moments alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from graphopt.errors import GraphOptError, requested
from graphopt.ir import Graph, Node, Value
from graphopt.ops.quantization import find_format
from graphopt.ops.quantization.arithmetic import dequantized, quantized
from graphopt.passes.quantization.blocks import block_parameters
from graphopt.passes.scaling.moving import apply, bounded
from graphopt.passes.scaling.readers import Inputs, Reader, by_channel, inputs_of, readers_of
from graphopt.passes.scaling.report import kept_notes
from graphopt.passes.scaling.spaces import Space, Spaces
from graphopt.passes.support.data import batches_of
from graphopt.passes.support.evaluation import stored_tensor
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter

OUTPUTS = 64
"""So many outputs of a weight, evenly spread over all, are looked at for each choice."""
WORTH = 0.2
"""So many decibels must a group of layers gain for its scales to be moved."""
_CLIPS = tuple(1 - step / 20 for step in range(11))
NOTHING = "nothing to scale: no product reads what a norm or a layer before it may scale"


@dataclass(frozen=True)
class ActivationAwareScaling(Pass):
    """Scale the inputs of weights by what they read, before `quantize-weights`.

    dtype, block_size, search: those that `quantize-weights` will use.
    steps: how many values of α above 0 are tried.
    insert: where nothing before takes the division, divide in front of the layer.
    clip: then cut each block of a weight where that makes the output better (lossy).
    smallest: weights of fewer elements are not looked at.
    samples: how many batches of calibration data are used, at most.

    It runs the graph on the calibration data, or else on the sample inputs.
    """

    contract = Contract.REASSOCIATING
    conflicts = frozenset({"quantized"})

    dtype: str = "uint4"
    block_size: int = 32
    search: bool = True
    steps: int = 20
    insert: bool = False
    clip: bool = False
    smallest: int = 1024
    samples: int = 64

    def __post_init__(self) -> None:
        format_ = find_format(self.dtype)
        if format_.is_float or format_.bits > 8:
            raise GraphOptError(f"{self.dtype} is no format of stored weights; choose int2 to int8, or uint2 to uint8")
        if self.block_size < 0 or self.steps < 1 or self.samples < 1:
            raise GraphOptError("block_size is 0 or a number of neighbours, steps and samples at least 1")
        if self.clip:
            object.__setattr__(self, "contract", Contract.LOSSY)  # Clipped weights are others.

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place.

        Raises:
            InputError: no data, data that does not fit, or activations that are not finite.
        """
        spaces = Spaces(graph)
        if self.insert:
            spaces.insert()
        found = {space: self._readers(spaces, space) for space in spaces.spaces}
        groups = {space: readers for space, readers in found.items() if readers}
        if not groups:
            return PassResult(False, notes=[NOTHING, *kept_notes(spaces)])
        everyone = [reader for readers in groups.values() for reader in readers]
        with requested():
            batches = batches_of(graph, context, self.samples, self.name)
            seen = inputs_of(spaces, everyone, batches, gram=lambda reader: True)
        scales, notes = np.ones(spaces.count + 1), []
        chosen_scales: dict[Reader, np.ndarray] = {}
        for space, readers in groups.items():
            chosen, note = self._chosen(space, readers, [seen[reader] for reader in readers])
            scales[space.channels] = 1 / chosen[1:]
            chosen_scales.update(dict.fromkeys(readers, chosen))
            notes.append(note)
        rewriter = Rewriter(graph, context.listeners)
        failed = apply(spaces, scales, rewriter, self.name)
        if self.clip and not failed:
            self._clip(seen, chosen_scales, rewriter)
        return PassResult(rewriter.changed, notes=(failed or notes) + kept_notes(spaces))

    def explain(self, graph: Graph, node: Node) -> str | None:
        """Why a layer keeps the scale of what it reads."""
        return Spaces(graph).reason(node)

    def _readers(self, spaces: Spaces, space: Space) -> list[Reader]:
        return [r for r in readers_of(spaces, space) if r.matrix.numel() >= self.smallest]

    def _chosen(self, space: Space, readers: Sequence[Reader], inputs: Sequence[Inputs]) -> tuple[np.ndarray, str]:
        """The scales of a space by channel, and a note."""
        magnitudes = by_channel(space, readers, [given.mean for given in inputs])
        plain = np.ones(space.size + 1)
        before = least = self._loss(readers, inputs, plain)
        best, chosen = plain, 0.0
        for step in range(1, self.steps + 1):
            tried = activation_scales(magnitudes, step / self.steps)
            error = self._loss(readers, inputs, tried)
            if error < least:
                best, least, chosen = tried, error, step / self.steps
        gain = 10 * np.log10(before / least) if least > 0 else 0.0
        if gain < WORTH:
            return plain, f"{space.name}: left as it was, for alpha {chosen:.2g} is the best and gains {gain:.1f} dB"
        return best, f"{space.name}: alpha {chosen:.2g}, {gain:.1f} dB"

    def _loss(self, readers: Sequence[Reader], inputs: Sequence[Inputs], scales: np.ndarray) -> float:
        total = 0.0
        for reader, given in zip(readers, inputs):
            matrix = reader.matrix[:, :: max(1, reader.matrix.shape[1] // OUTPUTS)]
            own = torch.from_numpy(scales[reader.columns]).to(matrix)[:, None]
            error = self._rounded(matrix * own) / own - matrix
            if given.gram is not None:
                total += float(((given.gram @ error) * error).sum())
        return total

    def _rounded(self, matrix: torch.Tensor) -> torch.Tensor:
        """What `quantize-weights` would make of a matrix [inputs, outputs]."""
        format_, axis = find_format(self.dtype), 0 if self.block_size else 1
        scales, zeros = block_parameters(matrix, format_, self.block_size, self.search)
        points = None if zeros is None else zeros.to(format_.storage)
        q = quantized(matrix, scales, points, format_, axis, self.block_size)
        return dequantized(q, scales, points, axis, self.block_size)

    def _clip(self, inputs: dict[Reader, Inputs], scales: dict[Reader, np.ndarray], rewriter: Rewriter) -> None:
        """Cut blocks of weights. Of a weight that several nodes read, what the first reads counts."""
        successors: dict[Value, Value] = {}
        for reader, given in inputs.items():
            weight = reader.node.operands[reader.at + 1]
            assert weight is not None
            if weight in successors or given.gram is None:
                continue
            own = 1 / torch.from_numpy(scales[reader][reader.columns]).to(given.gram)
            tensor = stored_tensor(weight)
            transposed = reader.node.op.base == "aten.linear"
            matrix = tensor.t() if transposed else tensor
            cut = self._cut(matrix, given.gram * own * own[:, None])
            if not torch.equal(cut, matrix):
                successors[weight] = rewriter.constant_like(weight, cut.t() if transposed else cut, succeeds=True)
        for weight, successor in successors.items():
            rewriter.replace_value(weight, successor)
        rewriter.succeed_constants(successors)

    def _cut(self, matrix: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
        """Clamp each block of each output at the share of its greatest number that has the least output error."""
        inputs, outputs = matrix.shape
        size = self.block_size or inputs
        padded = torch.nn.functional.pad(matrix, (0, 0, 0, -inputs % size))
        blocks = padded.reshape(-1, size, outputs)
        whole = torch.nn.functional.pad(gram, (0, -inputs % size, 0, -inputs % size))
        grams = torch.stack([whole[i : i + size, i : i + size] for i in range(0, len(whole), size)])
        most = blocks.abs().amax(1, keepdim=True)
        best, least = blocks, torch.full_like(most, torch.inf)
        for ratio in _CLIPS:
            clamped = blocks.clamp(-most * ratio, most * ratio)
            error = self._rounded(clamped.reshape(-1, outputs)).reshape(blocks.shape) - blocks
            loss = ((grams @ error) * error).sum(1, keepdim=True)
            better = loss < least
            best, least = torch.where(better, clamped, best), torch.where(better, loss, least)
        return best.reshape(-1, outputs)[:inputs].contiguous()


def activation_scales(magnitudes: np.ndarray, alpha: float) -> np.ndarray:
    """s = s_X^α, centred on 1; 1 where nothing is read.

    >>> activation_scales(np.array([0.0, 4.0, 1.0]), 0.5).round(3).tolist()
    [1.0, 1.414, 0.707]
    """
    used = magnitudes > 0
    found = np.where(used, np.where(used, magnitudes, 1.0) ** alpha, 1.0)
    centre = np.sqrt(found[used].max() * found[used].min()) if used.any() else 1.0
    return bounded(np.where(used, found / centre, 1.0))
