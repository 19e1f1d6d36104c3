"""What decomposition is compared on: MiniLM, LeNet, ResNet-8, and a network of ResNet-18's size for speed alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import common  # noqa: F401  (puts the repository root on the path)
import graphopt
from tests.zoo import nets_cnn
from tests.zoo.minilm import minilm, tokenize
from tests.zoo.sentences import split_sentences
from tests.zoo.trained import trained_lenet, trained_resnet8

LAYERS = {
    "MiniLM": ("*attention*", "*intermediate*", "*output.dense*"),
    "LeNet": ("conv2*", "fc1*", "fc2*"),
    "ResNet-8": ("*conv*",),
    "ResNet-18 size": ("layer*conv*",),
}
CONVOLUTIONAL = ("svd", "tucker", "cp", "tensor-train", "spatial")


@dataclass(frozen=True)
class Subject:
    """A network. example: keyword inputs, or one tensor. methods: that are compared on it. trained: or of random
    weights, where errors mean nothing."""

    name: str
    module: nn.Module
    example: Any
    shapes: Any
    calibration: list[Any]
    held_out: Any
    methods: tuple[str, ...]
    trained: bool = True

    @property
    def layers(self) -> list[str]:
        """The globs of the layers that are decomposed, those that fit something."""
        names = [name for name, p in self.module.named_parameters() if p.dim() > 1]
        from fnmatch import filter as matching

        return [glob for glob in LAYERS[self.name] if matching(names, glob)]

    def call(self, model: Callable[..., Any], given: Any) -> Tensor:
        """Run a model on inputs of this subject."""
        with torch.no_grad():
            out = model(**given) if isinstance(given, dict) else model(given)
        assert isinstance(out, Tensor)
        return out

    def compile(self, passes: str, target: str = "fx", **options: Any) -> graphopt.CompiledModel:
        """The network with these passes, given the calibration data. Layers keep their names: no folding before."""
        keywords = isinstance(self.example, dict)
        return graphopt.compile(
            self.module,
            None if keywords else (self.example,),
            self.example if keywords else None,
            target=target,
            passes=passes,
            dynamic_shapes=self.shapes,
            calibration=self.calibration,
            validate=False,
            on_failure="raise",
            **options,
        )

    def decompose(self, how: str) -> str:
        """The pass on the chosen layers. how: its other options."""
        chosen = ", ".join(f'"{glob}"' for glob in self.layers)
        return f"decompose{{layers=[{chosen}], {how}}}"


def subjects(quick: bool, names: list[str] | None = None) -> list[Subject]:
    """All of them, or some."""
    makers = {"MiniLM": _minilm, "LeNet": _lenet, "ResNet-8": _resnet8, "ResNet-18 size": _resnet18}
    return [maker(quick) for name, maker in makers.items() if names is None or name in names]


def _minilm(quick: bool) -> Subject:
    known, unknown = split_sentences()
    count = 64 if quick else 1024
    texts = [sentence.text for sentence in known[:: max(1, len(known) // count)]][:count]
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=3, max=512)
    held = tokenize([sentence.text for sentence in unknown[:: max(1, len(unknown) // 64)]][:64])
    return Subject(
        "MiniLM",
        minilm(),
        tokenize(["a short one", "and one that is longer"]),
        {name: {0: batch, 1: length} for name in held},
        [tokenize(texts[start : start + 32]) for start in range(0, len(texts), 32)],
        held,
        ("svd",),
    )


def _lenet(quick: bool) -> Subject:
    trained = trained_lenet(0)
    data = trained.data
    calibration = list(data.train_images[: 128 if quick else 1024].split(128))
    return Subject("LeNet", trained.module, data.images[:4], "batch", calibration, data.images, CONVOLUTIONAL)


def _resnet8(quick: bool) -> Subject:
    trained = trained_resnet8(0)
    data = trained.data
    calibration = list(data.train_images[: 128 if quick else 1024].split(128))
    return Subject("ResNet-8", trained.module, data.images[:4], "batch", calibration, data.images, CONVOLUTIONAL)


def _resnet18(quick: bool) -> Subject:
    torch.manual_seed(0)
    size = 64 if quick else 224
    module = nets_cnn.ResNet(nets_cnn.BasicBlock, (2, 2, 2, 2)).eval()
    images = torch.randn(2, 3, size, size)
    methods = ("svd", "tucker", "spatial")
    return Subject("ResNet-18 size", module, images[:1], None, [images[:1]], images[:1], methods, trained=False)
