"""The rank of a noisy matrix by empirical variational Bayes: the global analytic solution (Nakajima et al., 2013).

For Y: L × M with L ≤ M, singular values γ, α = L / M and τ = 2.5129 √α, all components with

    γ_h > √(M σ² x̲),     x̲ = (1 + τ)(1 + α / τ)

are signal, and the others noise of variance σ². Where σ² is not known, it minimizes the free energy (up to constants)

    Ω(σ²) = Σ_h [ω(γ_h² / (M σ²))] ,   ω(x) = x − log x                                                   for x ≤ x̲
                                       ω(x) = x − τ(x) + log((τ(x) + 1) / x) + α log(τ(x) / α + 1)        for x > x̲

with τ(x) = (x − 1 − α + √((x − 1 − α)² − 4 α)) / 2.
"""

from __future__ import annotations

import math

import numpy as np

_TAU = 2.5129


def evbmf_rank(singular_values: np.ndarray, rows: int, columns: int) -> int:
    """Return the number of components that are no noise.

    singular_values: all min(rows, columns) of them.

    >>> rng = np.random.default_rng(0)
    >>> signal = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 100))
    >>> noisy = signal + 0.5 * rng.normal(size=signal.shape)
    >>> evbmf_rank(np.linalg.svd(noisy, compute_uv=False), 60, 100)
    5
    """
    low, high = min(rows, columns), max(rows, columns)
    squares = np.sort(np.asarray(singular_values, dtype=np.float64))[::-1][:low] ** 2
    if not squares.size or squares[0] <= 0:
        return 0
    variance = noise_variance(squares, low, high)
    threshold = high * variance * _edge(low / high)
    return int((squares > threshold).sum())


def noise_variance(squares: np.ndarray, low: int, high: int) -> float:
    """The variance of the noise that minimizes the free energy. squares: of singular values, from the largest on."""
    from scipy.optimize import minimize_scalar

    alpha = low / high
    edge = _edge(alpha)
    index = min(math.ceil(low / (1 + alpha)) - 1, len(squares) - 1)
    upper = float(squares.sum()) / (low * high)
    lower = max(float(squares[index]) / (high * edge), float(squares[index:].mean()) / high)
    lower = max(lower, 1e-12 * upper)
    if lower >= upper:
        return upper
    found = minimize_scalar(
        lambda s: free_energy(math.exp(s), squares, low, high),
        bounds=(math.log(lower), math.log(upper)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(float(found.x))


def free_energy(variance: float, squares: np.ndarray, low: int, high: int) -> float:
    """Ω(σ²), up to constants."""
    alpha = low / high
    edge = _edge(alpha)
    x = np.maximum(squares / (high * variance), 1e-300)
    noise, signal = x[x <= edge], x[x > edge]
    spread = signal - 1 - alpha
    tau = (spread + np.sqrt(np.maximum(spread**2 - 4 * alpha, 0.0))) / 2
    found = float((noise - np.log(noise)).sum())
    return found + float((signal - tau + np.log((tau + 1) / signal) + alpha * np.log(tau / alpha + 1)).sum())


def _edge(alpha: float) -> float:
    tau = _TAU * math.sqrt(alpha)
    return (1 + tau) * (1 + alpha / tau)
