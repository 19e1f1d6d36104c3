"""ONNX files that installed packages ship."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("rapidocr", "silero_vad")


def paths() -> list[Path]:
    """Every file, without importing the packages that hold them."""
    found: list[Path] = []
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None and spec.origin is not None, f"{package} is not installed"
        found.extend(sorted(Path(spec.origin).parent.rglob("*.onnx")))
    return found
