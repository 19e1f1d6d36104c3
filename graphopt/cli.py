"""The command line: argument parsing only; the work is in `graphopt.api` and its neighbours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from graphopt.errors import GraphOptError

app = typer.Typer(
    name="graphopt",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="PyTorch models in, faster FX modules and ONNX graphs out, every rewrite checked.",
    epilog="MODEL is a `.pt2` or `.gopt` file, or `module:function` (also `file.py:function`), where the function "
    "returns `(model, args)` or `(model, args, kwargs)`. Start with `graphopt show MODEL`.",
)

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A .pt2 or .gopt file, or module:function.")]
TargetOption = Annotated[
    str, typer.Option("--target", "-t", help="What to compile for; see `graphopt passes --targets`.")
]
PassesOption = Annotated[
    str, typer.Option("--passes", "-p", help="A pipeline: `default`, or text such as `fold-constants,dead-code`.")
]
DynamicOption = Annotated[
    Optional[str],  # noqa: UP045 (typer reads the annotation at run time)
    typer.Option("--dynamic", help="`batch`: the first dim of every input is dynamic. `auto`: every dim that can be."),
]
TrustOption = Annotated[bool, typer.Option("--trust", help="Read a .pt2 file even where PyTorch's loader unpickles.")]


@app.command("compile")
def compile_command(
    model: ModelArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write: `.gopt`, `.onnx` or `.txt` (IR text).")
    ],
    target: TargetOption = "onnxruntime",
    passes: PassesOption = "default",
    dynamic: DynamicOption = None,
    opset: Annotated[Optional[int], typer.Option(help="The ONNX opset to emit.")] = None,  # noqa: UP045
    validate: Annotated[bool, typer.Option(help="Check the numbers after each pass.")] = True,
    print_changes: Annotated[bool, typer.Option("--print-changes", help="Print a diff after each pass.")] = False,
    dump: Annotated[Optional[Path], typer.Option(help="A folder for numbered before/after files.")] = None,  # noqa: UP045
    report: Annotated[Optional[Path], typer.Option(help="Also write the report as JSON.")] = None,  # noqa: UP045
    trust: TrustOption = False,
) -> None:
    """Optimize a model and write it to a file.

    Example: `graphopt compile examples/lenet.py:build -o lenet.onnx --dynamic batch`
    """
    from graphopt.commands import compile_to_file

    compiled = compile_to_file(
        model,
        output,
        target=target,
        passes=passes,
        dynamic_shapes=dynamic,
        opset=opset,
        validate="each" if validate else False,
        instruments=_instruments(print_changes, dump),
        trust=trust,
    )
    print(compiled.report)
    if report is not None:
        from graphopt.commands import write_text

        write_text(report, compiled.report.to_json(indent=1))
    print(f"\nwrote {output}")


@app.command()
def show(
    model: ModelArgument,
    passes: PassesOption = "none",
    target: TargetOption = "onnxruntime",
    dynamic: DynamicOption = None,
    locations: Annotated[bool, typer.Option(help="Show where each node came from.")] = True,
    trust: TrustOption = False,
) -> None:
    """Print a model's graph, before or after passes.

    Example: `graphopt show model.pt2 --passes default`
    """
    from graphopt.commands import traced
    from graphopt.ir import print_graph

    graph = traced(model, passes=passes, target=target, dynamic_shapes=dynamic, trust=trust)
    print(print_graph(graph, locations=locations))


@app.command()
def passes(
    name: Annotated[Optional[str], typer.Argument(help="Show one pass: its method and its options.")] = None,  # noqa: UP045
    targets: Annotated[bool, typer.Option("--targets", help="List targets in place of passes.")] = False,
) -> None:
    """List the passes, or explain one.

    Example: `graphopt passes fold-batch-norm`
    """
    from graphopt.commands import describe_pass, pass_table, target_table

    console = Console()
    if name is not None:
        print(describe_pass(name))
    else:
        console.print(target_table() if targets else pass_table())


@app.command()
def bench(
    model: ModelArgument,
    target: Annotated[list[str], typer.Option("--target", "-t", help="Repeat for several.")] = ["cpu"],  # noqa: B006
    passes: PassesOption = "default",
    rounds: Annotated[int, typer.Option(help="Interleaved rounds; the median of their medians is shown.")] = 5,
    trust: TrustOption = False,
) -> None:
    """Measure a model before and after: latency, size and error for each target.

    Example: `graphopt bench examples/lenet.py:build -t onnxruntime -t eager`
    """
    from graphopt.commands import bench_table

    Console().print(bench_table(model, target, passes, rounds, trust))


@app.command()
def opt(
    file: Annotated[Path, typer.Argument(help="A graph in text form, such as a reproducer that a failure wrote.")],
    passes: Annotated[Optional[str], typer.Option("--passes", "-p", help="The pipeline, if not in the file.")] = None,  # noqa: UP045
    target: TargetOption = "onnxruntime",
    validate: Annotated[bool, typer.Option(help="Check the numbers after each pass.")] = True,
    print_changes: Annotated[bool, typer.Option("--print-changes", help="Print a diff after each pass.")] = False,
) -> None:
    """Run passes over a graph in text form, and print the result. A failed compile prints this command.

    Example: `graphopt opt graph.txt --passes canonicalize,dead-code`
    """
    from graphopt.commands import run_reproducer

    graph, report = run_reproducer(file, passes, target, validate, _instruments(print_changes, None))
    print(graph)
    print(report, file=sys.stderr)


def _instruments(print_changes: bool, dump: Path | None) -> list[Any]:
    from graphopt.passmanager.instruments import DumpDirectory, PrintAfterChange, Progress

    chosen: list[Any] = [Progress()] if sys.stderr.isatty() else []
    if print_changes:
        chosen.append(PrintAfterChange())
    if dump is not None:
        chosen.append(DumpDirectory(dump))
    return chosen


def main() -> None:
    """Run the command line; a `GraphOptError` is printed without a traceback, and the exit status is 1."""
    try:
        app()
    except GraphOptError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print("error:", style="bold red", end=" ")
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
