"""English sentences with ratings of their sentiment: the data of the source archive of vaderSentiment (MIT)."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tests.zoo.trained import cache_folder

ARCHIVE = "vaderSentiment-3.3.2.tar.gz"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
KINDS = {
    "tweets": "tweets",
    "films": "movieReviewSnippets",
    "products": "amazonReviewSnippets",
    "editorials": "nytEditorialSnippets",
}


@dataclass(frozen=True)
class Sentence:
    """kind: one of `KINDS`. rating: from -4, negative, to 4."""

    text: str
    rating: float
    kind: str


@lru_cache(maxsize=1)
def labelled_sentences() -> tuple[Sentence, ...]:
    """All 23,703 of them, kind by kind, in the files' order."""
    found = []
    with tarfile.open(_archive()) as outer, tarfile.open(fileobj=outer.extractfile(_INNER)) as inner:
        for kind, stem in KINDS.items():
            file = inner.extractfile(f"hutto_ICWSM_2014/{stem}_GroundTruth.txt")
            assert file is not None
            for line in io.TextIOWrapper(file, "utf-8", errors="replace"):
                _, rating, text = line.rstrip("\n").split("\t", 2)
                found.append(Sentence(text.strip(), float(rating), kind))
    return tuple(found)


def split_sentences(every: int = 4) -> tuple[list[Sentence], list[Sentence]]:
    """What may be calibrated or trained on, and what is held out: one in `every` of each kind."""
    found = labelled_sentences()
    return [s for i, s in enumerate(found) if i % every], [s for i, s in enumerate(found) if not i % every]


def _archive() -> Path:
    """The archive, downloaded once; its content is checked."""
    path = cache_folder() / ARCHIVE
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
            subprocess.run([*command, "-d", folder, "vaderSentiment==3.3.2"], check=True)
            os.replace(Path(folder) / ARCHIVE, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ValueError(f"{path} has the hash {digest}, not that of {ARCHIVE}")
    return path
