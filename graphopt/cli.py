"""The command line: argument parsing only; the work is in `graphopt.commands`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from graphopt.errors import GraphOptError

app = typer.Typer(
    name="graphopt",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    help="PyTorch models in, faster FX modules and ONNX graphs out, every rewrite checked.",
    epilog="MODEL is a `.pt2` or `.gopt` file, or `module:function` (also `file.py:function`), where the function "
    "returns `(model, args)` or `(model, args, kwargs)`. Start with `graphopt show MODEL`, then "
    "`graphopt compile MODEL -o model.onnx`, then `graphopt bench MODEL -t onnxruntime`.",
)

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A `.pt2` or `.gopt` file, or `file.py:function` that returns `(model, args)`."
    ),
]
TargetOption = Annotated[
    str, typer.Option("--target", "-t", help="What to compile for; see `graphopt passes --targets`.")
]
PassesOption = Annotated[
    str,
    typer.Option(
        "--passes", "-p", help="`default`, `none`, or a pipeline such as `fold-constants,dead-code{constants=false}`."
    ),
]
PipelineOption = Annotated[
    str | None, typer.Option("--passes", "-p", help="The pipeline, if the file names none or another is to run.")
]
DynamicOption = Annotated[
    str | None,
    typer.Option("--dynamic", help="`batch`: the first dim of every input is dynamic. `auto`: every dim that can be."),
]
TrustOption = Annotated[bool, typer.Option("--trust", help="Read a .pt2 file even where PyTorch's loader unpickles.")]
ValidateOption = Annotated[bool, typer.Option(help="Check the numbers after each pass.")]
ChangesOption = Annotated[bool, typer.Option("--print-changes", help="Print a diff after each pass.")]
ReportOption = Annotated[Path | None, typer.Option(help="Also write the report, as JSON, to this file.")]


def _version(wanted: bool) -> None:
    if wanted:
        from graphopt import __version__

        print(f"graphopt {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command("compile")
def compile_command(
    model: ModelArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Where to write: `.gopt`, `.onnx`, or `.txt` (IR text, its weights beside it)."
        ),
    ],
    target: TargetOption = "onnxruntime",
    passes: PassesOption = "default",
    dynamic: DynamicOption = None,
    opset: Annotated[int | None, typer.Option(help="The ONNX opset to emit.")] = None,
    validate: ValidateOption = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where a pass breaks its promise, in place of undoing the pass.")
    ] = False,
    print_changes: ChangesOption = False,
    dump: Annotated[Path | None, typer.Option(help="A folder for numbered before/after files.")] = None,
    report: ReportOption = None,
    reproducers: Annotated[
        Path | None, typer.Option(help="A folder for a file for each pass that fails; `graphopt opt` runs it again.")
    ] = None,
    trust: TrustOption = False,
) -> None:
    """Optimize a model and write it to a file.

    Example: `graphopt compile examples/lenet.py:build -o lenet.onnx --dynamic batch`
    """
    from graphopt.commands import compile_to_file, write_text

    compiled = compile_to_file(
        model,
        output,
        target=target,
        passes=passes,
        dynamic_shapes=dynamic,
        opset=opset,
        validate="each" if validate else False,
        on_failure="raise" if strict else "rollback",
        instruments=_instruments(print_changes, dump),
        reproducers=reproducers,
        trust=trust,
    )
    print(compiled.report)
    if report is not None:
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
    name: Annotated[
        str | None, typer.Argument(help="Explain one pass: its method and its options; or list a named pipeline.")
    ] = None,
    targets: Annotated[bool, typer.Option("--targets", help="List targets in place of passes.")] = False,
) -> None:
    """List the passes, or explain one.

    Example: `graphopt passes fold-batch-norm`
    """
    from graphopt.commands import describe_pass, pass_table, target_table

    if name is not None:
        print(describe_pass(name))
    else:
        Console().print(target_table() if targets else pass_table())


@app.command()
def bench(
    model: ModelArgument,
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="Repeat for several (default: cpu).")
    ] = None,
    passes: PassesOption = "default",
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds; the median of their medians is shown.")] = 5,
    trust: TrustOption = False,
) -> None:
    """Measure a model before and after: latency, size and error for each target.

    Example: `graphopt bench examples/lenet.py:build -t onnxruntime -t eager`
    """
    from graphopt.commands import bench_table

    Console().print(bench_table(model, target or ["cpu"], passes, rounds, trust))


@app.command()
def opt(
    file: Annotated[
        Path, typer.Argument(help="A reproducer that a failure wrote, a graph in text form, or a `.gopt`.")
    ],
    passes: PipelineOption = None,
    target: TargetOption = "onnxruntime",
    validate: ValidateOption = True,
    print_changes: ChangesOption = False,
    report: ReportOption = None,
) -> None:
    """Run passes over a graph and print the result. This is how a reproducer is run again.

    Example: `graphopt opt graph.txt --passes canonicalize,dead-code`
    """
    from graphopt.commands import run_reproducer, write_text

    graph, done = run_reproducer(file, passes, target, validate, _instruments(print_changes, None))
    print(graph)
    print(done, file=sys.stderr)
    if report is not None:
        write_text(report, done.to_json(indent=1))


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
