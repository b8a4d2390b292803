import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `reference`
torch.set_num_threads(1)  # the tensors are small: more threads only wait for each other


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
