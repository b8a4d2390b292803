"""CPR in a plain PyTorch loop: a small network tells two noisy spirals apart, with weight decay and with CPR.

Prints the accuracy on points that were not trained with, and CPR's constraints at the end.

    python scripts/train_loop.py
"""

import torch
from torch import nn

from nnunet_cpr.optim import AdamCPR

STEPS = 1000
WARM_START = 200
"""CPR fixes its bounds after so many steps: the weights must not grow further then."""


def spirals(points: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return positions (points, 2) and which of the two spirals each is on."""
    angle = 3 * torch.pi * torch.rand(points, generator=generator).sqrt()
    spiral = torch.randint(2, (points,), generator=generator)
    turned = angle + torch.pi * spiral
    positions = torch.stack([turned.cos(), turned.sin()], dim=1) * angle[:, None]
    return positions + 0.6 * torch.randn(points, 2, generator=generator), spiral


def train(optimizer_of: str) -> None:
    """Train one network and print what came of it."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    positions, labels = spirals(200, generator)
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer: torch.optim.Optimizer
    if optimizer_of == "CPR":
        optimizer = AdamCPR(model, lr=3e-3, kappa_init_param=WARM_START)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(positions), labels).backward()
        optimizer.step()
    unseen, truth = spirals(5000, generator)
    accuracy = (model(unseen).argmax(dim=1) == truth).float().mean()
    print(f"{optimizer_of:12} accuracy {accuracy:.3f}")
    if isinstance(optimizer, AdamCPR):
        for one in optimizer.constraints():
            print(f"    {one.name:10} R {one.reg:.3f}, bound {one.kappa:.3f}, lambda {one.lagmul:.2g}")


if __name__ == "__main__":
    train("weight decay")
    train("CPR")
