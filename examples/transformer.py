"""A transformer encoder with a mask and a dynamic batch: keyword arguments in, a dictionary out, as in the original."""

from __future__ import annotations

import torch
from transformers import BertConfig, BertModel

import graphopt


def build() -> tuple[torch.nn.Module, tuple[()], dict[str, torch.Tensor]]:
    """A small BERT of random weights, and example inputs. `graphopt compile examples/transformer.py:build` works too."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1000, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    )
    ids = torch.randint(0, 1000, (2, 16))
    return BertModel(config).eval(), (), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def main() -> None:
    model, _, inputs = build()
    fast = graphopt.compile(model, kwargs=inputs, target="onnxruntime", dynamic_shapes="batch")
    print(fast.report)

    for batch in (1, 5):
        ids = torch.randint(0, 1000, (batch, 16))
        mask = torch.ones_like(ids)
        mask[:, 12:] = 0
        with torch.no_grad():
            expected = model(input_ids=ids, attention_mask=mask)
        result = fast(input_ids=ids, attention_mask=mask)
        torch.testing.assert_close(result["last_hidden_state"], expected["last_hidden_state"], atol=1e-4, rtol=1e-4)
        print(f"batch {batch}: {type(result).__name__}, equal to eager")


if __name__ == "__main__":
    main()
