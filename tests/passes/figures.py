"""What tests of quantization measure: how far outputs are from the original's."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

import graphopt
from tests.zoo.minilm import minilm, tokenize
from tests.zoo.sentences import split_sentences


def decibels(wanted: torch.Tensor, found: torch.Tensor) -> float:
    """The signal-to-noise ratio."""
    return float(10 * torch.log10(wanted.square().sum() / (found - wanted).square().sum()))


def decibels_in_onnxruntime(model: nn.Module, x: torch.Tensor, pipelines: Iterable[str]) -> list[float]:
    """The ratio that each pipeline leaves of a model, calibrated on the first 32 of the inputs, on all of them."""
    found = []
    for passes in pipelines:
        small = graphopt.compile(
            model,
            (x[:4],),
            target="onnxruntime",
            dynamic_shapes="batch",
            passes=passes,
            calibration=x[:32].split(8),
            on_failure="raise",
        )
        with torch.no_grad():
            found.append(decibels(model(x), small(x)))
    return found


def decibels_of_minilm(pipelines: Iterable[str]) -> list[float]:
    """The ratio that each pipeline leaves of MiniLM's embeddings, calibrated and judged on a dozen sentences each."""
    model = minilm()
    known, unknown = split_sentences()
    calibration = [tokenize([sentence.text]) for sentence in known[:: len(known) // 12]]
    held = tokenize([sentence.text for sentence in unknown[:: len(unknown) // 12]])
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=3, max=512)
    found = []
    for passes in pipelines:
        small = graphopt.compile(
            model,
            kwargs=tokenize(["a short one", "and one that is longer"]),
            target="fx",
            trainable=False,
            dynamic_shapes={name: {0: batch, 1: length} for name in held},
            passes=passes,
            calibration=calibration,
            validate=False,
        )
        with torch.no_grad():
            found.append(decibels(model(**held), small(**held)))
    return found
