from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager's environment variables are unset, whatever the caller's shell says."""
    for name in ("GRAPHOPT_VERIFY", "GRAPHOPT_LOG", "GRAPHOPT_BISECT_MAX", "GRAPHOPT_DUMP", "GRAPHOPT_REPRODUCERS"):
        monkeypatch.delenv(name, raising=False)
