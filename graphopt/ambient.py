"""The caller's autocast, moved inside the model: as a region of the traced program it becomes explicit casts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

DEVICES = ("cpu", "cuda")


def autocast_state() -> tuple[tuple[str, torch.dtype], ...]:
    """Return the devices for which autocast is on, each with its precision."""
    if not torch._C._is_any_autocast_enabled():
        return ()
    return tuple((d, torch.get_autocast_dtype(d)) for d in DEVICES if torch.is_autocast_enabled(d))


@contextmanager
def without_autocast() -> Iterator[None]:
    """Switch autocast off."""
    with ExitStack() as stack:
        for device, _ in autocast_state():
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def autocast_inside(model: Any) -> Iterator[Any]:
    """Yield a model that enters the caller's autocast itself, and switch it off around it.

    A module is yielded as it is, its `forward` replaced for the duration.
    """
    state = autocast_state()
    if not state or not (isinstance(model, nn.Module) or callable(model)):
        yield model
        return
    with without_autocast():
        if not isinstance(model, nn.Module):
            yield _entering(model, state)
            return
        own = model.__dict__.get("forward")
        model.__dict__["forward"] = _entering(model.forward, state)
        try:
            yield model
        finally:
            del model.__dict__["forward"]
            if own is not None:
                model.__dict__["forward"] = own


def _entering(forward: Callable[..., Any], state: tuple[tuple[str, torch.dtype], ...]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def inside(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for device, dtype in state:
                stack.enter_context(torch.autocast(device, dtype=dtype))
            return forward(*args, **kwargs)

    return inside
