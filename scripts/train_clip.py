"""Fine-tune CLIP's image tower with a class head from its text tower, with AdamW, AdamCPR or what competes with them.

Without flags it first trains a small CLIP on captioned handwritten digits, offline, in a minute, and then fine-tunes it
on rotated, noisy ones. Reported are the accuracy on the new images and what is left of the zero-shot accuracy on the
old ones, that is, how much was forgotten:

    python scripts/train_clip.py --optimizer adamcpr
    python scripts/train_clip.py --optimizer adamw --pretrained runs/train_clip/adamcpr-seed1234/pretrained

The paper's ViT-B/32 on ImageNet (a folder with train/ and val/, and in these a folder for each class):

    torchrun --nproc-per-node 4 scripts/train_clip.py --config configs/clip/b32_adamcpr_ws2x.yaml --data imagenet
"""

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from harness.images import Images, ImageSettings, Split, load_digits, load_folder
from harness.parsing import run_script
from harness.pretrained import checksum
from harness.settings import setting
from harness.shifted_images import shifted

from nnunet_cpr.files import read_json, write_json
from nnunet_cpr.schedules import warmup_cosine_lr

if TYPE_CHECKING:  # parsing must not wait for torch
    import torch
    from harness.run import Run
    from torch import nn

HUB_NAMES = {"digits": None, "b32": "openai/clip-vit-base-patch32"}
"""What a size is called on the Hugging Face hub."""
PRETRAINED_FOLDER = "pretrained"
PRETRAINING_FILE = "pretraining.json"
"""In a folder of ours: how the digits were divided."""
TEMPLATES = ("a photo of the {}.", "an image of a {}.", "a picture of one {}.")
DIGITS_SIZE = 32
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the red, green and blue of the images that CLIP was trained on, between 0 and 1."""
WORDNET_ID = re.compile(r"n\d{8}")


@dataclass
class CLIPSettings(ImageSettings):
    """The settings of a fine-tuning; the defaults are those of the small CLIP on digits."""

    script: ClassVar[str] = "train_clip"
    defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3, "max_steps": 300, "eval_every": 50, "trace_every": 10}
    probabilities: ClassVar[tuple[str, ...]] = ("hflip", "crop_scale", "smoothing")

    size: str = setting("digits", "of the model; b32: CLIP's ViT-B/32", choices=HUB_NAMES)
    pretrained: str | None = setting(
        None, "folder with the pretrained CLIP (default: digits: train one; b32: from the Hugging Face hub)", kind=Path
    )
    data: str | None = setting(None, "folder of images to fine-tune on (default: shifted digits)", kind=Path)
    old_data: str | None = setting(
        None, "folder of images for the zero-shot accuracy (default: the digits, with the default of --data)", kind=Path
    )
    crop_scale: float = setting(0.9, "smallest share of an image in a random crop", least=0)
    smoothing: float = setting(0.0, "of labels", least=0)


class Task(NamedTuple):
    """Images to fine-tune on, and images that show what is forgotten; each with the names of its classes."""

    new: Split
    old: Split | None


def load_data(settings: CLIPSettings) -> Task:
    """Return the images. Raises ValueError where there are too few for one batch."""
    s = settings
    old = load_folder(Path(s.old_data), s.val_share) if s.old_data else None
    if s.data:
        new = load_folder(Path(s.data), s.val_share)
    else:
        digits = load_digits(DIGITS_SIZE, s.val_share)._replace(classes=list(DIGITS))
        new = digits._replace(train=shifted(digits.train, seed=0), val=shifted(digits.val, seed=1))
        old = old or digits
    if len(new.train) < s.batch_size:
        raise ValueError(f"{len(new.train)} training images are too few for a batch of {s.batch_size}")
    return Task(new, old)


def all_captions(classes: list[str]) -> list[list[str]]:
    """Return the texts for each class; ImageNet's numbers become the words that timm knows for them."""
    if all(WORDNET_ID.fullmatch(name) for name in classes):
        from timm.data import ImageNetInfo

        info = ImageNetInfo()
        short = [info.label_name_to_description(name).split(",")[0] for name in classes]
        classes = [  # "crane" is two classes
            word if short.count(word) == 1 else info.label_name_to_description(name, detailed=True)
            for word, name in zip(short, classes, strict=True)
        ]
    return [[template.format(name.replace("_", " ")) for template in TEMPLATES] for name in classes]


def load_clip(settings: CLIPSettings, run: "Run") -> tuple[Any, Any]:
    """Return the pretrained CLIP and its tokenizer; train a small one on digits where none is named.

    Raises:
        ValueError: it can neither be read nor downloaded; it was trained on digits that are for validation here.
    """
    from transformers import AutoTokenizer, CLIPModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # one for each file
    source = settings.pretrained or HUB_NAMES[settings.size]
    if source is None:
        source = str(settings.folder / PRETRAINED_FOLDER)
        if run.main and not Path(source).exists():
            print("training a small CLIP on captioned digits first", flush=True)
            _pretrain(settings, Path(source), run)
        run.accelerator.wait_for_everyone()
    ours = Path(source, PRETRAINING_FILE)
    if not settings.data and ours.is_file() and (share := read_json(ours).get("val_share")) != settings.val_share:
        raise ValueError(
            f"{source} was pretrained with --val-share {share}: some of its digits are for validation with "
            f"{settings.val_share}; use the same, or another folder"
        )
    try:
        # In float32 whatever it was saved in: it is trained.
        clip = CLIPModel.from_pretrained(source, dtype="float32").to(run.device)
        return clip, AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"no pretrained CLIP can be loaded from {source}: {error}") from error


