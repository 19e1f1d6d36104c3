"""Every model of the zoo through graphopt: outputs of the FX module and of ONNX Runtime against eager PyTorch.

Each model is compiled with its dynamic dims for both targets, and run at two sizes that it was not captured at (models
that torch.export specializes are run at their own size). An output holds if its error against eager PyTorch in float64
is at most 4 times eager's own float32 error plus 8 units in the last place of its scale; for ONNX Runtime, which fuses
and reorders on its own, 16 times and 64 units.
"""

from __future__ import annotations

from common import parse_args, print_table, write_json
from tests.zoo import MODELS
from tests.zoo.agreement import TARGETS, check


def main() -> None:
    options = parse_args(__doc__, ("--only", {"nargs": "*", "default": [], "help": "names of models"}))
    names = options.only or list(MODELS)
    if options.quick:
        names = [n for n in names if n in ("lenet", "hf-bert", "hf-gpt2", "unet", "tied", "in-place")]
    rows = []
    for name in names:
        row = check(MODELS[name], options.quick)
        rows.append(row)
        problem = "; ".join(f"{t}: {e}" for t, e in row.errors.items())
        print(f"{name}: {'holds' if row.holds else 'FAILS'} {row.worst} {problem}", flush=True)
    table = [[r.name, r.traced, r.left, r.sizes, r.dynamic, *(r.worst.get(t) for t in TARGETS), r.holds] for r in rows]
    columns = ["model", "nodes", "left", "sizes", "dynamic", *(f"{t} error / allowed" for t in TARGETS), "holds"]
    print_table("Real models", columns, table, "an output holds at most at 1")
    print(f"{sum(r.holds for r in rows)} of {len(rows)} models hold on {' and '.join(TARGETS)}")
    write_json(options.json, "real_models", rows)


if __name__ == "__main__":
    main()
