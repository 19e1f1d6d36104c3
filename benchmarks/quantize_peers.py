"""ONNX files quantized by other tools, each at several of its settings, from one fp32 file and one set of samples."""

from __future__ import annotations

import contextlib
import itertools
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
from quantize_subjects import Batch

ONNXRUNTIME_DEFAULT = "ONNX Runtime MinMax per tensor QInt8"
"""What `quantize_static` does unless it is told otherwise."""


def onnxruntimes(
    model: onnx.ModelProto, samples: list[Batch], wanted: Callable[[str], bool]
) -> Iterator[tuple[str, onnx.ModelProto]]:
    """ONNX Runtime's `quantize_static`: calibration methods, scales per channel or not, signed activations or not.

    wanted: which names to run.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{name: x.numpy() for name, x in sample.items()} for sample in samples])

        def get_next(self) -> Any:
            return next(self.batches, None)

    methods = [CalibrationMethod.MinMax, CalibrationMethod.Percentile, CalibrationMethod.Entropy]
    kinds = (QuantType.QInt8, QuantType.QUInt8)
    with tempfile.TemporaryDirectory() as folder:
        plain, made = Path(folder) / "plain.onnx", Path(folder) / "made.onnx"
        onnx.save(model, plain)
        for method, per_channel, kind in itertools.product(methods, (False, True), kinds):
            name = f"ONNX Runtime {method.name} per {'channel' if per_channel else 'tensor'} {kind}"
            if not wanted(name):
                continue
            with _quiet():
                quantize_static(
                    plain, made, Reader(), per_channel=per_channel, activation_type=kind, calibrate_method=method
                )
            yield name, onnx.load(made)


def nncfs(
    model: onnx.ModelProto, samples: list[Batch], transformer: bool, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, onnx.ModelProto | str]]:
    """NNCF's `quantize`, with fast and with full bias correction; nothing where it is not installed.

    Where it raises, the first line of its error.
    """
    if find_spec("nncf") is None:
        return
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # a benchmark sends nothing
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    data = nncf.Dataset([{name: x.numpy() for name, x in sample.items()} for sample in samples])
    presets = [nncf.QuantizationPreset.PERFORMANCE, nncf.QuantizationPreset.MIXED]
    for fast, preset in itertools.product((True, False), presets):
        made: onnx.ModelProto | str
        name = f"NNCF {preset.value}{'' if fast else ', full bias correction'}"
        if not wanted(name):
            continue
        with _quiet():
            try:
                made = nncf.quantize(
                    model,
                    data,
                    preset=preset,
                    subset_size=len(samples),
                    fast_bias_correction=fast,
                    model_type=nncf.ModelType.TRANSFORMER if transformer else None,
                )
            except Exception as error:  # whatever a peer raises is a result, too
                made = str(error).splitlines()[0]
        yield name, made


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the tools' progress bars and warnings."""
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(_Nowhere()):
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)


class _Nowhere:
    """A stream that drops what is written."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass
