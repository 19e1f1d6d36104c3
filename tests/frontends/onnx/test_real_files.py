"""Real ONNX files: read whole, and computed as ONNX Runtime computes the original. The benchmark `onnx_real_files.py`
holds exports of twenty transformers to the same."""

from __future__ import annotations

import pytest

from tests.frontends.onnx.agreement import EXPORTERS, RealFile, check, exported, packaged


@pytest.mark.parametrize("file", packaged(), ids=lambda file: file.name)
def test_files_of_packages(file: RealFile) -> None:
    row = check(file)
    assert row.holds, row
    assert row.undone == []


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_an_exported_transformer(exporter: str) -> None:
    row = check(exported("hf-distilbert", exporter))
    assert row.holds, row
    assert row.opaque == row.undone == []
