"""Networks that run in bfloat16 although nnU-Net itself autocasts only on CUDA, and there in float16."""

from typing import Any

import torch
from torch import Tensor, nn


class Bfloat16Forward:
    """Mixin for a network's class: the forward pass under bfloat16 autocast, its outputs in float32."""

    def forward(self, x: Tensor) -> Any:
        """Run the network, whatever autocast surrounds it."""
        with torch.autocast(x.device.type, torch.bfloat16):
            output = super().forward(x)  # type: ignore[misc]
        # a list with deep supervision
        return output.float() if isinstance(output, Tensor) else [each.float() for each in output]


def in_bfloat16(network: nn.Module) -> nn.Module:
    """Make the network run in bfloat16, in place. Its class changes, so that names, weights and copies do not."""
    network.__class__ = type(type(network).__name__, (Bfloat16Forward, type(network)), {})
    return network