def _pretrain(settings: CLIPSettings, folder: Path, run: "Run") -> None:
    from harness.small_clip import pretrain

    digits = load_digits(DIGITS_SIZE, settings.val_share)
    images = Images(digits.train, image_transform(DIGITS_SIZE))
    unfinished = folder.with_name(f"{PRETRAINED_FOLDER}-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    pretrain(unfinished, [images[i] for i in range(len(images))], all_captions(list(DIGITS)), run.device)
    write_json(unfinished / PRETRAINING_FILE, {"val_share": settings.val_share})
    unfinished.rename(folder)


def image_transform(size: int) -> Any:
    """Return timm's transform of images that are not augmented, with CLIP's mean and deviation."""
    from timm.data import create_transform

    return create_transform(size, interpolation="bicubic", crop_pct=1.0, mean=MEAN, std=STD)


def build_model(clip: Any, embeddings: "torch.Tensor") -> "nn.Module":
    """Return a classifier: CLIP's image tower, whose features have norm 1, and a linear head.

    Before training it is CLIP's zero-shot classifier: the head's weights are the classes' embeddings (classes,
    dimension) times CLIP's scale, its biases are zero (Wortsman et al. 2022, arXiv:2109.01903). All classifiers of one
    CLIP share its tower.
    """
    from torch import nn
    from torch.nn.functional import normalize

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vision_model, self.visual_projection = clip.vision_model, clip.visual_projection
            self.head = nn.Linear(embeddings.shape[1], embeddings.shape[0])

        def forward(self, images: "torch.Tensor") -> "torch.Tensor":
            features = self.visual_projection(self.vision_model(pixel_values=images).pooler_output)
            logits: torch.Tensor = self.head(normalize(features, dim=-1))
            return logits

    classifier = Classifier().to(embeddings.device)
    classifier.head.weight.data.copy_(embeddings * clip.logit_scale.detach().exp())
    nn.init.zeros_(classifier.head.bias)
    return classifier


def train(settings: CLIPSettings) -> None:
    """Fine-tune, evaluate and write the folder of the run."""
    s = settings
    new, old = load_data(s)

    from harness.batches import training_batches
    from harness.classification import evaluate_classifier
    from harness.optimizers import build_optimizer, set_lr
    from harness.run import Run
    from harness.small_clip import class_embeddings
    from timm.data import create_transform
    from torch.nn.functional import cross_entropy

    about: dict[str, Any] = {
        "classes": len(new.classes),
        "training images": len(new.train),
        "validation images": len(new.val),
    }
    metrics = ("val_loss", "val_accuracy") + (("old_accuracy",) if old else ())
    run = Run(s, metrics, ("images", s.batch_size), about)
    if s.batch_size % run.accelerator.num_processes:
        raise ValueError(f"batch_size {s.batch_size} cannot be divided into {run.accelerator.num_processes} processes")
    clip, tokenizer = load_clip(s, run)
    about["pretrained"] = checksum(clip)
    size = clip.config.vision_config.image_size
    augmented = create_transform(
        size, is_training=True, scale=(s.crop_scale, 1.0), ratio=(1.0, 1.0), hflip=s.hflip,
        color_jitter=None,  # type: ignore[arg-type]  # timm's type lacks None
        interpolation="bicubic", mean=MEAN, std=STD,
    )  # fmt: skip
    images, val_images = Images(new.train, augmented), Images(new.val, image_transform(size))
    # Both have one tower, the one that is trained.
    classifier, *of_old = (
        build_model(clip, class_embeddings(clip, tokenizer, all_captions(split.classes)))
        for split in (new, old)
        if split
    )
    model, optimizer = run.prepare(classifier, build_optimizer(classifier, s))

    def evaluate() -> dict[str, float]:
        loss, accuracy = evaluate_classifier(run, model, val_images, s.batch_size, s.workers)
        values = {"val_loss": loss, "val_accuracy": accuracy}
        if old:
            old_images = Images(old.val, image_transform(size))
            values["old_accuracy"] = evaluate_classifier(run, of_old[0], old_images, s.batch_size, s.workers)[1]
        return values

    run.evaluate_first(evaluate)
    batches = training_batches(run, images, s.batch_size, s.workers)
    model.train()
    for step, (batch, labels) in zip(run.steps(), batches, strict=False):
        lr = warmup_cosine_lr(step, s.lr, s.warmup, s.max_steps)
        set_lr(optimizer, lr)
        loss = cross_entropy(model(batch), labels, label_smoothing=s.smoothing)
        run.accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        run.end_step(step, loss, lr, evaluate)
    run.finish()


if __name__ == "__main__":
    sys.exit(run_script(CLIPSettings, train, __doc__))
