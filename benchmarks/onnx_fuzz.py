"""Damaged ONNX files: each is answered with a model or with a GraphOptError, in bounded time and memory.

Files that packages ship, the largest in pieces, and exports of small transformers are mutated
(`graphopt.testing.onnx_mutations`). Each damaged file is read, optimized for one of the targets onnx, fx and
onnxruntime, written as an ONNX model and emitted as an FX module; every fourth case validates each pass with numbers,
and those for ONNX Runtime are validated in any case. An answer is all of that.

One process loads the files; it forks a child for some cases at a time, with limited memory. A child that dies or takes
too long over a case is a failure of that case, as is any exception but a GraphOptError. Case N is the same in every
run: `--only N` repeats it. With `--log FILE` the outcomes are kept as they come: a run that was stopped goes on where
it ended, and only failures are tried again.

    python benchmarks/onnx_fuzz.py --cases 10000 --json FILE
"""

from __future__ import annotations

import collections
import functools
import gc
import json
import os
import random
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from onnx_files import find

from common import ROOT, parse_args, print_table, set_threads, write_json

MEMORY = 4 * 2**30
"""Bytes that a case may add to those of the loaded packages and files."""
BATCH = 40
"""Cases of a child."""
PATIENCE = 10
"""Times its processor time that a case may take by the clock: others may use the machine too."""
EXPORTS = ("hf-bert/script", "hf-t5/script", "hf-bert/dynamo", "hf-llama/dynamo", "hf-gpt2/dynamo")
TARGETS = ("onnx", "fx", "onnxruntime")
LARGE, PIECE = 10_000_000, 150
"""Files of more bytes are cut into pieces of so many nodes: a case's time is to be that of the compiler."""
STATUSES = ("answered", "refused", "failed")


@dataclass(frozen=True)
class Outcome:
    """What became of a case. seconds: of processor time. text: of the error; empty for an answer."""

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
        ("--seconds", {"type": float, "default": 60.0, "help": "processor time that a case may take"}),
        ("--log", {"type": Path, "help": "a file of the outcomes so far, to go on with"}),
        ("--folder", {"type": Path, "default": ROOT / "build" / "onnx_peers", "help": "where exports are kept"}),
    )
    set_threads(1)  # threads do not survive a fork
    files = models(options.folder)
    if options.only is not None:
        print(outcome_of(options.only, files, raises=True))
        return
    warm_up(files)
    count = min(options.cases, 200) if options.quick else options.cases
    report(all_outcomes(range(options.first, options.first + count), files, options), options.json)


def all_outcomes(cases: range, files: dict[str, Any], options: Any) -> list[Outcome]:
    """The outcomes of cases: those of the log, and the others as they come."""
    found = {o.case: o for o in logged(options.log) if o.case in cases and o.status != "failed"}
    missing = [case for case in cases if case not in found]
    with open(options.log or os.devnull, "a") as log:
        for outcome in outcomes(missing, files, options.seconds):
            found[outcome.case] = outcome
            print(json.dumps(asdict(outcome)), file=log, flush=True)
            if outcome.status == "failed":
                print(line_of(outcome), flush=True)
            if len(found) % 1000 == 0:
                print(f"{len(found)} of {len(cases)} cases", flush=True)
    return [found[case] for case in cases]


def logged(path: Path | None) -> list[Outcome]:
    """The outcomes of earlier runs; the last one of a case counts."""
    lines = path.read_text().splitlines() if path is not None and path.exists() else []
    return list({o.case: o for o in (Outcome(**json.loads(line)) for line in lines)}.values())


def report(found: list[Outcome], path: Path | None) -> None:
    """Print what became of the cases, by file and by mutation."""
    tables: dict[str, dict[str, collections.Counter[str]]] = {}
    for title, key in (("file", lambda o: [o.file]), ("mutation", lambda o: o.mutations.split("+"))):
        counts = tables[title] = collections.defaultdict(collections.Counter)
        for outcome in found:
            for name in key(outcome):
                counts[name][outcome.status] += 1
        rows = [[name, sum(c.values()), *[c[s] for s in STATUSES]] for name, c in sorted(counts.items())]
        print_table(f"Damaged files, by {title}", [title, "cases", *STATUSES], rows)
    total = {status: sum(outcome.status == status for outcome in found) for status in STATUSES}
    slowest = max(found, key=lambda o: o.seconds)
    failures = [outcome for outcome in found if outcome.status == "failed"]
    for outcome in failures[:50]:
        print(line_of(outcome))
    print(
        f"{len(found)} cases: {total['answered']} answers, {total['refused']} errors, {total['failed']} failures; "
        f"slowest {slowest.seconds:.1f} s (case {slowest.case})"
    )
    results = {"cases": len(found), "counts": total, **tables, "failures": failures, "slowest": slowest}
    write_json(path, "onnx_fuzz", results)
    sys.exit(1 if failures else 0)


def line_of(outcome: Outcome) -> str:
    return f"case {outcome.case} ({outcome.file}: {outcome.mutations}): {outcome.text}"


# The parent


def outcomes(cases: Sequence[int], files: dict[str, Any], seconds: float) -> Iterator[Outcome]:
    """Run cases in children; one that dies or hangs is replaced."""
    pending = collections.deque(cases)
    while pending:
        batch = [pending[i] for i in range(min(BATCH, len(pending)))]
        child, answers = start_child(batch, files, seconds)
        with os.fdopen(answers) as stream:
            for case in batch:
                line = next_line(stream, PATIENCE * seconds)
                pending.popleft()
                if line:
                    yield Outcome(**json.loads(line))
                    continue
                os.kill(child, signal.SIGKILL)  # it may have ended by itself, and waits for being asked how
                yield lost_outcome(case, files, os.waitpid(child, 0)[1])
                break
            else:
                os.waitpid(child, 0)


