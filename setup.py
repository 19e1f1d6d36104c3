"""Finds the packages; everything else is declared in pyproject.toml.

The folders ``passes/`` and ``backends/`` install as ``graphopt.passes`` and ``graphopt.backends``, which
the declarative package finder cannot express. Finding them here means that a new subpackage needs no entry.
"""

from __future__ import annotations

from setuptools import find_packages, setup

ROOTS = {"graphopt": "graphopt", "graphopt.passes": "passes", "graphopt.backends": "backends"}


def packages() -> list[str]:
    """Every importable package name of the distribution."""
    found = []
    for name, folder in ROOTS.items():
        found.append(name)
        found.extend(f"{name}.{sub}" for sub in find_packages(folder))
    return sorted(set(found))


if __name__ == "__main__":
    setup(packages=packages(), package_dir=ROOTS)
