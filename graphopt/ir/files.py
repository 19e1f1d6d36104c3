"""What every writer of files does: it checks what is there, and replaces it only once all is written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

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


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that replaces it only once everything is written.

    Raises:
        SerializationError: the file cannot be written; `path` is as it was.
    """
    final = replaceable(path)
    temporary: str | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=final.parent, prefix=f".{final.name}.", delete=False) as file:
            temporary = file.name
            yield file
            file.flush()
            os.fsync(file.fileno())
        _set_mode(temporary, final)
        os.replace(temporary, final)
        temporary = None
    except OSError as error:
        raise SerializationError(f"cannot write {final}: {error.strerror or error}") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _set_mode(temporary: str, final: Path) -> None:
    """Give the file the permissions of the one it replaces, else those of any new file."""
    if final.exists():
        mode = final.stat().st_mode & 0o777
    else:
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    os.chmod(temporary, mode)
