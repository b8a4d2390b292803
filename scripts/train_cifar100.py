"""Train a ResNet18 on CIFAR100 with SGD, Adam, AdamW or their CPR forms, with every rule for the bound.

Without flags it trains a narrow ResNet18 on scikit-learn's handwritten digits, offline, in a minute or two:

    python scripts/train_cifar100.py --optimizer adamcpr --kappa-init-method warm_start
    python scripts/train_cifar100.py --optimizer sgdcpr --lr 0.1 --kappa-init-method dependent --kappa-init-param 0.8

On CIFAR100, which torchvision downloads into the folder (169 MB) unless it is there:

    python scripts/train_cifar100.py --config configs/cifar100/adamcpr_ws1k.yaml --data cifar100
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.images import Images, ImageSettings, LabeledImages, load_digits
from harness.parsing import run_script
from harness.settings import setting

from nnunet_cpr.schedules import warmup_cosine_lr

if TYPE_CHECKING:  # parsing must not wait for torch
    from harness.run import Run
    from torch import nn

SIZE = 32
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
"""Of the red, green and blue of CIFAR100's training images, between 0 and 1."""


@dataclass
class CIFAR100Settings(ImageSettings):
    """The settings of a ResNet18 training; the defaults are those of the narrow model on digits."""

    script: ClassVar[str] = "train_cifar100"
    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3, "betas": (0.9, 0.98), "max_steps": 300, "eval_every": 50, "trace_every": 10,
    }  # fmt: skip

    data: str | None = setting(
        None, "folder of CIFAR100, downloaded if absent (default: scikit-learn's digits)", kind=Path
    )
    width: int = setting(16, "channels of the first stage, 64 in ResNet18; the next stages double them", least=1)


def build_model(settings: CIFAR100Settings, classes: int) -> "nn.Module":
    """Return timm's untrained ResNet18 with the usual stem for 32 x 32 pixels: a 3 x 3 convolution, no pooling."""
    import timm
    from torch import nn

    channels = tuple(settings.width * factor for factor in (1, 2, 4, 8))
    model = timm.create_model("resnet18", num_classes=classes, channels=channels, zero_init_last=False)
    stem = model.conv1
    assert isinstance(stem, nn.Conv2d)
    model.conv1 = nn.Conv2d(3, stem.out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def datasets(settings: CIFAR100Settings, run: "Run") -> tuple[LabeledImages, LabeledImages, int]:
    """Return training and validation images (CIFAR100's test images), and the number of classes.

    Raises:
        ValueError: CIFAR100 can neither be read nor downloaded; there are too few images for one batch.
    """
    from torchvision import transforms as T
    from torchvision.datasets import CIFAR100

    plain = [T.ToTensor(), T.Normalize(MEAN, STD)]
    evaluated = T.Compose(plain)
    augmented = T.Compose([T.RandomCrop(SIZE, padding=4), T.RandomHorizontalFlip(settings.hflip), *plain])
    if settings.data is None:
        split = load_digits(SIZE, settings.val_share)
        train, val = Images(split.train, augmented), Images(split.val, evaluated)
        classes = len(split.classes)
    else:
        try:
            with run.accelerator.local_main_process_first():  # which downloads
                train = CIFAR100(settings.data, train=True, transform=augmented, download=True)
                val = CIFAR100(settings.data, train=False, transform=evaluated, download=True)
        except (RuntimeError, OSError, EOFError) as error:
            raise ValueError(f"CIFAR100 can neither be read from {settings.data} nor downloaded: {error}") from error
        classes = len(train.classes)
    if len(train) < settings.batch_size:
        raise ValueError(f"{len(train)} training images are too few for a batch of {settings.batch_size}")
    return train, val, classes


def train(settings: CIFAR100Settings) -> None:
    """Train, evaluate and write the folder of the run."""
    from harness.batches import training_batches
    from harness.classification import evaluate_classifier
    from harness.optimizers import build_optimizer, set_lr
    from harness.run import Run
    from torch.nn.functional import cross_entropy

    about = {"dataset": "scikit-learn's digits" if settings.data is None else "CIFAR100"}
    run = Run(settings, ("val_loss", "val_accuracy"), ("images", settings.batch_size), about)
    train_images, val_images, classes = datasets(settings, run)
    model = build_model(settings, classes).to(run.device)
    model, optimizer = run.prepare(model, build_optimizer(model, settings))

    def evaluate() -> dict[str, float]:
        loss, accuracy = evaluate_classifier(run, model, val_images, settings.batch_size, settings.workers)
        return {"val_loss": loss, "val_accuracy": accuracy}

    batches = training_batches(run, train_images, settings.batch_size, settings.workers)
    model.train()
    for step, (images, labels) in zip(run.steps(), batches, strict=False):
        lr = warmup_cosine_lr(step, settings.lr, settings.warmup, settings.max_steps)
        set_lr(optimizer, lr)
        loss = cross_entropy(model(images), labels)
        run.accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        run.end_step(step, loss, lr, evaluate)
    run.finish()


if __name__ == "__main__":
    sys.exit(run_script(CIFAR100Settings, train, __doc__))
