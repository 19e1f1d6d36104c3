"""Front ends: models into IR graphs."""

from graphopt.frontends.torch_export import capture, load_archive

__all__ = ["capture", "load_archive"]
