"""What every writer of files checks first."""

from __future__ import annotations

import os
from pathlib import Path

from graphopt.errors import SerializationError


def replaceable(path: str | os.PathLike[str]) -> Path:
    """Return the file that writing to `path` replaces: behind a symbolic link, what the link points to.

    Raises:
        SerializationError: something other than a regular file is there, as a folder, a device or a pipe.
    """
    given = Path(path)
    target = Path(os.path.realpath(given))
    if target.exists() and not target.is_file():
        raise SerializationError(f"cannot write {given}: what is there is no regular file; choose another name")
    return target
