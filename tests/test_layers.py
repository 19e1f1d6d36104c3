"""The architecture, checked: imports point down only, and importing the package stays cheap."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Folder of the repository -> the package that it installs as.
PACKAGES = {"graphopt": "graphopt", "passes": "graphopt.passes", "backends": "graphopt.backends"}

# Modules directly in graphopt/ that are not named here are the top layer; a new subpackage must be named.
LAYERS = {
    "graphopt.errors": 0,
    "graphopt.ir": 0,
    "graphopt.kernels": 0,
    "graphopt.ops": 1,
    "graphopt.analysis": 2,
    "graphopt.targets": 2,
    "graphopt.rewrite": 3,
    "graphopt.passmanager": 4,
    "graphopt.passes": 5,
    "graphopt.backends": 5,
    "graphopt.frontends": 5,
    "graphopt.cli": 6,
    "graphopt.commands": 6,
    "graphopt.debugging": 6,
    "graphopt.engine_choice": 6,
    "graphopt.html_report": 6,
    "graphopt.serving": 6,
    "graphopt.testing": 6,
}
TOP = 6
SEPARATE = ("graphopt.passes", "graphopt.backends", "graphopt.frontends")

HEAVY = [
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "onnx_graphsurgeon",
    "onnxsim",
    "onnxslim",
    "openvino",
    "tensorly",
    "numba",
    "llvmlite",
    "scipy",
    "networkx",
    "typer",
    "rich",
    "transformers",
    "matplotlib",
    "hypothesis",
    "pytest",
]


@dataclass(frozen=True)
class Import:
    """One import statement, resolved to the dotted name of a module."""

    module: str
    target: str
    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}: {self.module} imports {self.target}"


def source_files() -> Iterator[tuple[str, Path]]:
    """(module name, file) of every module of the package."""
    for folder, package in PACKAGES.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            yield ".".join((package, *parts)), file


MODULES = dict(source_files())


def imported_names(node: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """The dotted modules that one syntax node imports, relative imports resolved."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = module.split(".")
            keep = len(parts) - node.level + (1 if is_package else 0)
            base = ".".join([*parts[:keep], *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            yield inner if inner in MODULES else base
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
            yield node.args[0].value


def imports_of(module: str, file: Path) -> Iterator[Import]:
    """Every import of a file, those inside functions and `if TYPE_CHECKING` included."""
    for node in ast.walk(ast.parse(file.read_text(), filename=str(file))):
        for target in imported_names(node, module, file.name == "__init__.py"):
            yield Import(module, target, file, node.lineno)  # type: ignore[attr-defined]


def within(name: str, package: str) -> bool:
    """Whether `name` is the package or lies in it."""
    return name == package or name.startswith(package + ".")


def layer(module: str) -> int:
    """The layer of a module. The package itself is the top: it would pull in everything."""
    for prefix, level in LAYERS.items():
        if within(module, prefix):
            return level
    if module == "graphopt" or (module.count(".") == 1 and MODULES.get(module, Path()).name != "__init__.py"):
        return TOP
    raise AssertionError(f"{module} has no layer: name it in LAYERS of {Path(__file__).name}")


def own_imports() -> list[Import]:
    """The imports among the package's own modules."""
    return [
        found for name, file in MODULES.items() for found in imports_of(name, file) if within(found.target, "graphopt")
    ]


def test_every_module_has_a_layer() -> None:
    for name in MODULES:
        layer(name)


def test_imports_point_down() -> None:
    upward = [str(found) for found in own_imports() if layer(found.target) > layer(found.module)]
    assert not upward, "upward imports:\n" + "\n".join(upward)


def test_passes_backends_and_frontends_never_import_each_other() -> None:
    def side(module: str) -> str | None:
        return next((package for package in SEPARATE if within(module, package)), None)

    crossing = [
        str(found)
        for found in own_imports()
        if side(found.module) and side(found.target) and side(found.module) != side(found.target)
    ]
    assert not crossing, "passes, backends and frontends import each other:\n" + "\n".join(crossing)


def test_no_import_by_folder_name() -> None:
    folders = [ROOT / name for name in ("graphopt", "passes", "backends", "tests", "benchmarks", "examples")]
    wrong = [
        str(found)
        for folder in folders
        for file in sorted(folder.rglob("*.py"))
        for found in imports_of(".".join(file.relative_to(ROOT).with_suffix("").parts), file)
        if within(found.target, "passes") or within(found.target, "backends")
    ]
    assert not wrong, "import graphopt.passes and graphopt.backends by those names:\n" + "\n".join(wrong)


@pytest.mark.parametrize("folder", ["passes", "backends"])
def test_folder_name_import_is_refused(folder: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"ImportError: import graphopt.{folder}, not {folder}" in done.stderr


def test_resolver_sees_relative_nested_and_dynamic_imports() -> None:
    code = (
        "from ..rewrite import x\nfrom . import y\n"
        "def f():\n    import graphopt.api\n    import_module('graphopt.cli')\n"
    )
    found = [
        name
        for node in ast.walk(ast.parse(code))
        for name in imported_names(node, "graphopt.ir.node", is_package=False)
    ]
    assert sorted(found) == ["graphopt.api", "graphopt.cli", "graphopt.ir", "graphopt.rewrite"]


def test_every_package_folder_is_distributed() -> None:
    declared = runpy.run_path(str(ROOT / "setup.py"), run_name="probe")["packages"]()
    folders = {name for name, file in MODULES.items() if file.name == "__init__.py"}
    assert set(declared) >= folders
    assert len(declared) == len(set(declared))
    homeless = [
        str(file)
        for name, file in MODULES.items()
        if file.name != "__init__.py" and name.rpartition(".")[0] not in folders
    ]
    assert not homeless, f"modules in folders without an __init__.py: {homeless}"


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import graphopt;"
        f"print(*sorted(({set(HEAVY)!r} & set(sys.modules)) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
