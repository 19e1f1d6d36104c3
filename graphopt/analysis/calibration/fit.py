"""From samples to times.

    t = a + b · FLOPs + c · bytes,  a, b, c ≥ 0            fitted by relative error, for each operator

An operator with few samples takes the curve of its family, times its own mean ratio to it. What near samples deviate
from the curve by corrects it: kernels have thresholds that no line follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.calibration.samples import Sample

ENOUGH = 5
"""Samples of different sizes from which an operator has a curve of its own."""
NEAREST = 4
WIDTH = 0.35
"""Samples count by exp(−(distance / WIDTH)²), distance in e-folds of FLOPs, bytes and width."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """a, b, c, and the samples with the logarithm of what each took over what the curve says."""

    coefficients: tuple[float, float, float]
    points: Floats
    residuals: Floats

    def seconds(self, sample: Sample) -> float:
        """The time by the curve and its near samples."""
        a, b, c = self.coefficients
        base = a + b * sample.flops + c * sample.bytes
        if not len(self.points):
            return base
        distance = ((self.points - _place(sample)) ** 2).sum(axis=1)
        near = np.argsort(distance, kind="stable")[:NEAREST]
        weights = np.exp(-distance[near] / WIDTH**2)
        return base * exp(float((weights * self.residuals[near]).sum() / (weights.sum() + 0.05)))


class Fit:
    """Curves by operator and by family."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._by_key: dict[str, list[Sample]] = {}
        by_family: dict[str, list[Sample]] = {}
        for sample in samples:
            self._by_key.setdefault(sample.key, []).append(sample)
            by_family.setdefault(sample.family, []).append(sample)
        everything = [sample for group in by_family.values() for sample in group]
        self._all = curve(everything)
        self._families = {
            name: curve(group) if len(group) >= ENOUGH else self._all for name, group in by_family.items()
        }
        self._curves: dict[str, Curve] = {}

    def seconds(self, sample: Sample) -> float:
        """The time of something with the key, family, FLOPs and bytes of a sample."""
        found = self._curves.get(sample.key)
        if found is None:
            found = self._curves[sample.key] = self._curve(sample)
        return found.seconds(sample)

    def _curve(self, sample: Sample) -> Curve:
        own = self._by_key.get(sample.key, [])
        if len({(s.flops, s.bytes) for s in own}) >= ENOUGH:
            return curve(own)
        a, b, c = self._families.get(sample.family, self._all).coefficients
        if not own:
            return Curve((a, b, c), np.zeros((0, 3)), np.zeros(0))
        ratio = exp(float(np.mean([log(s.seconds / (a + b * s.flops + c * s.bytes)) for s in own])))
        return _with_residuals((a * ratio, b * ratio, c * ratio), own)


def curve(samples: Sequence[Sample]) -> Curve:
    """Fit a curve, each sample weighted by one over its time."""
    from scipy.optimize import nnls

    times = np.array([s.seconds for s in samples])
    features = np.array([[1.0, s.flops, s.bytes] for s in samples])
    scale = features.max(axis=0)
    scale[scale == 0] = 1.0
    found, _ = nnls(features / scale / times[:, None], np.ones(len(samples)))
    a, b, c = (float(v) for v in found / scale)
    floor = float(times.min()) * 0.5
    return _with_residuals((max(a, floor), b, c), samples)


def _with_residuals(coefficients: tuple[float, float, float], samples: Sequence[Sample]) -> Curve:
    a, b, c = coefficients
    points = np.array([_place(s) for s in samples])
    residuals = np.array([log(s.seconds / (a + b * s.flops + c * s.bytes)) for s in samples])
    return Curve(coefficients, points, residuals)


def _place(sample: Sample) -> Floats:
    return np.log(np.array([sample.flops + 1e3, sample.bytes + 1e3, sample.width + 1.0]))
