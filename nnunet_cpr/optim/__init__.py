"""Constrained Parameter Regularization for any PyTorch optimizer. Imports torch and nothing else.

Franke, Hefenbrock, Koehler, Hutter, "Improving Deep Learning Optimization through Constrained Parameter
Regularization", NeurIPS 2024, arXiv 2311.09058.
"""

from nnunet_cpr.optim.constraints import Constraint
from nnunet_cpr.optim.factory import cpr
from nnunet_cpr.optim.optimizer import CPR, SGDCPR, AdamCPR
from nnunet_cpr.optim.param_groups import param_groups, param_table

__all__ = ["CPR", "SGDCPR", "AdamCPR", "Constraint", "cpr", "param_groups", "param_table"]
