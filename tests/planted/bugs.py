"""The planted bugs: each with the model that it is planted in, the check that owns it, and who is to be named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

import graphopt
from graphopt.calling import CallingConvention
from graphopt.ir import Graph
from graphopt.passmanager import Pass, PassContext, as_pass
from graphopt.rewrite import Rule
from tests.planted import passes, rules
from tests.planted.models import Sensors, readings
from tests.zoo import MODELS, seeded

MADE = "tests/planted"


@dataclass(frozen=True)
class Bug:
    """A wrong rule or pass, planted in a model.

    check: what must catch it (see `diagnosis.Failure`). node: the operator of the node to be named. place: part of the
    source line or module to be named. static: trace the model with static shapes, for inputs of this batch.
    """

    name: str
    planted: Any
    model: str
    node: str
    place: str
    check: str = "numbers"
    batch: int = 2
    static: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def pass_(self) -> Pass:
        """The wrong pass."""
        return as_pass(self.planted) if isinstance(self.planted, Rule) else self.planted  # type: ignore[no-any-return]

    @property
    def rule(self) -> str:
        """The name of the wrong rule; empty for a pass without rules."""
        return self.planted.label if isinstance(self.planted, Rule) else ""

    def build(self) -> tuple[Graph, PassContext]:
        """The traced model, and the surroundings with its inputs as samples."""
        if self.model in OWN:
            model, args, kwargs, dynamic = OWN[self.model]()
        else:
            entry = MODELS[self.model]
            model = entry.build()
            args, kwargs = entry.inputs(batch=self.batch, **self.options)
            dynamic = entry.dynamic_shapes() if entry.dynamic is not None and not self.static else None
        with torch.no_grad():
            graph = graphopt.trace(model, args, kwargs, dynamic_shapes=dynamic)
        flat = CallingConvention(graph).flatten(args, kwargs)
        return graph, PassContext(samples=[[v.detach().clone() if isinstance(v, torch.Tensor) else v for v in flat]])


def _sensors() -> tuple[Any, tuple[Any, ...], dict[str, Any], Any]:
    with seeded():
        model = Sensors().eval()
    return model, (readings(torch.Generator().manual_seed(0)),), {}, "batch"


OWN: dict[str, Callable[[], tuple[Any, tuple[Any, ...], dict[str, Any], Any]]] = {"sensors": _sensors}

BUGS = [
    Bug("dropped bias", rules.drop_bias, "vit-tiny", "aten.linear", "nets_sequence.py"),
    Bug("transposition forgotten", rules.square_linear, "tied", "aten.linear", "nets_awkward.py"),
    Bug("wrong softmax dim", rules.softmax_dim, "ranker", "aten.softmax.int", "nets_sequence.py"),
    Bug("swapped axis", rules.swapped_axis, "ranker", "aten.amax", "nets_sequence.py"),
    Bug("off-by-one pad", rules.off_by_one_pad, "hf-mobilenet-v2", "aten.conv2d", "mobilenet_v2"),
    Bug("batch-norm epsilon 1e-3 for 1e-5", rules.batch_norm_eps, "resnet8", "aten.batch_norm", "nets_cnn.py"),
    Bug("wrong broadcast", rules.wrong_broadcast, "densenet", "aten.batch_norm", "nets_cnn.py"),
    Bug("NaN · 0", rules.zero_times, "sensors", "aten.mul.Scalar", "models.py"),
    Bug("integer division rounding", rules.integer_division, "mixed-types", "div", "nets_awkward.py"),
    Bug("caller's weights mutated", rules.weights_in_place, "resnet8", "aten.batch_norm", "nets_cnn.py", "tensors"),
    Bug(
        "output aliases an input",
        rules.aliased_output,
        "graph-network",
        "aten.add.Tensor",
        "nets_sequence.py",
        "tensors",
    ),
    Bug("stride in a transposed conv", rules.transposed_stride, "unet", "aten.conv_transpose2d.input", "nets_cnn.py"),
    Bug("wrong transpose order", rules.transpose_order, "shufflenet", "aten.transpose.int", "nets_cnn.py"),
    Bug("missing keepdim", rules.missing_keepdim, "ranker", "aten.gt.Tensor", "nets_sequence.py", batch=3, static=True),
    Bug("gelu tanh for erf", rules.gelu_tanh, "hf-bert", "aten.gelu", "activations.py"),
    Bug("relu6 for relu", rules.relu6_for_relu, "resnet8", "aten.relu", "nets_cnn.py"),
    Bug("dropped second use", rules.dropped_second_use, "resnet8", "aten.conv2d", "nets_cnn.py"),
    Bug("wrong fold of a buffer", rules.buffer_fold, "recommender", "aten.select.int", "nets_sequence.py"),
    Bug("attention scale", rules.attention_scale, "vit-tiny", "aten.scaled_dot_product_attention", "nets_sequence.py"),
    Bug("clamped mask", rules.clamped_mask, "transformer-encoder", "aten.masked_fill.Scalar", "nets_sequence.py"),
    Bug("unbiased variance", rules.biased_variance, "vit-tiny", "aten.layer_norm", "nets_sequence.py"),
    Bug("lost dilation", rules.lost_dilation, "audio", "aten.conv1d", "nets_cnn.py"),
    Bug("padding averaged in", rules.padded_average, "resample", "aten.avg_pool2d", "nets_cnn.py"),
    Bug("off-by-one token", rules.wrong_token, "hf-bert", "aten.select.int", "bert"),
    Bug("rounding of a cast lost", rules.dtype_promotion, "mixed-types", "aten._to_copy", "nets_awkward.py"),
    Bug("sample's length baked in", rules.baked_length, "audio", "aten.mean.dim", "nets_cnn.py"),
    Bug("shared weight changed twice", passes.equalize, "tied", "aten.linear", "nets_awkward.py"),
    Bug("lost dynamic dim", passes.static_batch, "vit-tiny", "aten.reshape", "nets_sequence.py", "graph"),
    Bug("GRU biases merged", passes.merged_biases, "gru", "aten.gru.input", "nets_sequence.py"),
    Bug("dtype promotion", passes.drop_casts, "mixed-types", "aten._to_copy", "nets_awkward.py", "graph"),
]

LARGE = [
    Bug("caller's weights mutated", rules.weights_in_place, "resnet18", "aten.batch_norm", "nets_cnn.py", "tensors"),
    Bug("transposition forgotten", rules.square_linear, "minilm", "aten.linear", "bert"),
    Bug("gelu tanh for erf", rules.gelu_tanh, "minilm", "aten.gelu", "activations.py"),
    Bug("dropped bias", rules.drop_bias, "hf-whisper", "aten.linear", "whisper"),
]
"""The same mistakes in larger models."""
