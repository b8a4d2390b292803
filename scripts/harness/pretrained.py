"""What tells pretrained models apart, for the record of a run and for resuming it."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def checksum(model: "nn.Module") -> str:
    """Return the beginning of the SHA-256 of all weights."""
    import torch

    weights = hashlib.sha256()
    for tensor in model.state_dict().values():
        weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return weights.hexdigest()[:16]
