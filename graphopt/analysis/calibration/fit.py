"""From samples to times.

    t = (a + b · FLOPs + c · bytes) · exp(r),   a, b, c ≥ 0

For each operator a, b, c are fitted by relative error. What is left is a Gaussian process r of the logarithms of FLOPs,
bytes, width, and how long ago the operator ran last (kernels have thresholds that no line follows, and one that ran
just before is still in the caches):

    r(x) = m + k(x, X) (k(X, X) + σ² I)⁻¹ (R − m),   k(x, y) = α exp(−‖x − y‖² / 2ℓ²)

with R the logarithms of what samples X took over the line, and m their mean. An operator with few samples takes the
line of a wider kind: without overload and layout, then of its family, then of all; one without samples their process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.calibration.samples import Sample, operator_of

ENOUGH = 5
"""Samples of different sizes from which a kind has a line of its own."""
MOST = 400
"""Samples that a process looks at; the newest."""
LENGTH, AMPLITUDE, NOISE = 3.0, 0.3, 0.1
"""ℓ, α and σ²."""

Floats = NDArray[np.float64]
Line = tuple[float, float, float]


class Fit:
    """Times by operator."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._kinds: dict[str, list[Sample]] = {}
        self._everything = list(samples)
        for sample in self._everything:
            for kind in _kinds(sample):
                self._kinds.setdefault(kind, []).append(sample)
        self._lines: dict[str, Line] = {}
        self._processes: dict[str, _Process] = {}

    def seconds(self, sample: Sample) -> float:
        """The time of something with the features of a sample."""
        found = self._processes.get(sample.key)
        if found is None:
            groups = [group for kind in _kinds(sample) if (group := self._kinds.get(kind))]
            nearest = groups[0] if groups else self._everything
            found = self._processes[sample.key] = _Process(self._line(sample), nearest[-MOST:])
        return found.seconds(sample)

    def _line(self, sample: Sample) -> Line:
        for kind in _kinds(sample):
            group = self._kinds.get(kind, [])
            if len({(s.flops, s.bytes) for s in group}) >= ENOUGH:
                return self._known(kind, group)
        return self._known("", self._everything)

    def _known(self, kind: str, group: Sequence[Sample]) -> Line:
        if kind not in self._lines:
            self._lines[kind] = line(group)
        return self._lines[kind]


def _kinds(sample: Sample) -> tuple[str, str, str]:
    """What a sample is grouped by: the kernel, the operator, the family."""
    return sample.key, f"operator {operator_of(sample.key)}", f"family {sample.family}"


class _Process:
    """A line, and the process of what samples deviate from it by."""

    def __init__(self, coefficients: Line, samples: Sequence[Sample]) -> None:
        self._coefficients = coefficients
        self._places = np.array([_place(s) for s in samples])
        left = np.array([log(s.seconds / on_line(coefficients, s)) for s in samples])
        self._mean = float(left.mean())
        covariance = _kernel(self._places, self._places) + NOISE * np.eye(len(samples))
        self._weights = np.asarray(np.linalg.solve(covariance, left - self._mean), dtype=np.float64)

    def seconds(self, sample: Sample) -> float:
        near = _kernel(_place(sample)[None], self._places)[0]
        return on_line(self._coefficients, sample) * exp(self._mean + float(near @ self._weights))


def line(samples: Sequence[Sample]) -> Line:
    """Fit a, b, c, each sample weighted by one over its time."""
    from scipy.optimize import nnls

    times = np.array([s.seconds for s in samples])
    features = np.array([[1.0, s.flops, s.bytes] for s in samples])
    scale = features.max(axis=0)
    scale[scale == 0] = 1.0
    found, _ = nnls(features / scale / times[:, None], np.ones(len(samples)))
    a, b, c = (float(v) for v in found / scale)
    return max(a, float(times.min()) * 0.5), b, c


def on_line(coefficients: Line, sample: Sample) -> float:
    """a + b · FLOPs + c · bytes."""
    a, b, c = coefficients
    return a + b * sample.flops + c * sample.bytes


def _kernel(x: Floats, y: Floats) -> Floats:
    distance = ((x[:, None] - y[None, :]) ** 2).sum(axis=-1)
    return np.asarray(AMPLITUDE * np.exp(-distance / (2 * LENGTH**2)))


def _place(sample: Sample) -> Floats:
    return np.log(np.array([sample.flops + 1e3, sample.bytes + 1e3, sample.width + 1.0, sample.since]))
