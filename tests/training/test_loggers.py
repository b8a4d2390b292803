"""TensorBoard and W&B beside the trace: real offline runs of both, read back and compared with the trace's table."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from reading_logs import read_tensorboard, read_wandb
from training_helpers import make_trainer, resumed

from nnunet_cpr.optim import Constraint
from nnunet_cpr.training import interruptible, loggers
from nnunet_cpr.training.loggers import SWITCH, GuardedLogger, TensorBoardLogger, constraint_values
from nnunet_cpr.training.trace import read_trace

CPR, BASELINE = "nnUNetTrainerCPR_ws2_3epochs_2iters_seed1", "nnUNetTrainerSGD_2epochs_1iters_seed1"


def has(package):
    return pytest.mark.skipif(not find_spec(package), reason=f"{package} is not installed")
