"""What became of sparse weights: how they are stored, and what that gained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Lowered:
    """A layer that is stored sparsely. density: its share of weights that are not zero. stored: what is kept of them,
    zeros within blocks included. expected: how many times faster by the model.

    before, after: seconds measured; None where they were not.
    """

    format: str
    density: float
    stored: float
    expected: float
    before: float | None
    after: float | None

    def __str__(self) -> str:
        text = f"{self.format}, {self.density:.1%} of the weights are not zero"
        if self.before is None or self.after is None:
            return f"{text}, {self.expected:.1f} times faster by the model of this machine"
        gain = self.before / self.after
        return f"{text}, {1e3 * self.before:.3g} → {1e3 * self.after:.3g} ms ({gain:.1f} times)"


@dataclass
class SparsityReport:
    """By the names of weights: what was lowered, and why the rest was not."""

    lowered: dict[str, Lowered] = field(default_factory=dict)
    declined: dict[str, str] = field(default_factory=dict)
    fallback: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        lowered = {name: asdict(one) for name, one in self.lowered.items()}
        return {"lowered": lowered, "declined": dict(self.declined), "fallback": self.fallback}

    def notes(self) -> list[str]:
        """A sentence for each layer."""
        found = [f"{name}: {one}" for name, one in self.lowered.items()]
        found += [f"{name} stays dense: {reason}" for name, reason in self.declined.items()]
        if self.fallback is not None:
            found.append(f"{self.fallback}; products run on PyTorch's CSR kernel, convolutions densely")
        return found
