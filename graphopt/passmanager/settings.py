"""How a pass manager checks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from graphopt.passmanager.budget import Budget


@dataclass(frozen=True)
class Settings:
    """See `PassManager`.

    full: verify everything after each pass, and doubt what passes say of themselves.
    explain: what is done about a failure: "no" only says that there is one, "locate" finds the application of a rule,
        "bisect" shrinks the graph, too, and writes a reproducer.
    """

    validate: Literal["each", "end", False] = "each"
    on_failure: Literal["rollback", "raise"] = "rollback"
    budget: Budget | None = None
    full: bool = False
    reproducers: Path | None = None
    explain: Literal["no", "locate", "bisect"] = "locate"

    def thorough(self) -> Settings:
        """Return these settings with every check after each pass."""
        return replace(self, full=True, validate="each" if self.validate else False)
