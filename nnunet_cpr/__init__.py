"""Train nnU-Net, or any PyTorch model, with Constrained Parameter Regularization (CPR)."""

__version__ = "0.1.0"