def start_child(batch: Sequence[int], files: dict[str, Any], seconds: float) -> tuple[int, int]:
    """Fork a child that runs cases; returns its number, and where it writes a line for each."""
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    os.close(reading)
    status = 1
    try:
        work(batch, files, seconds, writing)
        status = 0
    finally:
        os._exit(status)


def next_line(stream: IO[str], seconds: float) -> str | None:
    """A line; "" at the end, None if none comes in time."""
    ready, _, _ = select.select([stream], [], [], seconds)
    return stream.readline() if ready else None


def lost_outcome(case: int, files: dict[str, Any], status: int) -> Outcome:
    """What is said of a case that ended its process, or had to be ended with it."""
    name, mutations, _ = damaged(case, files)
    code = os.waitstatus_to_exitcode(status)
    reasons = {-signal.SIGPROF: "no answer in time", -signal.SIGKILL: "no answer, and no work on one"}
    return Outcome(case, "failed", name, "+".join(mutations), 0.0, reasons.get(code, f"the process ended with {code}"))


def warm_up(files: dict[str, Any]) -> None:
    """Load what cases load, once; the sound files must be answered."""
    import onnxruntime  # noqa: F401

    for name, model in files.items():
        status, text = answer_of(model.SerializeToString(), case=1, raises=True)  # for FX
        if status != "answered":
            raise SystemExit(f"{name}, which is not damaged: {text}")
    gc.collect()
    gc.freeze()  # so that the children's collections leave the shared pages alone
    gc.set_threshold(20_000, 20, 20)


# A child


def work(batch: Sequence[int], files: dict[str, Any], seconds: float, writing: int) -> None:
    """Run cases, and write a line for each. A case that takes too long ends the process."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # what engines print
    os.dup2(silence, 2)
    with os.fdopen(writing, "w") as answers:
        for case in batch:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            print(json.dumps(asdict(outcome_of(case, files))), file=answers, flush=True)


def outcome_of(case: int, files: dict[str, Any], raises: bool = False) -> Outcome:
    """Damage a file, and compile it."""
    start = time.process_time()
    name, mutations, data = damaged(case, files)
    status, text = answer_of(data, case, raises)
    return Outcome(case, status, name, "+".join(mutations), time.process_time() - start, text)


def damaged(case: int, files: dict[str, Any]) -> tuple[str, list[str], bytes]:
    """The name of a case's file, its mutations, and its bytes."""
    from graphopt.testing.onnx_mutations import mutate

    generator = random.Random(case)
    name = generator.choice(list(files))
    return name, *mutate(files[name], generator)


def answer_of(data: bytes, case: int, raises: bool) -> tuple[str, str]:
    """What becomes of a file: a status, and the text of the error."""
    import graphopt

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile_all(data, case)
    except graphopt.GraphOptError as error:
        return "refused", str(error)[:300]
    except Exception as error:
        if raises:
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "failed", f"{type(error).__name__}: {str(error)[:200]} ({place.filename}:{place.lineno})"
    return "answered", ""


def compile_all(data: bytes, case: int) -> None:
    """Compile a file for the target of the case, write it, and emit its module."""
    import graphopt

    target = TARGETS[case % len(TARGETS)]
    validate: dict[str, Any] = {"validate": "each"} if case % 4 == 0 else {"validate": False}
    compiled = graphopt.compile(data, target=target, **({} if target == "onnxruntime" and case % 4 else validate))
    compiled.to_onnx()
    compiled.module  # noqa: B018 - it is emitted when it is asked for


@functools.cache
def models(folder: Path) -> dict[str, Any]:
    """The models that are damaged, by name: of files that packages ship, and of exports."""
    import onnx

    from tests.frontends.onnx.real_files import paths

    found = {}
    for path in paths():
        model = onnx.load(path)
        parts = pieces(model, PIECE) if path.stat().st_size > LARGE else [model]
        found |= {f"{path.name}{f'[{i}]' if len(parts) > 1 else ''}": part for i, part in enumerate(parts)}
    for name in EXPORTS:
        file = find(name, folder)
        if isinstance(file, str):
            raise SystemExit(f"{name}: {file}")
        found[name] = onnx.load(file.path)
    return found


def pieces(model: Any, count: int) -> list[Any]:
    """Models of `count` successive nodes of a model each."""
    import onnx
    from onnx.utils import Extractor

    inferred = onnx.shape_inference.infer_shapes(model)
    inputs = {value.name for value in inferred.graph.input}
    typed = inputs | {v.name for v in (*inferred.graph.value_info, *inferred.graph.output)}
    nodes = inferred.graph.node
    found = []
    for start in range(0, len(nodes), count):
        part, rest = nodes[start : start + count], nodes[start + count :]
        made = {name for node in part for name in node.output}
        read = {name for node in part for name in node.input} - made
        later = {name for node in rest for name in node.input} | {value.name for value in inferred.graph.output}
        earlier = {name for node in nodes[:start] for name in node.output} | inputs
        found.append(Extractor(inferred).extract_model(sorted(read & earlier & typed), sorted(made & later & typed)))
    return found


if __name__ == "__main__":
    main()
