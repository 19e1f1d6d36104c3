"""What static quantization is compared on: trained networks, calibration data, and held-out data with labels.

Every input is a dict by name, and every model gives logits. A seed chooses the trained weights where they are trained
here, and else the calibration data.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

import common  # noqa: F401  (puts the repository root on the path)
import graphopt
from tests.zoo.minilm import minilm, tokenize
from tests.zoo.nets_cnn import InvertedResidual, conv_bn
from tests.zoo.sentences import labelled_sentences
from tests.zoo.trained import Dataset, cache_folder, cached, mnist, trained_lenet, trained_resnet8

CALIBRATION = 256
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Subject:
    """A network and its data.

    example: inputs to capture it with. shapes: its dynamic dims. calibration: samples. batched: the same, by the name
    of their batches: with one sample in each, with 64, and with all. held_out: batches. transformer: what some tools
    want to be told.
    """

    name: str
    model: nn.Module | onnx.ModelProto
    example: Batch
    shapes: Any
    calibration: list[Batch]
    batched: dict[str, list[Batch]]
    held_out: list[Batch]
    labels: Tensor
    transformer: bool = False

    def compile(self, target: str = "onnx", passes: str = "default") -> graphopt.CompiledModel:
        """The network for a target, its passes given the calibration data."""
        return graphopt.compile(
            self.model,
            None if isinstance(self.model, onnx.ModelProto) else (),
            None if isinstance(self.model, onnx.ModelProto) else self.example,
            target=target,
            passes=passes,
            dynamic_shapes=self.shapes,
            calibration=self.calibration,
            on_failure="raise",
        )


class MobileNet(nn.Module):
    """Inverted residuals for images of 28×28: depthwise convolutions are the hard case."""

    def __init__(self) -> None:
        super().__init__()
        widths = ((16, 16, 1, 1), (16, 24, 2, 4), (24, 24, 1, 4), (24, 32, 2, 4), (32, 32, 1, 4))
        blocks = [InvertedResidual(inputs, outputs, stride, expand) for inputs, outputs, stride, expand in widths]
        self.features = nn.Sequential(
            *conv_bn(1, 16, 3, 2), nn.ReLU6(), *blocks, *conv_bn(32, 64, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1)
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


def _images(name: str, model: nn.Module, data: Dataset) -> Subject:
    calibration = [{"x": x} for x in data.train_images[:CALIBRATION].split(1)]
    held_out = [{"x": x} for x in data.images.split(100)]
    batched = _batched(lambda start, stop: {"x": data.train_images[start:stop]})
    return Subject(name, model, {"x": data.images[:4]}, "batch", calibration, batched, held_out, data.labels)


def _batched(batch: Callable[[int, int], Batch]) -> dict[str, list[Batch]]:
    """Calibration data in batches of several sizes. batch: the samples from a start to a stop."""
    names = {"": 1, ", batches of 64": 64, ", one batch": CALIBRATION}
    return {name: [batch(start, start + size) for start in range(0, CALIBRATION, size)] for name, size in names.items()}


def lenet(seed: int) -> Subject:
    """LeNet with batch norm on MNIST: 1,000 held-out images."""
    trained = trained_lenet(seed)
    return _images("LeNet", trained.module, trained.data)


def resnet8(seed: int) -> Subject:
    """ResNet-8 on digits: 360 held-out images."""
    trained = trained_resnet8(seed)
    return _images("ResNet-8", trained.module, trained.data)


def mobilenet(seed: int) -> Subject:
    """The network on MNIST, about 0.97 on 1,000 held-out images."""
    data = mnist()
    return _images("MobileNet-like", cached("mobilenet", MobileNet, data, epochs=6, seed=seed), data)


class SentenceClassifier(nn.Module):
    """The sentence encoder, and a logistic head on its embeddings."""

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.encoder(input_ids, attention_mask))


def sentences(seed: int) -> Subject:
    """MiniLM and a head trained on rated tweets: 700 held-out ones."""
    known, held_out = _tweets()
    chosen = random.Random(seed).sample(known, CALIBRATION)
    calibration = [tokenize([text]) for text, _ in chosen]
    batches = [tokenize([text for text, _ in held_out[start : start + 50]]) for start in range(0, len(held_out), 50)]
    dims = {0: Dim("batch"), 1: Dim("length", min=3, max=512)}
    shapes = dict.fromkeys(("input_ids", "attention_mask"), dims)
    labels = torch.tensor([label for _, label in held_out])
    batched = _batched(lambda start, stop: tokenize([text for text, _ in chosen[start:stop]]))
    return Subject(
        "MiniLM", _sentence_classifier(), batches[0], shapes, calibration, batched, batches, labels, transformer=True
    )


def _tweets() -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Tweets with 1 for each positive one, else 0; the second list is held out. Ratings near zero are left out."""
    found = [s for s in labelled_sentences() if s.kind == "tweets" and abs(s.rating) >= 0.5]
    rated = [(s.text, int(s.rating > 0)) for s in random.Random(0).sample(found, len(found))]
    return rated[:-700], rated[-700:]


