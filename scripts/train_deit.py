"""Train timm's DeiT with AdamW or AdamCPR: the same script on a laptop and, with torchrun, on several nodes.

Model, augmentation, mixup, losses, schedule and weight average are timm's. Without flags it trains a small DeiT on
scikit-learn's handwritten digits, offline, in a few minutes:

    python scripts/train_deit.py --optimizer adamcpr
    python scripts/train_deit.py --optimizer adamw

On ImageNet (a folder with train/ and val/, and in these a folder for each class), at the paper's scale:

    torchrun --nproc-per-node 4 scripts/train_deit.py --config configs/deit/s_adamcpr_ip.yaml --data imagenet
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.images import Images, ImageSettings, Split, load_digits, load_folder
from harness.parsing import run_script
from harness.settings import setting

if TYPE_CHECKING:  # parsing must not wait for torch
    from torch import nn

SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": ("deit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4}),
    "tiny": ("deit_tiny_patch16_224", {}),
    "small": ("deit_small_patch16_224", {}),
    "base": ("deit_base_patch16_224", {}),
}
"""timm's name of the model, and what is different."""


@dataclass
class DeiTSettings(ImageSettings):
    """The settings of a DeiT training; the defaults are those of the small model on digits."""

    script: ClassVar[str] = "train_deit"
    defaults: ClassVar[dict[str, Any]] = {
        "lr": 2e-3, "weight_decay": 0.05, "max_steps": 500, "eval_every": 50, "trace_every": 10,
    }  # fmt: skip
    probabilities: ClassVar[tuple[str, ...]] = (
        "hflip", "drop_path", "crop_scale", "random_erase", "smoothing", "ema_decay",
    )  # fmt: skip

    size: str = setting("digits", "of the model", choices=SIZES)
    data: str | None = setting(None, "folder of images (default: scikit-learn's digits)", kind=Path)
    image_size: int = setting(32, "pixels along a side of what the model sees", least=1)
    drop_path: float = setting(0.0, "stochastic depth: share of left-out blocks in the last layer", least=0)
    warmup_lr: float = setting(1e-6, "learning rate at the start of the warmup", least=0)
    min_lr: float = setting(0.0, "learning rate at the end", least=0)
    crop_scale: float = setting(0.7, "smallest share of an image in a random crop", least=0)
    auto_augment: str = setting("none", "timm's name of the augmentation, for instance rand-m9-mstd0.5, or none")
    color_jitter: float = setting(0.0, "strength; timm uses it only without auto_augment", least=0)
    interpolation: str = setting("bilinear", "of training images", choices=("bilinear", "bicubic", "random"))
    random_erase: float = setting(0.0, "probability of erasing a rectangle", least=0)
    mixup: float = setting(0.0, "alpha; 0: off", least=0)
    cutmix: float = setting(0.0, "alpha; 0: off", least=0)
    smoothing: float = setting(0.1, "of labels", least=0)
    ema_decay: float = setting(0.0, "of the averaged weights, which are evaluated too; 0: no average", least=0)


def build_model(settings: DeiTSettings, classes: int) -> "nn.Module":
    """Return timm's untrained model. Raises ValueError where the patches do not fit the image."""
    import timm

    name, changes = SIZES[settings.size]
    patch = changes.get("patch_size", 16)
    if settings.image_size % patch:
        raise ValueError(
            f"image_size {settings.image_size} is no multiple of {patch}, the patches of size {settings.size}"
        )
    return timm.create_model(
        name, num_classes=classes, img_size=settings.image_size, drop_path_rate=settings.drop_path, **changes
    )


def load_data(settings: DeiTSettings) -> Split:
    """Return the images. Raises ValueError where there are too few for one batch."""
    if settings.data is None:
        split = load_digits(settings.image_size, settings.val_share)
    else:
        split = load_folder(Path(settings.data), settings.val_share)
    if len(split.train) < settings.batch_size:
        raise ValueError(f"{len(split.train)} training images are too few for a batch of {settings.batch_size}")
    return split


