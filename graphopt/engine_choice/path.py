"""Which engine for which part: a shortest path through (part, engine).

With t(p, e) the seconds of part p alone in engine e,

    cost = Σ t(p, e_p)  +  Σ over neighbours p, p + 1:   h(e_p, e_(p+1)) if they differ,   −j(e_p) if they are the same

j is what joining saves: neighbours in one engine are one part, which is called once. h is what changing engines costs
beyond that: the threads of the one sleep, those of the other wake. Both are measured:

    j(e) = (Σ t(p, e) − t(whole, e)) / (parts − 1)        h(a, b) = t(p in a, then q in b) − t(p, a) − t(q, b)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def joining(alone: Sequence[float], whole: float) -> float:
    """Seconds that joining two parts in an engine saves. alone: of each part. whole: of all parts as one.

    >>> joining([2.0, 3.0, 2.0], 5.0)
    1.0
    """
    return max(0.0, (sum(alone) - whole) / max(len(alone) - 1, 1))


def cheapest(
    alone: Mapping[str, Sequence[float]], joined: Mapping[str, float], over: Mapping[tuple[str, str], float]
) -> tuple[list[str], float]:
    """Return the engine of each part, and what that costs.

    alone: by engine the seconds of each part; infinite where it cannot run it. joined: what joining saves, by engine.
    over: seconds of a change from one engine to another.

    >>> cheapest({"a": [1.0, 1.0, 5.0], "b": [4.0, 4.0, 1.0]}, {"a": 0.5, "b": 0.5}, {("a", "b"): 0.2, ("b", "a"): 0.2})
    (['a', 'a', 'b'], 2.7)
    """
    engines = list(alone)
    best: dict[str, tuple[float, list[str]]] = {e: (alone[e][0], [e]) for e in engines}
    for part in range(1, len(alone[engines[0]])):
        step: dict[str, tuple[float, list[str]]] = {}
        for engine in engines:
            cost, path = min(
                (
                    (before - joined[engine] if other == engine else before + over[other, engine], path)
                    for other, (before, path) in best.items()
                ),
                key=lambda found: found[0],
            )
            step[engine] = cost + alone[engine][part], [*path, engine]
        best = step
    cost, path = min(best.values(), key=lambda found: found[0])
    return path, cost
