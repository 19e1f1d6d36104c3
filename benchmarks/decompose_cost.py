"""What decomposing costs: the time and the memory of a 100-layer model, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SCRIPT = """
import json, sys, time, torch, graphopt
from graphopt.passes.decompose import Decompose
from graphopt.passmanager import PassContext
from torch import nn

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

torch.manual_seed(0)
width, count = int(sys.argv[1]), int(sys.argv[2])
model = nn.Sequential(*[nn.Linear(width, width) for _ in range(count)]).eval()
graph = graphopt.trace(model, (torch.randn(8, width),))
warm = graphopt.trace(nn.Linear(64, 64).eval(), (torch.randn(8, 64),))
Decompose(ratio=0.5).run(warm, PassContext())
open("/proc/self/clear_refs", "w").write("5")  # the greatest use so far is forgotten
before, start = status("VmRSS"), time.perf_counter()
result = Decompose(ratio=0.5).run(graph, PassContext())
seconds, peak = time.perf_counter() - start, status("VmHWM") - before
layers = result.details.layers
added = 4 * sum(layer.parameters[1] for layer in layers)
found = {"layers": len(layers), "seconds": seconds, "peak": peak, "added": added, "largest": 4 * width**2}
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Cost:
    """seconds. peak: bytes above what there was. added: bytes of the factors. largest: bytes of the largest layer."""

    layers: int
    seconds: float
    peak: int
    added: int
    largest: int

    @property
    def working(self) -> float:
        """Memory beside the model and its factors, in layers."""
        return (self.peak - self.added) / self.largest


def measure(width: int = 1024, count: int = 100) -> Cost:
    """Decompose in a process of its own, so that nothing else counts."""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", SCRIPT, str(width), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))
