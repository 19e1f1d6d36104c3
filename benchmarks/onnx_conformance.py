"""The ONNX project's own tests (`onnx.backend.test`) through graphopt, along two paths; nothing is left out.

- a: ONNX → IR → FX module;
- b: ONNX → IR → default passes → ONNX → ONNX Runtime, with its own graph optimizations off.

A case passes if every output has the type, shape and numbers that the ONNX project asks for, within its tolerances. It
is *unsupported* where graphopt refuses it with an error that says why, and *failed* where anything else comes out. An
opaque node is one that stays an operator of ONNX in the IR, run by ONNX Runtime or by onnx's reference evaluator. Path
b is held to ONNX Runtime on the original file. A case is *plain* if it has no string, sequence or optional, no operator
of classic machine learning or training, and no element type that PyTorch lacks.

    python benchmarks/onnx_conformance.py --only 'resize|lstm' --path a
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from common import parse_args, print_table, write_json
from tests.frontends.onnx.conformance import KINDS, PATHS, Case, Outcome, bars, cases, run


def main() -> None:
    options = parse_args(
        __doc__,
        ("--only", {"default": "", "metavar": "PATTERN", "help": "cases whose name a regular expression finds"}),
        ("--path", {"choices": ("a", "b"), "help": "one path alone"}),
        ("--suite", {"nargs": "*", "choices": KINDS, "default": KINDS, "help": "suites to run (default: all)"}),
        ("--check", {"action": "store_true", "help": "end with status 1 if a bar is missed"}),
    )
    suites = [s for s in options.suite if not (options.quick and s == "real")]
    chosen = [case for suite in suites for case in cases(suite) if re.search(options.only, case.name)]
    paths = [options.path] if options.path else ["a", "b"]
    outcomes = {path: outcomes_of(chosen, path) for path in [*paths, *(["original"] if "b" in paths else [])]}
    print_outcomes(outcomes, suites)
    for path in outcomes:
        print_reasons(path, outcomes[path])
    found = bars(outcomes)
    rows = [[bar.title, bar.reached, bar.total, share(bar.reached, bar.total), bar.least, bar.held] for bar in found]
    print_table("Bars", ["bar", "passed", "of", "%", "asked", "held"], rows)
    write_json(options.json, "onnx_conformance", {"bars": found, "outcomes": outcomes})
    if options.check and not all(bar.held for bar in found):
        sys.exit(1)


def outcomes_of(chosen: Sequence[Case], path: str) -> list[Outcome]:
    """Run cases along a path."""
    start, found = time.perf_counter(), []
    for case in chosen:
        with contextlib.redirect_stderr(io.StringIO()):  # FX prints where a generated line failed
            found.append(run(case, PATHS[path]))
    print(f"path {path}: {len(found)} cases in {time.perf_counter() - start:.0f} s", flush=True)
    return found


def print_outcomes(outcomes: dict[str, list[Outcome]], suites: Sequence[str]) -> None:
    """How many cases of each suite passed, and with what left over."""
    rows = []
    for path, found in outcomes.items():
        for suite in suites:
            here = [o for o in found if o.kind == suite]
            statuses = Counter(o.status for o in here)
            opaque = sum(bool(o.opaque) for o in here)
            undone = sum(bool(o.undone) for o in here)
            counts = [statuses[s] for s in ("passed", "failed", "unsupported")]
            plain = sum(o.plain for o in here)
            nodes = sum(len(o.opaque) for o in here)
            rows.append([path, suite, len(here), plain, *counts, share(counts[0], len(here)), opaque, nodes, undone])
    columns = ["path", "suite", "cases", "plain", "passed", "failed", "unsupported", "% passed"]
    print_table("Cases", [*columns, "with opaque nodes", "opaque nodes", "passes undone"], rows)


def print_reasons(path: str, outcomes: Iterable[Outcome]) -> None:
    """Why cases did not pass, which operators stayed opaque, and which passes were undone."""
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for outcome in outcomes:
        if not outcome.passed:
            reasons[outcome.status, grouped(outcome.reason)].append(outcome.name)
        for operator in set(outcome.opaque):
            reasons["opaque", operator].append(outcome.name)
        for warning in outcome.undone:
            reasons["undone", grouped(warning)].append(outcome.name)
    for (status, reason), names in sorted(reasons.items(), key=lambda item: (item[0][0], -len(item[1]))):
        print(f"path {path}, {status}, {len(names)}: {reason}")
        print("    " + ", ".join(name.removeprefix("test_") for name in names), flush=True)


def grouped(reason: str) -> str:
    """A reason without the names and numbers of its case."""
    text = re.sub(r"cannot read node \S+ \((\w+)\)", r"\1", " ".join(reason.split()))
    text = re.sub(r"'[^']*'|%\w+", "…", text)
    return re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "n", text)[:160]


def share(part: int, whole: int) -> float:
    """Percent; of no case at all, 100."""
    return round(100 * part / whole, 1) if whole else 100.0


if __name__ == "__main__":
    main()
