"""A transformer encoder with a mask and a dynamic batch: keyword arguments in, a dictionary out, as in the original.

graphopt bench examples/transformer.py:build -t onnxruntime -t eager
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

import graphopt


def tokens(batch: int, length: int = 16) -> dict[str, Tensor]:
    """Random token ids; the last quarter of every row is padding."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[:, length - length // 4 :] = 0
    return {"input_ids": torch.randint(0, 1000, (batch, length)), "attention_mask": mask}


def build() -> tuple[nn.Module, tuple[()], dict[str, Tensor]]:
    """A small BERT of random weights, and example inputs by name."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1000, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    )
    return BertModel(config).eval(), (), tokens(batch=2)


def main() -> None:
    model, _, inputs = build()
    fast = graphopt.compile(model, kwargs=inputs, target="onnxruntime", dynamic_shapes="batch")
    print(fast.report, end="\n\n")

    for batch in (1, 5):
        call = tokens(batch)
        with torch.no_grad():
            expected = model(**call)
        result = fast(**call)
        torch.testing.assert_close(result.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
        print(f"batch {batch}: a {type(result).__name__}, equal to eager PyTorch's")


if __name__ == "__main__":
    main()
