"""Where a node came from: the model's source line, its module path, and the rules that made it."""

from __future__ import annotations

from typing import NamedTuple


class Location(NamedTuple):
    """The origin of a node.

    file, line: the model's source line, if known. scope: the module path or ONNX node name.
    rules: the rewrite rules that made the node, oldest first.
    """

    file: str = ""
    line: int = 0
    scope: str = ""
    rules: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.file}:{self.line}"] if self.file else []
        if self.scope:
            parts.append(self.scope)
        text = " ".join(parts) or "unknown location"
        return text + "".join(f" <- {rule}" for rule in self.rules)

    def via(self, rule: str) -> Location:
        """Return this location with one more rule; a rule that repeats is recorded once."""
        if not rule or rule in self.rules:
            return self
        return self._replace(rules=(*self.rules, rule))


UNKNOWN = Location()
