"""What PyTorch raises while tracing, as one error: the reason in a sentence, the user's line, and the remedy."""

from __future__ import annotations

import re
import traceback

from graphopt.errors import CaptureError
from graphopt.frontends.torch_export.locations import is_torch_file

_CONTROL_FLOW = (
    "the model's control flow depends on values of a tensor, which are not known while tracing",
    "use torch.cond or torch.where for a branch, torch.while_loop for a loop, or torch._check to bound a size",
)

_PATTERNS: tuple[tuple[str, str, str], ...] = (
    (
        r"<class '[\w.<>]*Cache'> in output|type [\w.<>' ]*Cache\W",
        "the model returns a cache object, which is not a tensor or a container of tensors",
        "pass use_cache=False among the arguments",
    ),
    (
        r"Found <class '([\w.<>]+)'> in output",
        "the model returns a {0}, which is not a tensor or a container of tensors",
        "return tensors, or register the class with torch.utils._pytree.register_pytree_node",
    ),
    (
        r"Unsupported input type <class '([\w.<>]+)'>",
        "an input is a {0}, which is not a tensor, a number, a string or a container of these",
        "pass tensors, or register the class with torch.export.register_dataclass",
    ),
    (
        r"specialized it to be a constant \((\d+)\)",
        "a dim that dynamic_shapes declares dynamic is fixed to {0} by the model",
        "make that dim static, or change the code that fixes it",
    ),
    (
        r"satisfy the generated guard (.+?)\.?$",
        "a dynamic dim is not free: the model needs {0}",
        "give the Dim that range or multiple, for example 4 * Dim('name', max=64)",
    ),
    (
        r"The values of (.+?) must always be equal",
        "the model needs {0} to be equal",
        "use the same Dim for both",
    ),
    (
        r"specified as a dict, its top-level keys must be the arg names (\[.*?\])",
        "dynamic_shapes does not name the arguments of the call, which are {0}",
        "give one entry for each of them (None: static)",
    ),
    (
        r"Must provide a tree_name when there might be a mismatch",
        "PyTorch cannot match dynamic_shapes with arguments that forward collects in **kwargs",
        "give forward a named parameter for each of them",
    ),
    (
        r"0/1 specialized",
        "a dynamic dim has the sample size 0 or 1, which tracing fixes",
        "use a sample size of 2 or more",
    ),
    (
        r"\.numpy\(\) is not supported|Can't call numpy|__array__",
        "the model leaves PyTorch for NumPy in the middle",
        "use torch operations instead of NumPy",
    ),
    (
        r"no fake impl registered|There was no fake impl|UnsupportedOperatorException|unsupported operator: (\S+)",
        "a custom operator has no fake implementation, so its result shapes are unknown",
        "register one with torch.library.register_fake",
    ),
    (
        r"(missing a required argument: .+|too many positional arguments|got an unexpected keyword argument .+)",
        "the example inputs don't fit the model's forward: {0}",
        "pass args as a tuple and the rest as kwargs, as in a call of the model",
    ),
    (
        r"data-dependent|DynamicOutputShape|Could not guard|could not extract specialized integer",
        *_CONTROL_FLOW,
    ),
    (
        r"higher order operator doesn't work unless.*?(?:Encountered|Explanation: )(.+?)$",
        "a branch or loop body cannot be traced:{0}",
        "let branches and bodies return fresh tensors of equal shape and dtype",
    ),
)


def explain(error: BaseException, model_name: str) -> CaptureError:
    """Turn an exception of `torch.export` into a CaptureError. Chain it: `raise explain(e, name) from e`."""
    if isinstance(error, CaptureError):
        return error
    reason, remedy = _reason(type(error).__name__, _readable(str(error)))
    return CaptureError(f"cannot capture {model_name}: {reason}{_where(error)}; {remedy}")


def _readable(text: str) -> str:
    """Sizes as the user writes them: `x.shape[0]` for `L['x'].size()[0]`."""
    text = re.sub(r"L\['(\w+)'\]((?:\[[^\]]+\])*)\.size\(\)\[(\d+)\]", r"\1\2.shape[\3]", text)
    return re.sub(r" and [\w.\[\]]+ <= IntInfinity\(\)", "", text)


def _reason(kind: str, text: str) -> tuple[str, str]:
    if kind in ("GuardOnDataDependentSymNode", "DataDependentOutputException", "UserError") and (
        "data-dependent" in text or kind != "UserError"
    ):
        return _CONTROL_FLOW
    for pattern, reason, remedy in _PATTERNS:
        found = re.search(pattern, f"{kind}: {text}", re.MULTILINE | (re.DOTALL if "higher order" in pattern else 0))
        if found:
            return reason.format(*(group or "" for group in found.groups())), remedy
    first = next((line.strip() for line in text.splitlines() if line.strip()), kind)
    return f"{kind}: {first}", "the model must run on these inputs in eager mode first"


def _where(error: BaseException) -> str:
    """The innermost line of the user's code in the traceback."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not is_torch_file(frame.filename) and not frame.filename.startswith("<") and not _is_own(frame.filename)
    ]
    if not frames:
        return ""
    frame = frames[-1]
    code = f": {frame.line.strip()}" if frame.line else ""
    return f" (at {frame.filename}:{frame.lineno}, in {frame.name}{code})"


def _is_own(file: str) -> bool:
    return "graphopt/frontends/" in file.replace("\\", "/") or "graphopt\\frontends" in file or "/contextlib.py" in file
