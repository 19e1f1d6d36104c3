"""Front ends: models into IR graphs."""

from graphopt.frontends.torch_export import capture

__all__ = ["capture"]