def datasets(settings: DeiTSettings, split: Split) -> tuple[Images, Images]:
    """Return training and validation images with timm's transforms."""
    from timm.data import create_transform
    from timm.models import get_pretrained_cfg

    s = settings
    try:
        train = create_transform(
            s.image_size, is_training=True, scale=(s.crop_scale, 1.0), hflip=s.hflip,
            color_jitter=s.color_jitter or None,  # type: ignore[arg-type]  # timm's type lacks None
            interpolation=s.interpolation,
            auto_augment=None if s.auto_augment == "none" else s.auto_augment,
            re_prob=s.random_erase, re_mode="pixel",
        )  # fmt: skip
    except (AssertionError, ValueError, KeyError) as error:
        raise ValueError(f"auto_augment is {s.auto_augment!r}, which timm does not know: {error}") from error
    # The digits fill their image; of photographs, timm evaluates the middle, for DeiT 0.9 of each side.
    crop: float | None = 1.0
    if s.data is not None and (pretrained := get_pretrained_cfg(SIZES[s.size][0])):
        crop = pretrained.crop_pct
    interpolation = "bicubic" if s.interpolation == "random" else s.interpolation
    return Images(split.train, train), Images(
        split.val, create_transform(s.image_size, interpolation=interpolation, crop_pct=crop)
    )


def train(settings: DeiTSettings) -> None:
    """Train, evaluate and write the folder of the run."""
    split = load_data(settings)

    from harness.batches import training_batches
    from harness.classification import evaluate_classifier
    from harness.optimizers import build_optimizer
    from harness.run import Run
    from timm.data import Mixup
    from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
    from timm.scheduler import CosineLRScheduler
    from timm.utils import ModelEmaV3

    s = settings
    train_images, val_images = datasets(s, split)
    metrics = ("val_loss", "val_accuracy") + (("ema_val_loss", "ema_val_accuracy") if s.ema_decay else ())
    about = {"classes": len(split.classes), "training images": len(split.train), "validation images": len(split.val)}
    run = Run(s, metrics, ("images", s.batch_size), about)
    mixing = bool(s.mixup or s.cutmix)
    if s.batch_size % (run.accelerator.num_processes * (2 if mixing else 1)):
        raise ValueError(
            f"batch_size {s.batch_size} cannot be divided into {run.accelerator.num_processes} processes"
            + (", each with an even number of images for mixup" if mixing else "")
        )
    mix = Mixup(s.mixup, s.cutmix, label_smoothing=s.smoothing, num_classes=len(split.classes)) if mixing else None
    loss_of = SoftTargetCrossEntropy() if mixing else LabelSmoothingCrossEntropy(s.smoothing)

    model = build_model(s, len(split.classes)).to(run.device)
    average = ModelEmaV3(model, decay=s.ema_decay) if s.ema_decay else None
    plain, optimizer = model, build_optimizer(model, s)
    # A function of the step alone: linear from warmup_lr, then the cosine as if it had begun at step 0.
    schedule = CosineLRScheduler(
        optimizer, t_initial=s.max_steps, lr_min=s.min_lr, warmup_t=s.warmup_steps, warmup_lr_init=s.warmup_lr,
        t_in_epochs=False,
    )  # fmt: skip
    model, stepping = run.prepare(model, optimizer, average)

    def evaluate() -> dict[str, float]:
        loss, accuracy = evaluate_classifier(run, model, val_images, s.batch_size, s.workers)
        values = {"val_loss": loss, "val_accuracy": accuracy}
        if average:
            loss, accuracy = evaluate_classifier(run, average.module, val_images, s.batch_size, s.workers)
            values |= {"ema_val_loss": loss, "ema_val_accuracy": accuracy}
        return values

    batches = training_batches(run, train_images, s.batch_size, s.workers)
    model.train()
    for step, (images, labels) in zip(run.steps(), batches, strict=False):
        schedule.step_update(step)
        if mix:
            images, labels = mix(images, labels)
        loss = loss_of(model(images), labels)
        run.accelerator.backward(loss)
        stepping.step()
        stepping.zero_grad()
        if average:
            average.update(plain, step + 1)
        run.end_step(step, loss, optimizer.param_groups[0]["lr"], evaluate)
    run.finish()


if __name__ == "__main__":
    sys.exit(run_script(DeiTSettings, train, __doc__))
