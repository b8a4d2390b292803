"""Evaluation of a classifier on all validation images, divided among the processes."""

from typing import Any

import torch
from accelerate.utils import broadcast
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset

from harness.batches import on_device
from harness.images import LabeledImages
from harness.run import Run


@torch.no_grad()
def evaluate_classifier(
    run: Run, model: nn.Module, images: LabeledImages, batch_size: int, workers: int
) -> tuple[float, float]:
    """Return mean cross entropy and top-1 accuracy (0 to 1) over all images, each counted once.

    Every process takes its part of the images with the main process's buffers (those of batch normalization differ).
    """
    plain = run.plain(model)
    for buffer in plain.buffers():
        broadcast(buffer)
    rank, count = run.accelerator.process_index, run.accelerator.num_processes
    part = range(rank, len(images), count)
    own: Subset[Any] = Subset(images, part)  # type: ignore[arg-type]  # it takes any map-style dataset
    loader = DataLoader(own, batch_size=max(1, batch_size // count), num_workers=workers)
    was_training = plain.training
    plain.eval()
    sums = torch.zeros(2, device=run.device)
    for batch, labels in on_device(loader, run):
        with run.accelerator.autocast():
            logits = plain(batch).float()
        sums[0] += cross_entropy(logits, labels, reduction="sum")
        sums[1] += (logits.argmax(dim=1) == labels).sum()
    plain.train(was_training)
    loss, right = (run.accelerator.reduce(sums, "sum") / len(images)).tolist()
    return loss, right
