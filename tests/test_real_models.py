"""Models of the zoo, compiled for FX and for ONNX Runtime, agree with eager PyTorch at sizes not captured.

`benchmarks/real_models.py` runs every model at two sizes; here, architectures that differ in kind, at one.
"""

from __future__ import annotations

import pytest

from tests.zoo import MODELS, select
from tests.zoo.agreement import check

TRANSFORMERS = [
    "hf-resnet",
    "hf-mobilenet-v2",
    "hf-convnext",
    "hf-regnet",
    "hf-bit",
    "hf-vit",
    "hf-beit",
    "hf-swin",
    "hf-segformer",
    "hf-levit",
    "hf-detr",
    "hf-bert",
    "hf-distilbert",
    "hf-albert",
    "hf-deberta-v2",
    "hf-gpt2",
    "hf-gpt-neox",
    "hf-bloom",
    "hf-llama",
    "hf-qwen3",
    "hf-gemma2",
    "hf-mixtral",
    "hf-t5",
    "hf-bart",
    "hf-wav2vec2",
    "hf-whisper",
    "hf-clip",
]
OWN = [entry.name for entry in select("own", without=("large",))]


@pytest.mark.parametrize("name", [*TRANSFORMERS, *OWN])
def test_compiled_model_agrees_with_eager(name: str) -> None:
    row = check(MODELS[name], quick=True)
    assert row.holds, (row.worst, row.errors)
