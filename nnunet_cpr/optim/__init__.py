"""Constrained Parameter Regularization for any PyTorch optimizer. Imports torch and nothing else.

Franke, Hefenbrock, Koehler, Hutter, "Improving Deep Learning Optimization through Constrained Parameter
Regularization", NeurIPS 2024, arXiv 2311.09058.

The names below are imported when they are first asked for. So what only parses arguments can read the names of
regularizers and bound rules from `regularizers.py` and `bounds.py` without waiting for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_cpr.optim.constraints import Constraint
    from nnunet_cpr.optim.factory import cpr
    from nnunet_cpr.optim.grouping import param_groups, param_table
    from nnunet_cpr.optim.optimizer import CPR, SGDCPR, AdamCPR

__all__ = ["CPR", "SGDCPR", "AdamCPR", "Constraint", "cpr", "param_groups", "param_table"]

_HOMES = {"Constraint": "constraints", "cpr": "factory", "param_groups": "grouping", "param_table": "grouping"}
# All others are in optimizer.py.

if not TYPE_CHECKING:  # a type checker would take any name for one of this module's

    def __getattr__(name: str) -> Any:
        """Import the module that defines a public name, and keep the name here."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'optimizer')}"), name)
        return globals().setdefault(name, value)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