@lru_cache(maxsize=1)
def _sentence_classifier() -> nn.Module:
    """The trained classifier; its head is cached."""
    from safetensors.torch import load_file, save_file

    encoder, head = minilm(), nn.Linear(384, 2)
    path = cache_folder() / "minilm-tweets-head.safetensors"
    if not path.is_file():
        save_file(_trained_head(encoder), path)
    head.load_state_dict(load_file(path))
    return SentenceClassifier(encoder, head).eval()


def _trained_head(encoder: nn.Module) -> dict[str, Tensor]:
    from sklearn.linear_model import LogisticRegression

    known, _ = _tweets()
    with torch.no_grad():
        parts = [encoder(**tokenize([text for text, _ in known[i : i + 64]])) for i in range(0, len(known), 64)]
    fitted = LogisticRegression(C=10.0, max_iter=1000).fit(torch.cat(parts).numpy(), [label for _, label in known])
    weight, bias = torch.from_numpy(fitted.coef_[0]).float() / 2, float(fitted.intercept_[0]) / 2
    return {"weight": torch.stack([-weight, weight]), "bias": torch.tensor([-bias, bias])}


def direction(seed: int) -> Subject:
    """PP-OCR's classifier of text direction on drawn lines of text, every second one upside down."""
    images, labels = _drawn(CALIBRATION + 600, seed)
    calibration = [{"x": x} for x in images[:CALIBRATION].split(1)]
    held_out = [{"x": x} for x in images[CALIBRATION:].split(50)]
    batched = _batched(lambda start, stop: {"x": images[start:stop]})
    labels = labels[CALIBRATION:]
    return Subject("PP-OCR direction", _without_softmax(), {}, None, calibration, batched, held_out, labels)


def _without_softmax() -> onnx.ModelProto:
    """The file up to its logits."""
    spec = find_spec("rapidocr")
    assert spec is not None and spec.origin is not None, "the direction classifier needs `pip install rapidocr`"
    model = onnx.load(Path(spec.origin).parent / "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx")
    last = max(index for index, node in enumerate(model.graph.node) if node.op_type == "Softmax")
    model.graph.output[0].name = model.graph.node[last].input[0]
    del model.graph.node[last:]
    return model


def _drawn(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Lines of text 48×192 as the classifier wants them, and 1 for each that is upside down."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    choice = random.Random(1000 + seed)
    texts = [text for text, _ in _tweets()[0]]
    fonts = sorted(map(str, Path(matplotlib.get_data_path(), "fonts/ttf").glob("DejaVu*[!y].ttf")))
    noise = torch.Generator().manual_seed(seed)
    images, labels = [], []
    for index in range(count):
        text = choice.choice(texts)
        start = choice.randrange(max(1, len(text) - 12))
        ink, paper = choice.sample([choice.randrange(0, 90), choice.randrange(150, 256)], 2)
        image = Image.new("RGB", (192, 48), (paper,) * 3)
        font = ImageFont.truetype(choice.choice(fonts), choice.randrange(20, 36))
        corner = choice.randrange(-4, 12), choice.randrange(0, 12)
        ImageDraw.Draw(image).text(corner, text[start:], fill=(ink,) * 3, font=font)
        image = image.rotate(180 * (index % 2))
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(48, 192, 3).permute(2, 0, 1)
        pixels = pixels.float() + 8 * torch.randn(3, 48, 192, generator=noise)
        images.append((pixels.clamp(0, 255) / 255 - 0.5) / 0.5)
        labels.append(index % 2)
    return torch.stack(images), torch.tensor(labels)


SUBJECTS: dict[str, Callable[[int], Subject]] = {
    "LeNet": lenet,
    "ResNet-8": resnet8,
    "MobileNet-like": mobilenet,
    "MiniLM": sentences,
    "PP-OCR direction": direction,
}
