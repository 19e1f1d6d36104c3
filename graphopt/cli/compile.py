"""`graphopt compile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli.options import (
    ChangesOption,
    DynamicOption,
    ModelArgument,
    PassesOption,
    PluginOption,
    ProgressOption,
    ReportOption,
    TargetOption,
    TrustOption,
    ValidateOption,
    ValueOption,
    make_instruments,
)
from graphopt.cli.program import app


@app.command("compile")
def compile_command(
    model: ModelArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Where to write: `.gopt`, `.onnx`, `.tflite`, `.mlpackage`, or `.txt` (IR text)."
        ),
    ],
    target: TargetOption = "onnxruntime",
    passes: PassesOption = "default",
    dynamic: DynamicOption = None,
    opset: Annotated[
        int | None, typer.Option(help="The ONNX opset to emit (default: that of the file that was read, else 20).")
    ] = None,
    external_data: Annotated[
        bool | None,
        typer.Option(
            "--external-data/--no-external-data",
            help="Write the weights of an ONNX file beside it (default: above 1.5 GiB).",
        ),
    ] = None,
    rules: Annotated[
        str, typer.Option(help="Write nothing unless quantization keeps what an engine documents: tensorrt.")
    ] = "",
    value: ValueOption = None,
    validate: ValidateOption = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where a pass breaks its promise, in place of undoing the pass.")
    ] = False,
    print_changes: ChangesOption = False,
    dump: Annotated[Path | None, typer.Option(help="A folder for numbered before/after files.")] = None,
    report: ReportOption = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure for the report: latency, and the time and error of each node.")
    ] = False,
    reproducers: Annotated[
        Path | None, typer.Option(help="A folder for a file for each pass that fails; `graphopt opt` runs it again.")
    ] = None,
    progress: ProgressOption = None,
    plugin: PluginOption = None,
    trust: TrustOption = False,
) -> None:
    """Optimize a model and write it to a file.

    An ONNX file that is made from another is only written if ONNX Runtime computes the same from both.

    Example: `graphopt compile examples/lenet.py:build -o lenet.onnx --dynamic batch --report lenet.html --measure`

    Example: `graphopt compile in.onnx -o out.onnx`
    """
    from graphopt.cli.options import show_found
    from graphopt.commands.compile import compile_to_file
    from graphopt.html_report import check_suffix

    if report is not None:
        check_suffix(report)
    compiled, changes = compile_to_file(
        model,
        output,
        measured=measure,
        values=value or (),
        external_data=external_data,
        rules=rules,
        target=target,
        passes=passes,
        dynamic_shapes=dynamic,
        opset=opset,
        validate="each" if validate else False,
        on_failure="raise" if strict else "rollback",
        instruments=make_instruments(print_changes, dump, progress),
        reproducers=reproducers,
        trust=trust,
    )
    show_found(compiled.report, json=False)
    if report is not None:
        compiled.report.save(report)
        print(f"\nwrote {report}")
    if changes:
        print(f"\n{changes}")
    print(f"\nwrote {output}")
