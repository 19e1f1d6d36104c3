"""ONNX files that benchmarks compare tools on: files inside packages, and exports of the zoo by both of PyTorch's
exporters, each with inputs of two sizes. Made once, into a folder."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from common import ROOT

Feeds = dict[str, np.ndarray]
SEEDS = (0, 1, 2)
OPSET = {"script": 16, "dynamo": None}
"""Up to opset 16 the TorchScript-based exporter writes layer norms out."""
EXPORTED = (
    "resnet18",
    "mobilenet-v2",
    "hf-convnext",
    "hf-efficientnet",
    "vit-small",
    "hf-vit",
    "hf-swin",
    "hf-bert",
    "hf-modernbert",
    "hf-gpt2",
    "hf-llama",
    "hf-t5",
    "minilm",
)
PACKAGED = {
    "rapidocr-det": ("rapidocr", "models/PP-OCRv6_det_small.onnx"),
    "rapidocr-cls": ("rapidocr", "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"),
    "rapidocr-rec": ("rapidocr", "models/PP-OCRv6_rec_small.onnx"),
    "silero-vad": ("silero_vad", "data/silero_vad.onnx"),
    "silero-vad-16k": ("silero_vad", "data/silero_vad_16k_op15.onnx"),
    "silero-vad-ifless": ("silero_vad", "data/silero_vad_op18_ifless.onnx"),
}
NAMES = (*PACKAGED, *(f"{name}/{exporter}" for name in EXPORTED for exporter in OPSET))


@dataclass(frozen=True)
class File:
    """An ONNX file. feeds: inputs by seed and size."""

    name: str
    path: Path
    feeds: tuple[Feeds, ...]


def find(name: str, folder: Path) -> File | str:
    """The file of a name, made on demand; or why there is none."""
    if name in PACKAGED:
        package, inside = PACKAGED[name]
        spec = find_spec(package)
        path = Path(spec.submodule_search_locations[0]) / inside if spec and spec.submodule_search_locations else None
        if path is None or not path.exists():
            return f"{package} is not installed, or has no {inside}"
        return File(name, path, tuple(_packaged_feeds(name)))
    stem = folder / name.replace("/", "-")
    path, given = stem.with_suffix(".onnx"), stem.with_suffix(".npz")
    if not given.exists():
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [sys.executable, __file__, name, str(stem)], capture_output=True, text=True, timeout=600, check=False
        )
        if done.returncode:
            return f"the exporter refuses: {(done.stderr.strip().splitlines() or ['no message'])[-1][:150]}"
    return File(name, path, tuple(_stored_feeds(given)))


def _packaged_feeds(name: str) -> Iterator[Feeds]:
    for seed in SEEDS:
        draw = np.random.default_rng(seed).standard_normal
        if name.startswith("rapidocr"):
            sizes = {"det": ((1, 3, 96, 128), (1, 3, 64, 224)), "cls": ((1, 3, 48, 192), (6, 3, 48, 192))}
            for shape in sizes.get(name[9:], ((1, 3, 48, 160), (2, 3, 48, 320))):
                yield {"x": draw(shape).astype(np.float32)}
            continue
        for batch in (1, 3):
            yield {
                "input": (0.1 * draw((batch, 576))).astype(np.float32),
                "state": draw((2, batch, 128)).astype(np.float32),
                "sr": np.array(16000, dtype=np.int64),
            }


def _stored_feeds(path: Path) -> Iterator[Feeds]:
    with np.load(path) as stored:
        for index in range(int(stored["count"])):
            prefix = f"{index}:"
            yield {key[len(prefix) :]: stored[key] for key in stored.files if key.startswith(prefix)}


def export(name: str, stem: Path) -> None:
    """Export a model of the zoo, with a dynamic batch where the exporter can, and store inputs beside it."""
    from tests.frontends.onnx.agreement import Positional
    from tests.zoo import MODELS

    model_name, exporter = name.split("/")
    entry = MODELS[model_name]
    _, leaves, spec = _drawn(entry, 2, 0)
    model = Positional(entry.build(), spec, leaves).eval()
    path = stem.with_suffix(".onnx")
    batches = _export(exporter, model, entry, path)
    stored: dict[str, Any] = {"count": len(batches) * len(SEEDS)}
    for index, (seed, batch) in enumerate((seed, batch) for seed in SEEDS for batch in batches):
        feeds = named_inputs(path, _drawn(entry, batch, seed)[0])
        stored |= {f"{index}:{key}": array for key, array in feeds.items()}
    np.savez(stem.with_suffix(".npz"), **stored)


def named_inputs(path: Path, tensors: list[Any]) -> Feeds:
    """Those of a model's inputs that its file has."""
    import onnx

    given = {f"in{index}": tensor.numpy() for index, tensor in enumerate(tensors)}
    return {v.name: given[v.name] for v in onnx.load(path, load_external_data=False).graph.input}


def _drawn(entry: Any, batch: int, seed: int) -> tuple[list[Any], list[Any], Any]:
    """The tensors among a model's arguments, and all their leaves with the structure."""
    import torch
    from torch.utils import _pytree as pytree

    args, kwargs = entry.inputs(batch=batch, seed=seed)
    tokens = kwargs.get("input_ids", args[0] if args else None)
    if {"text", "transformers"} <= entry.tags and isinstance(tokens, torch.Tensor):
        # Without a mask, the older exporter meets an operator that it does not know.
        kwargs = {"attention_mask": torch.ones_like(tokens), **kwargs}
    leaves, spec = pytree.tree_flatten((args, kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)], leaves, spec


def _export(exporter: str, model: Any, entry: Any, path: Path) -> tuple[int, ...]:
    """Try a dynamic batch, else a static one; the batches that the result takes."""
    tensors = _drawn(entry, 2, 0)[0]
    try:
        _write(exporter, model, tensors, path, dynamic=True)
        return (2, 3) if _runs(path, _drawn(entry, 3, 0)[0]) else (2,)
    except Exception:  # exporters raise what they like; the static form is the second try
        _write(exporter, model, tensors, path, dynamic=False)
        return (2,)


def _runs(path: Path, tensors: list[Any]) -> bool:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    try:
        session.run(None, named_inputs(path, tensors))
    except Exception:  # the file does not take this size
        return False
    return True


def _write(exporter: str, model: Any, tensors: list[Any], path: Path, *, dynamic: bool) -> None:
    import torch

    names = [f"in{index}" for index in range(len(tensors))]
    batched = [bool(dynamic and tensor.dim()) for tensor in tensors]
    options: dict[str, Any] = {"input_names": names}
    if exporter == "dynamo":
        batch = torch.export.Dim("batch")
        shapes = tuple({0: batch} if has_batch else None for has_batch in batched)
        options |= {"dynamo": True, "external_data": False, "optimize": False}
        options |= {"dynamic_shapes": {"tensors": shapes}} if dynamic else {}
    else:
        axes = {name: {0: "batch"} for name, has_batch in zip(names, batched) if has_batch}
        options |= {"dynamo": False, "opset_version": OPSET[exporter], "dynamic_axes": axes}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
        torch.onnx.export(model, tuple(tensors), str(path), verbose=False, **options)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    export(sys.argv[1], Path(sys.argv[2]))
