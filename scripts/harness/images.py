"""Labeled images: a folder of them, or scikit-learn's digits; and what their trainings share. Needs no torch."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from PIL import Image

from harness.settings import Settings, setting

TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_WHITE_IS_ZERO = 258, 262, 0
VAL_NAMES = ("val", "validation")
Sample = tuple[Any, int]
"""An image, or the path of one, and its label."""


@dataclass
class ImageSettings(Settings):
    """The settings of trainings on images."""

    batch_size: int = setting(64, "images in a step, on all processes together", least=2)
    workers: int = setting(0, "processes that read images, for each training process (0: none)", least=0)
    hflip: float = setting(0.0, "probability of a horizontal flip", least=0)
    val_share: float = setting(0.2, "of images that is for validation, where there is no division yet", least=0)

    probabilities: ClassVar[tuple[str, ...]] = ("hflip",)

    def check(self) -> None:
        """Check also that probabilities are at most 1. Raises ValueError."""
        super().check()
        for name in self.probabilities:
            if getattr(self, name) > 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at most 1")


class Split(NamedTuple):
    """Training and validation samples, and the names of the classes, whose positions are the labels."""

    train: list[Sample]
    val: list[Sample]
    classes: list[str]


class LabeledImages(Protocol):
    """A map-style dataset of images with their labels."""

    def __len__(self) -> int:
        """Count the images."""

    def __getitem__(self, index: int, /) -> tuple[Any, int]:
        """Return an image and its label."""


class Images:
    """Samples with a transform, as a map-style dataset of (transformed RGB image, label)."""

    def __init__(self, samples: Sequence[Sample], transform: Callable[[Image.Image], Any]) -> None:
        self.samples, self.transform = samples, transform

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Read the image afresh, so that each epoch transforms it anew."""
        source, label = self.samples[index]
        return self.transform(source if isinstance(source, Image.Image) else read_image(source)), label


def read_image(path: str) -> Image.Image:
    """Return the image in RGB of 8 bits. Raises ValueError with the file's name if it cannot be read whole.

    Values are scaled with the range of their type, never clipped. What is transparent shows white.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be read as an image ({reason}); replace or remove it") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image in RGB of 8 bits. Raises ValueError where nothing says which of its values is white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _from_16_bits(image)
    if image.mode in ("I", "F"):
        kind = "whole numbers of 32 bits" if image.mode == "I" else "floating-point numbers"
        raise ValueError(f"its values are {kind}, which have no range; save it with 8 or 16 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    visible = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), visible).convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Pillow's own conversion would make everything above 255 white."""
    values = np.asarray(image).astype(np.int64)
    tags = getattr(image, "tag_v2", {})  # of TIFF
    white = 2 ** int(tags.get(TIFF_BITS, (16,))[0]) - 1
    if values.min() < 0 or values.max() > white:
        raise ValueError(f"its values are not between 0 and {white}")
    if tags.get(TIFF_PHOTOMETRIC) == TIFF_WHITE_IS_ZERO:
        values = white - values
    gray = (255 * values + white // 2) // white
    if "transparency" in image.info:
        gray[values == image.info["transparency"]] = 255
    if 0 < values.max() < white // 16:
        warnings.warn(
            f"There are images of 16 bits whose values end below {white // 16} of {white}: few shades of gray "
            "remain of them. Rescale such images to the whole range.",
            stacklevel=2,
        )
    return Image.fromarray(gray.astype(np.uint8)).convert("RGB")


def load_digits(size: int, val_share: float) -> Split:
    """Return scikit-learn's 1797 handwritten digits of 8 x 8 pixels, enlarged to RGB of `size` x `size`."""
    from sklearn.datasets import load_digits as load

    digits = load()
    images = [Image.fromarray((16 * image).clip(0, 255).astype("uint8")) for image in digits.images]
    samples = [
        (image.resize((size, size), Image.Resampling.BILINEAR).convert("RGB"), int(label))
        for image, label in zip(images, digits.target, strict=True)
    ]
    return Split(*_divide(samples, val_share), [str(name) for name in digits.target_names])


def load_folder(folder: Path, val_share: float) -> Split:
    """Return the images in a folder, whose classes are the names of the folders that they lie in.

    With a `train` in it (ImageNet's layout), that is for training and `val` or `validation` for validation. Otherwise
    `val_share` of each class is for validation, the same images with every seed.

    Raises:
        ValueError: there is no image, or one class only; the classes of the two parts differ; a class is too small.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    if not (folder / "train").is_dir():
        samples, classes = _find(folder)
        return Split(*_divide(samples, val_share), classes)
    present = [folder / name for name in VAL_NAMES if (folder / name).is_dir()]
    if not present:
        raise ValueError(f"{folder} has a folder train, but none named {' or '.join(VAL_NAMES)}")
    (train, classes), (val, val_classes) = _find(folder / "train"), _find(present[0])
    if differing := sorted(set(classes) ^ set(val_classes)):
        raise ValueError(f"{folder}: train and {present[0].name} have different classes; one has {differing[0]}")
    return Split(train, val, classes)


def _find(folder: Path) -> tuple[list[Sample], list[str]]:
    from timm.data.readers.reader_image_folder import find_images_and_targets

    samples, numbers = find_images_and_targets(str(folder))
    if not samples:
        raise ValueError(f"{folder} holds no images (files that end in .png, .jpg or .jpeg)")
    if len(numbers) < 2:
        raise ValueError(
            f"{folder} holds the images of one class only; there must be a folder for each of two or more classes"
        )
    return samples, sorted(numbers, key=numbers.__getitem__)


def _divide(samples: list[Sample], val_share: float) -> tuple[list[Sample], list[Sample]]:
    from sklearn.model_selection import train_test_split

    labels = [label for _, label in samples]
    try:
        train, val = train_test_split(samples, test_size=val_share, stratify=labels, random_state=0)
    except ValueError as error:
        raise ValueError(f"the images cannot be divided with val_share = {val_share}: {error}") from error
    return train, val
