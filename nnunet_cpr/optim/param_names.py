"""Names for parameters that join an optimizer later."""

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor


def match_names(groups: Sequence[dict[str, Any]], added: dict[str, Any]) -> list[dict[str, Any]]:
    """Name the parameters of all groups if some have names, because torch refuses a mixture.

    A parameter without a name is called "param 7" after its key in `state_dict`.

    Args:
        groups: the groups that the optimizer has.
        added: the group to be added. Its parameters become a list.

    Returns:
        Those of `groups` that were given names.
    """
    params = added.get("params") if isinstance(added, dict) else None
    if not groups or params is None or isinstance(params, set):
        return []  # torch says what is wrong
    params = added["params"] = [params] if isinstance(params, Tensor) else list(params)
    named = "param_names" in added or any(isinstance(param, tuple) for param in params)
    if named == ("param_names" in groups[0]):
        return []
    number = itertools.count()
    rows = [[f"param {next(number)}" for _ in group["params"]] for group in (*groups, added)]
    if not named:
        added["param_names"] = rows[-1]
        return []
    for group, names in zip(groups, rows, strict=False):
        group["param_names"] = names
    return list(groups)
