"""The zoo's entries for the networks written out in this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo import nets_awkward as awkward
from tests.zoo import nets_cnn as cnn
from tests.zoo import nets_sequence as sequence
from tests.zoo.model import BATCH, LENGTH, Inputs, ZooModel, images

X = {"x": {0: BATCH}}
AXES = {0: BATCH, 1: LENGTH}


def entry(
    name: str,
    make: Callable[[], nn.Module],
    make_inputs: Callable[[torch.Generator, int, int], Inputs],
    *tags: str,
    dynamic: dict[str, Any] | None = None,
    **options: Any,
) -> ZooModel:
    """An entry tagged `own`."""
    return ZooModel(name, make, make_inputs, frozenset({"own", *tags}), dynamic, **options)


def rows(width: int) -> Callable[[torch.Generator, int, int], Inputs]:
    """Inputs `x [batch, width]`."""
    return lambda generator, batch, _: ((torch.randn(batch, width, generator=generator),), {})


def ids(generator: torch.Generator, batch: int, length: int) -> Inputs:
    """Token ids below 40, `[batch, length]`."""
    return (torch.randint(0, 40, (batch, length), generator=generator),), {}


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=generator)


def integers(generator: torch.Generator, high: int, *shape: int) -> Tensor:
    """Uniform integers in [0, high)."""
    return torch.randint(0, high, shape, generator=generator)


def cnn_entry(name: str, make: Callable[[], nn.Module], *tags: str, size: int = 32) -> ZooModel:
    """A network on RGB images with a dynamic batch."""
    return entry(name, make, images(3, size), "cnn", *tags, dynamic=X)


CONVOLUTIONAL = [
    entry("lenet", cnn.LeNet, images(1, 28), "cnn", dynamic=X),
    entry("resnet8", cnn.ResNet8, images(1, 8), "cnn", dynamic=X),
    cnn_entry("unet", cnn.UNet, "dense"),
    cnn_entry("densenet", cnn.DenseNet),
    cnn_entry("shufflenet", cnn.ShuffleNet),
    cnn_entry("norms", cnn.NormNet),
    cnn_entry("resample", cnn.ResampleNet, "dense"),
    entry("decoder", cnn.Decoder, rows(16), "cnn", "dense", dynamic={"z": {0: BATCH}}),
    entry(
        "audio",
        cnn.AudioNet,
        lambda g, b, n: ((normal(g, b, 1, n),), {}),
        "cnn",
        "audio",
        dynamic={"x": {0: BATCH, 2: LENGTH}},
        ranges={LENGTH: (64, 4096)},
        length=128,
    ),
    entry("video", cnn.VideoNet, lambda g, b, n: ((normal(g, b, 2, 4, 16, 16),), {}), "cnn", dynamic=X),
]

# At the size that benchmarks are quoted for.
LARGE = [
    cnn_entry("resnet18", lambda: cnn.ResNet(cnn.BasicBlock, (2, 2, 2, 2)), "large", size=224),
    cnn_entry("resnet50", lambda: cnn.ResNet(cnn.Bottleneck, (3, 4, 6, 3)), "large", size=224),
    cnn_entry("mobilenet-v2", cnn.MobileNetV2, "large", size=224),
    entry("vit-small", lambda: sequence.VisionTransformer(384, 6), images(3, 224), "vision", "large", dynamic=X),
    entry("vit-base", lambda: sequence.VisionTransformer(768, 12), images(3, 224), "vision", "large", dynamic=X),
]

# torch.export keeps an LSTM or GRU whole, but running its decomposition on fake tensors fixes the length.
SEQUENCE = [
    entry(
        "lstm",
        lambda: sequence.RecurrentClassifier(nn.LSTM),
        ids,
        "recurrent",
        dynamic={"ids": {0: BATCH}},
        length=9,
    ),
    entry(
        "gru",
        lambda: sequence.RecurrentClassifier(nn.GRU),
        ids,
        "recurrent",
        dynamic={"ids": {0: BATCH}},
        length=9,
    ),
    entry(
        "stateful-lstm",
        sequence.StatefulLSTM,
        lambda g, b, n: ((normal(g, n, b, 8), (normal(g, 1, b, 12), normal(g, 1, b, 12))), {}),
        "recurrent",
        dynamic={"x": {1: BATCH}, "state": ({1: BATCH}, {1: BATCH})},
        length=5,
    ),
    entry(
        "transformer-encoder",
        sequence.EncoderStack,
        lambda g, b, n: ((normal(g, b, n, 32), (torch.arange(n) >= n - 2).expand(b, n).clone()), {}),
        "encoder",
        dynamic={"x": AXES, "padding": AXES},
        ranges={LENGTH: (4, 64)},
        length=8,
    ),
    entry(
        "vit-tiny",
        lambda: sequence.VisionTransformer(32, 4, depth=2, patch=8, size=32, classes=10),
        images(3, 32),
        "vision",
        dynamic=X,
    ),
    entry(
        "recommender",
        sequence.Recommender,
        lambda g, b, n: ((normal(g, b, 5), integers(g, 20, b, 3)), {}),
        dynamic={"numbers": {0: BATCH}, "categories": {0: BATCH}},
    ),
    entry(
        "graph-network",
        sequence.GraphNet,
        lambda g, b, n: ((normal(g, n, 6), integers(g, 5, 2, 3 * n)), {}),
        dynamic={"nodes": {0: LENGTH}, "edges": {1: "edges"}},
        ranges={LENGTH: (5, 64), "edges": (2, 400)},
        length=7,
    ),
    entry(
        "ranker",
        sequence.Ranker,
        lambda g, b, n: ((normal(g, b, n, 6),), {}),
        dynamic={"items": AXES},
        ranges={LENGTH: (4, 64)},
        length=8,
    ),
]

AWKWARD = [
    cnn_entry("multi-output", awkward.MultiOutput, "pytree", size=8),
    entry(
        "nested-input",
        awkward.NestedInput,
        lambda g, b, n: (
            ({"left": normal(g, b, 6), "right": [normal(g, b, 3), normal(g, b, 3)]},),
            {"gain": 0.7},
        ),
        "pytree",
        dynamic={"batch": {"left": {0: BATCH}, "right": [{0: BATCH}, {0: BATCH}]}},
    ),
    entry("tied", awkward.TiedWeights, ids, "tied", dynamic={"ids": AXES}, length=5),
    entry("in-place", awkward.InPlace, rows(8), "mutates", dynamic=X),
    entry(
        "input-mutation",
        awkward.InputMutation,
        lambda g, b, n: ((normal(g, b, 4), normal(g, b, 4)), {}),
        "mutates",
        "mutates-input",
        dynamic={"x": {0: BATCH}, "cache": {0: BATCH}},
    ),
    entry("cond", awkward.Cond, rows(6), "control-flow", dynamic=X),
    entry("while-loop", awkward.WhileLoop, rows(6), "control-flow", dynamic=X),
    entry("data-dependent-shape", awkward.DataDependentShape, rows(5), "data-dependent", dynamic=X),
    entry("noise", awkward.Noise, rows(6), "random", dynamic=X),
    entry("custom-operator", awkward.CustomOperator, rows(6), "custom-op", dynamic=X),
    entry("redundant", awkward.Redundant, rows(6), dynamic=X),
    entry(
        "mixed-types",
        awkward.MixedTypes,
        lambda g, b, n: ((normal(g, b, 4), integers(g, 20, b) - 10), {}),
        dynamic={"x": {0: BATCH}, "counts": {0: BATCH}},
    ),
    entry("activations", awkward.Activations, rows(4), dynamic=X),
    entry("empty", awkward.Empty, rows(4), dynamic=X),
    entry("constant-output", awkward.ConstantOutput, rows(4), dynamic=X),
]

MODELS = [*CONVOLUTIONAL, *LARGE, *SEQUENCE, *AWKWARD]
