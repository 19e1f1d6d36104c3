"""Which engine for which part: a shortest path through (part, engine).

With t(p, e) the seconds of part p alone in engine e, and h(e) what a hand-over takes there,

    cost = Σ t(p, e_p)  −  Σ h(e_p) over neighbours p, p + 1 with e_p = e_(p+1)

for what runs alone is called, and takes and gives its tensors; neighbours in one engine are one part, and do so once.
h(e) is measured: (Σ t(p, e) − t(whole, e)) / (parts − 1), if positive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def hand_over(alone: Sequence[float], whole: float) -> float:
    """Seconds of one hand-over in an engine. alone: of each part. whole: of all parts as one.

    >>> hand_over([2.0, 3.0, 2.0], 5.0)
    1.0
    """
    return max(0.0, (sum(alone) - whole) / max(len(alone) - 1, 1))


def cheapest(alone: Mapping[str, Sequence[float]], over: Mapping[str, float]) -> tuple[list[str], float]:
    """Return the engine of each part, and what that costs.

    alone: by engine the seconds of each part; infinite where it cannot run it. over: seconds of a hand-over.

    >>> cheapest({"a": [1.0, 1.0, 5.0], "b": [4.0, 4.0, 1.0]}, {"a": 0.5, "b": 0.5})
    (['a', 'a', 'b'], 2.5)
    """
    engines = list(alone)
    best: dict[str, tuple[float, list[str]]] = {e: (alone[e][0], [e]) for e in engines}
    for part in range(1, len(alone[engines[0]])):
        step: dict[str, tuple[float, list[str]]] = {}
        for engine in engines:
            cost, path = min(
                ((best[other][0] - (over[engine] if other == engine else 0.0), best[other][1]) for other in engines),
                key=lambda found: found[0],
            )
            step[engine] = cost + alone[engine][part], [*path, engine]
        best = step
    cost, path = min(best.values(), key=lambda found: found[0])
    return path, cost
