"""What a pass did to attentions: how much of the scores is left, and what that gained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

_SHOWN = 4


@dataclass(frozen=True)
class Lowered:
    """An attention that computes a share of its scores. expected: how many times faster by the model of the cost.

    before, after: seconds measured; None where they were not.
    """

    share: float
    expected: float
    before: float | None
    after: float | None

    def __str__(self) -> str:
        if self.before is None or self.after is None:
            return f"{self.share:.1%} of the scores, {self.expected:.1f} times faster by the model of the cost"
        gain = self.before / self.after
        return f"{self.share:.1%} of the scores, {1e3 * self.before:.3g} → {1e3 * self.after:.3g} ms ({gain:.1f} times)"


@dataclass
class AttentionReport:
    """By the names of results: what was lowered, and why the rest was not."""

    lowered: dict[str, Lowered] = field(default_factory=dict)
    declined: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"lowered": {name: asdict(one) for name, one in self.lowered.items()}, "declined": dict(self.declined)}

    def notes(self) -> list[str]:
        """A sentence for each kind of outcome."""
        found: dict[str, list[str]] = {}
        for name, one in self.lowered.items():
            found.setdefault(str(one), []).append(name)
        for name, reason in self.declined.items():
            found.setdefault(f"left alone: {reason}", []).append(name)
        return [f"{_names(names)}: {text}" for text, names in found.items()]


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"%{name}" for name in names[:_SHOWN]) + more
