"""Its presence puts this folder on the path, so that the tests of all folders find `damaging`."""

import os

import torch

# Without a GPU the GPU kernels run in Triton's interpreter, which must be asked for before anything imports Triton.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
