"""Passes by name: registration in code, and entry points that are loaded only when asked for."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from graphopt.errors import GraphOptError, PassError, UnknownNameError
from graphopt.passmanager import Pass, get_pass, pass_, pass_names, register_pass
from graphopt.passmanager.decorators import rewrite
from graphopt.passmanager.registry import GROUP, PassRegistry
from graphopt.passmanager.registry import registry as installed
from graphopt.rewrite import aten, var


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PassRegistry:
    """A registry that sees the entry points of a package that was just installed."""
    (tmp_path / "plugin_passes.py").write_text(
        "from dataclasses import dataclass\n"
        "from graphopt.passmanager import Pass, pass_\n"
        "@dataclass(frozen=True)\n"
        "class Shuffle(Pass):\n"
        "    seed: int = 0\n"
        "@pass_\n"
        "def tidy(graph, rewriter): pass\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "plugin_passes", raising=False)
    entries = [
        EntryPoint("shuffle", "plugin_passes:Shuffle", GROUP),
        EntryPoint("tidy", "plugin_passes:tidy", GROUP),
        EntryPoint("number", "plugin_passes:number", GROUP),
        EntryPoint("broken", "plugin_without_such_module:X", GROUP),
    ]
    monkeypatch.setattr("graphopt.passmanager.registry.entry_points", lambda group: entries if group == GROUP else [])
    return PassRegistry()


def test_names_are_listed_without_importing_anything(plugin: PassRegistry) -> None:
    assert plugin.names() == ("broken", "fixpoint", "number", "pipeline", "shuffle", "tidy")
    assert "plugin_passes" not in sys.modules


def test_a_pass_is_loaded_when_asked_for(plugin: PassRegistry) -> None:
    factory = plugin.factory("shuffle")
    assert factory(seed=3).options() == {"seed": 3}  # type: ignore[operator]
    assert "plugin_passes" in sys.modules and plugin.factory("tidy").name == "tidy"


def test_a_plugin_that_does_not_load_is_one_clear_error(plugin: PassRegistry) -> None:
    with pytest.raises(PassError, match="pass 'broken' of a package does not load from 'plugin_without_such_module:X'"):
        plugin.factory("broken")
    with pytest.raises(PassError, match="neither a pass nor makes one"):
        plugin.factory("number")


def test_unknown_names_suggest_near_ones(plugin: PassRegistry) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'shuffle'"):
        plugin.factory("shufle")


def test_registering_classes_passes_and_functions() -> None:
    x = var("x")

    @register_pass
    @dataclass(frozen=True)
    class KitRegistered(Pass):
        depth: int = 1

    @register_pass(name="kit-named")
    @pass_
    def kit_function(graph, rewriter, *, level=2):
        pass

    rule = register_pass(rewrite(aten.neg(aten.neg(x)), name="kit-rule")(lambda x: x))
    try:
        assert {"kit-registered", "kit-named", "kit-rule"} <= set(pass_names())
        assert get_pass("kit-registered", depth=4) == KitRegistered(4)
        assert get_pass("kit-named", level=5).options() == {"level": 5}
        assert get_pass("kit-rule").name == rule.label == "kit-rule"
        with pytest.raises(GraphOptError, match="registered already"):
            register_pass(lambda: KitRegistered(), name="kit-registered")
        with pytest.raises(UnknownNameError, match=r"Unknown option of kit-registered 'dept'. Did you mean 'depth'"):
            get_pass("kit-registered", dept=4)
        with pytest.raises(UnknownNameError, match="has no options"):
            get_pass("kit-rule", x=1)
    finally:
        for name in ("kit-registered", "kit-named", "kit-rule"):
            installed.unregister(name)


def test_the_installed_passes_all_load_under_their_own_names() -> None:
    for name in pass_names():
        assert installed.factory(name).name in (name, ""), name
