"""Tells the steps of a warm start, in which R counts for nothing and need not be computed."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nnunet_cpr.optim.bounds import Values, WarmStart


def in_warm_start(values: Values, group: Mapping[str, Any]) -> bool:
    """Return whether all these tensors are in a warm start: this step sets no bound, and no multiplier acts.

    It reads values only where the host need not wait for them, so on a CPU. Elsewhere, of tensors without values
    (FakeTensor) and in a compiled step it returns False.

    Args:
        values: the state of the tensors, by name.
        group: the settings of their parameter group.
    """
    if group["kappa_init_method"] != WarmStart.name or torch.compiler.is_compiling():
        return False
    columns = [values[name] for name in ("cpr_step", "kappa", "lagmul")]
    if columns[0].device.type != "cpu" or type(columns[0]) is not Tensor:
        return False
    rows = zip(*[column.tolist() for column in columns], strict=True)
    return all([t != group["kappa_init_param"] and kappa == math.inf and lagmul == 0 for t, kappa, lagmul in rows])
