"""Damaged ONNX files: each is answered with a model or with a GraphOptError, in bounded time and memory.

Files that packages ship are mutated (`graphopt.testing.onnx_mutations`), and compiled to ONNX as the command line does
it. Cases run in workers whose memory is limited; a worker that dies or exceeds the time of a case is a failure, as is
any other exception. Case N is the same in every run: `--only N` repeats it.

    python benchmarks/onnx_fuzz.py --cases 10000
"""

from __future__ import annotations

import collections
import contextlib
import functools
import io
import json
import os
import random
import resource
import select
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import IO

from common import parse_args, print_table, write_json

MEMORY_GB = 6


@dataclass(frozen=True)
class Outcome:
    """What became of a case. text: of the error; empty for an answer."""

    case: int
    status: str
    file: str
    mutations: str
    seconds: float
    text: str = ""


def main() -> None:
    options = parse_args(
        __doc__,
        ("--cases", {"type": int, "default": 10_000, "help": "how many"}),
        ("--first", {"type": int, "default": 0, "help": "number of the first"}),
        ("--only", {"type": int, "help": "one case, in this process, with its traceback"}),
        ("--seconds", {"type": float, "default": 60.0, "help": "time that a case may take"}),
        ("--worker", {"action": "store_true", "help": "read case numbers from the standard input"}),
    )
    if options.worker:
        work()
    elif options.only is not None:
        print(outcome_of(options.only, raises=True))
    else:
        count = min(options.cases, 200) if options.quick else options.cases
        report(list(outcomes(range(options.first, options.first + count), options.seconds)), options.json)


def report(found: list[Outcome], path: str | None) -> None:
    """Print what became of the cases, by file and by mutation."""
    statuses = ("answered", "refused", "failed")
    for title, key in (("file", lambda o: [o.file]), ("mutation", lambda o: o.mutations.split("+"))):
        counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for outcome in found:
            for name in key(outcome):
                counts[name][outcome.status] += 1
        rows = [[name, sum(c.values()), *[c[s] for s in statuses]] for name, c in sorted(counts.items())]
        print_table(f"Damaged files, by {title}", [title, "cases", *statuses], rows)
    total = collections.Counter(outcome.status for outcome in found)
    slowest = max(found, key=lambda o: o.seconds)
    print(f"{len(found)} cases: {dict(total)}; slowest {slowest.seconds:.1f} s (case {slowest.case})")
    failures = [outcome for outcome in found if outcome.status == "failed"]
    for outcome in failures[:50]:
        print(f"case {outcome.case} ({outcome.file}: {outcome.mutations}): {outcome.text}")
    write_json(
        path, "onnx_fuzz", {"cases": len(found), "counts": dict(total), "failures": failures, "slowest": slowest}
    )
    sys.exit(1 if failures else 0)


# The parent


def outcomes(cases: range, seconds: float) -> Iterator[Outcome]:
    """Run cases in a worker, which is started anew when it dies or hangs."""
    pending = collections.deque(cases)
    while pending:
        worker = subprocess.Popen(
            [sys.executable, __file__, "--worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert worker.stdin is not None and worker.stdout is not None
        while pending:
            case = pending.popleft()
            print(case, file=worker.stdin, flush=True)
            line = line_of(worker.stdout, seconds + (30 if case == cases[0] else 0))
            if line is None:
                worker.kill()
                yield Outcome(case, "failed", "", "", seconds, f"hang, or worker ended with {worker.wait()}")
                break
            yield Outcome(**json.loads(line))
        worker.kill()
        worker.wait()


def line_of(stream: IO[str], seconds: float) -> str | None:
    """A line, or None if none comes in time."""
    ready, _, _ = select.select([stream], [], [], seconds)
    return (stream.readline() or None) if ready else None


# The worker


def work() -> None:
    """Answer each case number on the standard input with a line."""
    limit = MEMORY_GB * 2**30
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what engines print does not mix with the answers
    for line in sys.stdin:
        print(json.dumps(asdict(outcome_of(int(line)))), file=answers, flush=True)


def outcome_of(case: int, raises: bool = False) -> Outcome:
    """Damage a file, and compile it."""
    import graphopt
    from graphopt.testing.onnx_mutations import mutate

    generator = random.Random(case)
    name = generator.choice(list(models()))
    mutations, data = mutate(models()[name], generator)
    text, status, start = "", "answered", time.perf_counter()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            graphopt.compile(data, target="onnx", validate="each" if case % 4 == 0 else False)
    except graphopt.GraphOptError as error:
        status, text = "refused", str(error)[:300]
    except Exception as error:
        if raises:
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        status, text = "failed", f"{type(error).__name__}: {str(error)[:200]} ({place.filename}:{place.lineno})"
    return Outcome(case, status, name, "+".join(mutations), time.perf_counter() - start, text)


@functools.cache
def models() -> dict[str, object]:
    """The models of files that packages ship, by name."""
    import onnx

    from tests.frontends.onnx.real_files import paths

    return {path.name: onnx.load(path) for path in paths()}


if __name__ == "__main__":
    main()
