"""Saving and loading a CPR optimizer, where torch's own way would lose something."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

from nnunet_cpr.optim.bounds import STATE_KEYS
from nnunet_cpr.optim.reductions import accumulation_dtype

_NOT_LOADED = ("param_names", "fused", "foreach")
"""Names belong to the parameters that are here (the saved model may be split into other parts), and how a step is
computed belongs to the machine."""


@contextmanager
def scalars_alone(optimizer: Optimizer) -> Iterator[None]:
    """While it is entered, `state_dict` holds copies of CPR's scalars. They are views of vectors, saved as a whole."""

    def alone(_: Optimizer, packed: dict[str, Any]) -> dict[str, Any]:
        return {**packed, "state": {key: _copied(state) for key, state in packed["state"].items()}}

    # First, so that hooks of the user see what is saved.
    handle = optimizer.register_state_dict_post_hook(alone, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def load(
    optimizer: Optimizer,
    base_load: Callable[[dict[str, Any]], None],
    state_dict: dict[str, Any],
    settings: Sequence[str],
) -> None:
    """Load a state by the base class's method, with settings that it lacks kept, and CPR's scalars in their dtype.

    Args:
        optimizer: the CPR optimizer.
        base_load: the bound `load_state_dict` of its base class.
        state_dict: the state, of this class or of the plain base optimizer.
        settings: the names of CPR's settings in the groups.
    """
    loaded: dict[str, Any] = {}

    def keep(_: Optimizer, incoming: dict[str, Any]) -> dict[str, Any]:
        ours = [{key: group[key] for key in settings} for group in optimizer.param_groups]
        here = [{key: group[key] for key in _NOT_LOADED if key in group} for group in optimizer.param_groups]
        saved = incoming["param_groups"]
        if len(ours) == len(saved):  # otherwise torch says what is wrong
            saved = [{**o, **group, **h} for o, group, h in zip(ours, saved, here, strict=True)]
        loaded.update(incoming, param_groups=saved)
        return loaded

    # Registered last, so it sees what hooks of the user made of the state.
    handle = optimizer.register_load_state_dict_pre_hook(keep)
    # bitsandbytes has its own way to load, which runs no hooks.
    runs_hooks = base_load.__func__ is Optimizer.load_state_dict  # type: ignore[attr-defined]
    try:
        base_load(state_dict if runs_hooks else keep(optimizer, state_dict))
    finally:
        handle.remove()
    # torch casts every state to its weights' dtype, which would round kappa and lambda of bf16 weights.
    keys = itertools.chain.from_iterable(group["params"] for group in loaded["param_groups"])
    params = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
    for key, param in zip(keys, params, strict=True):
        for name, value in loaded["state"].get(key, {}).items():
            if name in STATE_KEYS:
                optimizer.state[param][name] = torch.empty_like(
                    value, device=param.device, dtype=accumulation_dtype(param.dtype)
                ).copy_(value)


def _copied(state: Any) -> Any:
    """Return a tensor's state with copies of CPR's scalars. Anything else that an optimizer may keep stays as it is."""
    if not isinstance(state, dict):
        return state
    return {name: value.clone() if name in STATE_KEYS else value for name, value in state.items()}
