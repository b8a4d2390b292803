"""The networks whose training steps are measured: a model of each kind, and a loss of random data of its kind."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from harness.parsing import make
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

VOCAB_SIZE, CONTEXT = 50257, 1024
CLASSES, PHOTO = 1000, 224
PATCH = (128, 128, 128)
"""Of nnU-Net on BraTS (paper, Table J.2)."""


class Network(NamedTuple):
    """A model, and what makes a loss of a random batch of so many examples."""

    model: nn.Module
    loss: Callable[[int], Tensor]


def build_nnunet() -> nn.Module:
    """Return nnU-Net's 3d_fullres PlainConvUNet: 6 stages, features 32 to 320, one channel in, two out, 31 M."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    network: nn.Module = PlainConvUNet(
        1, 6, (32, 64, 128, 256, 320, 320), nn.Conv3d, 3, (1, 2, 2, 2, 2, 2), 2, 2, 2, conv_bias=True,
        norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, deep_supervision=True,
    )  # fmt: skip
    return network


def gpt2(size: str, device: torch.device) -> Network:
    """Return the GPT2 of train_gpt2.py, with sequences of 1024 tokens."""
    from train_gpt2 import GPT2Settings, build_model, sequence_loss

    model: nn.Module = build_model(make(GPT2Settings, {"size": size, "context": CONTEXT}), VOCAB_SIZE)
    model.to(device)

    def loss(batch: int) -> Tensor:
        return sequence_loss(model, torch.randint(VOCAB_SIZE, (batch, CONTEXT + 1), device=device))

    return Network(model, loss)


def deit(size: str, device: torch.device) -> Network:
    """Return the DeiT of train_deit.py, with photographs of 224 x 224 pixels."""
    from train_deit import DeiTSettings, build_model

    model = build_model(make(DeiTSettings, {"size": size, "image_size": PHOTO}), CLASSES).to(device)

    def loss(batch: int) -> Tensor:
        images = torch.randn(batch, 3, PHOTO, PHOTO, device=device)
        return cross_entropy(model(images), torch.randint(CLASSES, (batch,), device=device))

    return Network(model, loss)


def nnunet(device: torch.device) -> Network:
    """Return nnU-Net's network, with patches of 128 x 128 x 128 voxels and a cross entropy at every resolution."""
    model = build_nnunet().to(device)

    def loss(batch: int) -> Tensor:
        outputs = model(torch.randn(batch, 1, *PATCH, device=device))
        targets = (torch.randint(2, (batch, *output.shape[2:]), device=device) for output in outputs)
        return torch.stack([cross_entropy(o, t) for o, t in zip(outputs, targets, strict=True)]).sum()

    return Network(model, loss)


NETWORKS: dict[str, Callable[[torch.device], Network]] = {
    "GPT2s": lambda device: gpt2("s", device),
    "GPT2m": lambda device: gpt2("m", device),
    "GPT2l": lambda device: gpt2("l", device),
    "GPT2xl": lambda device: gpt2("xl", device),
    "DeiT-S": lambda device: deit("small", device),
    "DeiT-B": lambda device: deit("base", device),
    "nnU-Net": nnunet,
}
