"""The choice of engines on the CPU against each engine alone, in one run with interleaved rounds.

Each model is compiled for the target `cpu`, which measures and chooses, and for each engine alone, by its own target;
all with the same number of threads. Then all are timed in turn. The bars:

  on each model     chosen ≤ 1.03 × the best single engine (median of the ratios of the rounds)
  over the models   geometric mean of chosen / engine < 1 for every single engine
  second compile    the choice, less the loading, in under a second

    python benchmarks/engine_choice.py --only resnet18 minilm --engines onnxruntime openvino
"""

from __future__ import annotations

import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import graphopt
from common import parse_args, print_table, ratio, time_interleaved, write_json
from graphopt.engine_choice import load_plan
from graphopt.errors import GraphOptError
from graphopt.targets.machine_cache import FOLDER
from tests.zoo import MODELS

ENGINES = ("onnxruntime", "openvino", "inductor", "eager")
BAR, SECOND = 1.03, 1.0
CHOSEN = "chosen"
Source = tuple[Any, tuple[Any, ...], dict[str, Any]]


def zoo(name: str) -> Callable[[], Source]:
    """A model of the zoo, at batch 1."""
    return lambda: (MODELS[name].build(), *MODELS[name].inputs(batch=1))


def bert() -> Source:
    """A small BERT with random weights, on 128 tokens."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(hidden_size=512, num_hidden_layers=4, num_attention_heads=8, intermediate_size=2048)
    ids = torch.randint(0, config.vocab_size, (1, 128))
    return BertModel(config).eval(), (), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def packaged(package: str, file: str, *inputs: torch.Tensor, **named: torch.Tensor) -> Callable[[], Source]:
    """An ONNX file that an installed package has."""

    def source() -> Source:
        spec = find_spec(package)
        assert spec is not None and spec.origin is not None, f"this model needs `pip install {package}`"
        return str(Path(spec.origin).parent / file), inputs, named

    return source


def images(height: int, width: int) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


SUBJECTS: dict[str, Callable[[], Source]] = {
    "resnet18": zoo("resnet18"),
    "mobilenet-v2": zoo("mobilenet-v2"),
    "vit-small": zoo("vit-small"),
    "minilm": zoo("minilm"),
    "bert-small": bert,
    "lstm": zoo("lstm"),
    "unet": zoo("unet"),
    "rapidocr-cls": packaged("rapidocr", "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx", images(48, 192)),
    "rapidocr-det": packaged("rapidocr", "models/PP-OCRv6_det_small.onnx", images(320, 320)),
    "rapidocr-rec": packaged("rapidocr", "models/PP-OCRv6_rec_small.onnx", images(48, 320)),
    "silero-vad": packaged(
        "silero_vad",
        "data/silero_vad_op18_ifless.onnx",
        input=torch.rand(1, 576, generator=torch.Generator().manual_seed(0)) - 0.5,
        state=torch.zeros(2, 1, 128),
        sr=torch.tensor(16000),
    ),
}


def compiled(source: Source, target: str, engines: tuple[str, ...] | None = None) -> graphopt.CompiledModel:
    model, args, kwargs = source
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return graphopt.compile(model, args, kwargs, target=target, engines=engines, validate="end")


def second_compile(source: Source, engines: tuple[str, ...]) -> dict[str, float]:
    """Seconds of the stage that chooses, with the choice kept from before, and of the loading in it."""
    made = compiled(source, "cpu", engines)
    kept = any("chosen before" in note for note in made.report.passes.notes)
    program = made._program
    assert program is not None and program.plan is not None
    start = time.perf_counter()
    load_plan(program.plan, made.graph)
    loading = time.perf_counter() - start
    return {"stage": made.report.seconds["engines"], "loading": loading, "kept": float(kept)}


def measure(name: str, engines: tuple[str, ...], rounds: int, seconds: float) -> dict[str, Any]:
    """Time one model in every engine, and chosen."""
    source = SUBJECTS[name]()
    _, args, kwargs = source
    start = time.perf_counter()
    chosen = compiled(source, "cpu", engines)
    first = time.perf_counter() - start
    models, failed = {CHOSEN: chosen}, {}
    for engine in engines:
        try:
            models[engine] = compiled(source, engine)
        except GraphOptError as error:
            failed[engine] = str(error)
    calls = {title: (lambda model=model: model(*args, **kwargs)) for title, model in models.items()}
    with torch.no_grad():
        timings = time_interleaved(calls, rounds=rounds, seconds=seconds, warmup=5)
    alone = [engine for engine in engines if engine in models]
    best = min(alone, key=lambda engine: timings[engine].median)
    return {
        "model": name,
        "engine": chosen.engine,
        "settings": next((t.settings for t in chosen.report.engines if t.chosen), ""),
        "ms": {title: timing.ms for title, timing in timings.items()},
        "spread": {title: timing.spread for title, timing in timings.items()},
        "ratios": {engine: ratio(timings, CHOSEN, engine) for engine in alone},
        "best": best,
        "ratio": ratio(timings, CHOSEN, best),
        "first_compile": first,
        "second": second_compile(source, engines),
        "failed": failed,
        "trials": [trial.to_dict() for trial in chosen.report.engines],
    }


def geometric_means(rows: list[dict[str, Any]], engines: tuple[str, ...]) -> dict[str, float]:
    """By engine, of chosen / engine over the models that it runs."""
    found = {}
    for engine in engines:
        logs = [math.log(row["ratios"][engine]) for row in rows if engine in row["ratios"]]
        if logs:
            found[engine] = math.exp(sum(logs) / len(logs))
    return found


def main() -> None:
    options = parse_args(
        __doc__,
        ("--only", {"nargs": "*", "default": list(SUBJECTS), "help": "names of models"}),
        ("--engines", {"nargs": "*", "default": list(ENGINES), "help": "the engines"}),
        ("--seconds", {"type": float, "default": 0.5, "help": "of each model in each round"}),
    )
    names = ["lstm", "rapidocr-cls"] if options.quick else options.only
    engines = ("onnxruntime", "openvino", "eager") if options.quick else tuple(options.engines)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER] = folder
        for name in names:
            row = measure(name, engines, options.rounds, options.seconds)
            rows.append(row)
            title = f"{row['engine']} {row['settings']}".strip()
            print(f"{name}: {title}, {row['ratio']:.3f} of {row['best']}", *row["failed"].items(), flush=True)
    means = geometric_means(rows, engines)
    columns = ["model", CHOSEN, *engines, "engine", "settings", "ratio to best", "first s", "second s", "loading s"]
    table = [
        [
            *(row["model"], row["ms"][CHOSEN], *(row["ms"].get(engine) for engine in engines)),
            *(row["engine"], row["settings"], row["ratio"], row["first_compile"]),
            *(row["second"]["stage"], row["second"]["loading"]),
        ]
        for row in rows
    ]
    print_table("Latency, ms", columns, table, f"bar: ratio at most {BAR}, second less loading under {SECOND} s")
    print("geometric mean of chosen / engine:", ", ".join(f"{name} {mean:.3f}" for name, mean in means.items()))
    held = {
        "each within 3 %": all(row["ratio"] <= BAR for row in rows),
        "ahead of every engine": all(mean < 1 for mean in means.values()),
        "second compile": all(
            row["second"]["kept"] and row["second"]["stage"] - row["second"]["loading"] < SECOND for row in rows
        ),
    }
    print(", ".join(f"{bar}: {'holds' if holds else 'FAILS'}" for bar, holds in held.items()))
    write_json(options.json, "engine_choice", {"rows": rows, "geometric_means": means, "held": held})


if __name__ == "__main__":
    main()
