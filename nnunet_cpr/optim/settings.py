"""The CPR settings of a parameter group, checked: one line says what is wrong and what would be right."""

import math
import numbers
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nnunet_cpr.optim.bounds import RULES
from nnunet_cpr.optim.regularizers import REGULARIZERS, STEP_FORMS

_NUMBERS = ("kappa_init_param", "kappa_update", "reg_ema_decay", "reg_step_size")


def complete(group: dict[str, Any]) -> None:
    """Fill in the default of `kappa_init_param`, which depends on the rule, and make NumPy's numbers Python's.

    A state_dict with NumPy's scalars in it would not load with `weights_only=True`.

    Args:
        group: a parameter group with all CPR settings; it is changed in place.
    """
    for key in _NUMBERS:
        # Only where needed: torch.compile writes all of a group that is written to, `capturable` as it traces it, too.
        if isinstance(group[key], numbers.Real) and type(group[key]) not in (bool, int, float):
            group[key] = int(group[key]) if isinstance(group[key], numbers.Integral) else float(group[key])
    for rule in RULES.values():
        if group["kappa_init_param"] is None and rule.name == group["kappa_init_method"] and rule.default is not None:
            group["kappa_init_param"] = rule.default


def check(group: Mapping[str, Any]) -> None:
    """Check a parameter group before anything moves.

    Args:
        group: a parameter group with all CPR settings.

    Raises:
        ValueError: a setting has no meaning, or CPR cannot constrain a regularized tensor.
    """
    _one_of(group, "kappa_init_method", tuple(RULES))
    _one_of(group, "reg_function", tuple(REGULARIZERS))
    _one_of(group, "step_form", tuple(STEP_FORMS))
    _number(group, "kappa_update", at_least=0)
    _number(group, "reg_ema_decay", at_least=0, below=1)
    _number(group, "reg_step_size", at_least=1, whole=True)
    rule = RULES[group["kappa_init_method"]]
    if rule.parameter:
        if group["kappa_init_param"] is None:
            raise ValueError(
                f'kappa_init_param is None, but kappa_init_method="{rule.name}" needs it: {rule.parameter}'
            )
        _number(group, "kappa_init_param", at_least=0, whole=rule.counts_steps)
    if not isinstance(group["adaptive_bounds"], bool):
        raise ValueError(f"adaptive_bounds is {group['adaptive_bounds']!r}, but must be True or False")
    if not (group["regularize"] is None or isinstance(group["regularize"], bool)):
        raise ValueError(f"regularize is {group['regularize']!r}, but must be True, False or None (by dimensions)")
    for index, param in enumerate(group["params"]):
        if isinstance(param, nn.UninitializedParameter) and group["regularize"] is not False:
            raise ValueError(
                f"{param_name(group, index, index)} of the group has no shape before the first forward pass; "
                "run the model on one batch, then make the optimizer"
            )
        if is_regularized(group, param) and param.is_complex():
            raise ValueError(
                f"{param_name(group, index, index)} of the group is complex, but CPR bounds real weights; "
                "give its group regularize=False"
            )
        if is_regularized(group, param) and any(kind.is_partial() for kind in getattr(param, "placements", ())):
            raise ValueError(
                f"{param_name(group, index, index)} of the group is a DTensor whose ranks hold summands (Partial), of "
                "which no R can be added up; redistribute it to Replicate or Shard"
            )
    check_weight_decay(group)


def check_weight_decay(group: Mapping[str, Any]) -> None:
    """Check the weight decay of a parameter group.

    Args:
        group: a parameter group with all CPR settings.

    Raises:
        ValueError: weight decay would act on tensors that CPR regularizes.
    """
    if group.get("weight_decay") and any(is_regularized(group, p) for p in group["params"]):
        raise ValueError(
            f"weight_decay is {group['weight_decay']!r} in a regularized group: CPR replaces weight decay; "
            "set weight_decay=0, or regularize=False for this group"
        )


def check_muon(optimizer_class: type[Optimizer], groups: Iterable[Mapping[str, Any]]) -> None:
    """Raise ValueError where torch's Muon is given a model's groups and not all are weight matrices.

    Torch itself refuses parameters that are not matrices, but not embeddings, for which Muon is not made either.
    """
    muon = getattr(torch.optim, "Muon", None)  # torch 2.9 and later
    if muon is None or not issubclass(optimizer_class, muon):
        return
    for group in groups:
        for name, param in group["params"]:
            if param.ndim != 2 or not group["regularize"]:
                raise ValueError(
                    f"Muon is made for the weight matrices of hidden layers, but the model has {name} of shape "
                    f"{tuple(param.shape)}, too: give Muon the matrices and a second optimizer the rest, as "
                    'docs/reference/optim.md shows under "Muon"'
                )


def is_regularized(group: Mapping[str, Any], param: Tensor) -> bool:
    """Return whether CPR bounds this tensor: as its group says, else if it has two or more dimensions."""
    regularize: bool | None = group["regularize"]
    return param.ndim >= 2 if regularize is None else regularize


def param_name(group: Mapping[str, Any], index: int, number: int) -> str:
    """Return the name of a group's parameter, or `number`, its key in `state_dict`, if the optimizer has no names."""
    names = group.get("param_names")
    return str(names[index]) if names else f"param {number}"


def _one_of(group: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> None:
    if group[key] not in choices:
        raise ValueError(f"{key} is {group[key]!r}, but must be one of {', '.join(choices)}")


def _number(group: Mapping[str, Any], key: str, at_least: float, below: float = math.inf, whole: bool = False) -> None:
    value = group[key]
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and at_least <= value < below
    if not fits or (whole and not float(value).is_integer()):
        kind = "a whole number" if whole else "a number"
        upper = "" if below == math.inf else f" and below {below}"
        raise ValueError(f"{key} is {value!r}, but must be {kind} of at least {at_least}{upper}")


def check_choice(optimizer: Optimizer, from_model: bool) -> None:
    """Raise ValueError if nothing of a model is regularized. Warn of other such choices."""
    chosen = [p for group in optimizer.param_groups for p in group["params"] if is_regularized(group, p)]
    name = type(optimizer).__name__
    if not chosen:
        message = f"{name} has nothing to regularize: no parameter is selected for it"
        if from_model:
            raise ValueError(message + "; print(param_table(model)) says why")
        warnings.warn(message + "; set regularize=True in a group, or pass the model", stacklevel=3)
    elif not any(p.requires_grad for p in chosen):
        # Not an error: a fine-tuning may unfreeze them later, and then they are bounded.
        warnings.warn(
            f"{name} has nothing to regularize yet: every parameter selected for it is frozen (requires_grad=False)",
            stacklevel=3,
        )
