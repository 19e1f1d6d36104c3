"""Counts of n-grams, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.frontends.onnx import read_onnx
from tests.frontends.onnx.oracle import agrees, one_node

POOL: dict[str, Any] = {
    "pool_int64s": [0, 1, 2, 3, 0, 1, 1, 2, 0, 1, 2, 2, 1, 0],  # four items, two pairs, two triples
    "ngram_counts": [0, 4, 8],
    "ngram_indexes": [3, 0, 1, 2, 5, 4, 6, 7],
}


@given(
    shape=st.sampled_from([(9,), (3, 9), (2, 2), (1,)]),
    lengths=st.sampled_from([(1, 1), (1, 2), (2, 2), (1, 3), (3, 3)]),
    skips=st.integers(0, 4),
    mode=st.sampled_from(["TF", "IDF", "TFIDF"]),
    weighted=st.booleans(),
    narrow=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_counts(
    shape: tuple[int, ...], lengths: tuple[int, int], skips: int, mode: str, weighted: bool, narrow: bool
) -> None:
    x = np.random.default_rng(sum(shape)).integers(0, 4, shape).astype(np.int32 if narrow else np.int64)
    attributes = POOL | {"min_gram_length": lengths[0], "max_gram_length": lengths[1], "max_skip_count": skips}
    attributes |= {"mode": mode} | ({"weights": [float(i + 1) for i in range(8)]} if weighted else {})
    sizes = {"x": ["rows", shape[1]]} if len(shape) == 2 else {}
    graph = agrees(one_node("TfIdfVectorizer", {"x": x}, attributes, 9, {}, sizes), {"x": x})
    assert not [node for node in graph if node.op.name.startswith("onnx.")]


@pytest.mark.parametrize("longest", [1, 2])
def test_rows_of_unknown_length(longest: int) -> None:
    x = np.array([0, 1, 1, 2])
    attributes = POOL | {"min_gram_length": 1, "max_gram_length": longest, "max_skip_count": 0, "mode": "TF"}
    model = one_node("TfIdfVectorizer", {"x": x}, attributes, 9, {}, {"x": ["n"]})
    kept = [node.op.name for node in read_onnx(model) if node.op.name.startswith("onnx.")]
    assert bool(kept) is (longest > 1)
    agrees(model, {"x": x})
