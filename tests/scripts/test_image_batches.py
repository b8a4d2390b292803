"""Batches of images: a function of seed and step, whoever reads them and wherever a training begins."""

import random
import struct
import warnings
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from harness.batches import step_batch, training_batches
from harness.images import Images, load_digits, load_folder, read_image, to_rgb
from PIL import Image


def noisy(_):
    """A transform that uses all three generators that augmentations use."""
    return torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])


def batches(first_step=0, processes=1, rank=0, workers=0, seed=1, max_steps=5):
    images = Images([(Image.new("RGB", (1, 1)), label) for label in range(10)], noisy)

    def share(batch):
        part = len(batch) // processes
        return batch[rank * part : (rank + 1) * part]

    settings = SimpleNamespace(seed=seed, max_steps=max_steps)
    run = SimpleNamespace(settings=settings, first_step=first_step, device=torch.device("cpu"), share=share)
    return [torch.cat([noise, labels[:, None]], dim=1) for noise, labels in training_batches(run, images, 4, workers)]


def test_an_epoch_has_every_index_once_and_each_epoch_another_order():
    epochs = [[step_batch(3830, 512, 1, 8 * epoch + part, drop_last=False) for part in range(8)] for epoch in range(2)]
    assert [len(batch) for batch in epochs[0]] == [512] * 7 + [246]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch)) == list(range(3830))
    assert (epochs[0][0] != epochs[1][0]).any()


def test_what_is_left_over_can_be_left_out():
    epochs = [[step_batch(10, 4, 1, 2 * epoch + part, drop_last=True) for part in range(2)] for epoch in range(50)]
    assert all(len(set(np.concatenate(epoch).tolist())) == 8 for epoch in epochs)
    assert {index for epoch in epochs for batch in epoch for index in batch.tolist()} == set(range(10))


def test_batches_are_the_same_from_any_step_and_with_any_number_of_workers_and_processes():
    whole = batches()
    assert len(whole) == 5
    assert len({tuple(row[:3].tolist()) for batch in whole for row in batch}) == 20  # no image is like another
    torch.testing.assert_close(batches(first_step=3), whole[3:], rtol=0, atol=0)
    torch.testing.assert_close(batches(workers=2), whole, rtol=0, atol=0)
    halves = zip(batches(processes=2, rank=0), batches(processes=2, rank=1), strict=True)
    torch.testing.assert_close([torch.cat(pair) for pair in halves], whole, rtol=0, atol=0)
    assert all((a != b).any() for a, b in zip(batches(seed=2), whole, strict=True))


def test_reading_images_leaves_the_generators_of_the_training_alone():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    def seed():
        random.seed(3), np.random.seed(3), torch.manual_seed(3)

    loader = iter(training_batches_of_one())
    seed()
    expected = draw()
    seed()
    next(loader)
    assert draw() == expected


def training_batches_of_one():
    settings = SimpleNamespace(seed=1, max_steps=1)
    run = SimpleNamespace(settings=settings, first_step=0, device=torch.device("cpu"), share=lambda batch: batch)
    generator = training_batches(run, Images([(Image.new("RGB", (1, 1)), 0)] * 2, noisy), 2, 0)
    return generator


@pytest.fixture
def folder(tmp_path):
    """Two classes of four images, one class a gray PNG, the other a color JPEG."""
    for name, mode, ending in (("cat", "L", "png"), ("dog", "RGB", "jpg")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(4):
            Image.new(mode, (20, 10), 60 * i if mode == "L" else (60 * i, 0, 0)).save(
                tmp_path / "data" / name / f"{i}.{ending}"
            )
    return tmp_path / "data"


def test_a_folder_is_divided_by_class_and_always_the_same(folder):
    split = load_folder(folder, 0.25)
    assert split.classes == ["cat", "dog"]
    assert [sorted(label for _, label in part) for part in (split.train, split.val)] == [[0] * 3 + [1] * 3, [0, 1]]
    assert {path.split("/")[-2] for path, label in split.train if label == 1} == {"dog"}
    assert not {path for path, _ in split.train} & {path for path, _ in split.val}
    assert load_folder(folder, 0.25) == split
    assert read_image(split.train[0][0]).mode == "RGB"


def test_the_digits_are_divided_by_class():
    counts = Counter(label for _, label in load_digits(8, 0.1).val)  # 174 to 183 images a class
    assert set(counts) == set(range(10))
    assert set(counts.values()) <= {17, 18, 19}


@pytest.mark.parametrize("val", ["val", "validation"])
def test_imagenets_layout(folder, val):
    for name in ("cat", "dog"):
        (folder / "train" / name).mkdir(parents=True)
        (folder / val / name).mkdir(parents=True)
        for i in range(4):
            path = next((folder / name).glob(f"{i}.*"))
            path.rename(folder / (val if i == 0 else "train") / name / path.name)
    split = load_folder(folder, 0.9)
    assert (len(split.train), len(split.val), split.classes) == (6, 2, ["cat", "dog"])
    assert all(f"/{val}/" in path for path, _ in split.val)
    (folder / val / "dog").rename(folder / val / "wolf")
    with pytest.raises(ValueError, match=r"train and val.* have different classes; one has dog"):
        load_folder(folder, 0.9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.rename(f.with_name("moved")), ": there is no such folder"),
        (lambda f: [p.unlink() for p in f.rglob("*.*")], "holds no images"),
        (lambda f: [p.unlink() for p in f.rglob("*.png")], "holds the images of one class only"),
        (lambda f: [p.unlink() for p in f.rglob("*.png") if p.stem > "0"], "cannot be divided with val_share = 0.25"),
        (lambda f: (f / "train").mkdir(), "has a folder train, but none named val or validation"),
    ],
)
def test_a_folder_that_cannot_be_learned_from_is_one_line(folder, change, message):
    change(folder)
    with pytest.raises(ValueError, match=message):
        load_folder(folder, 0.25)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
def test_a_broken_image_is_named_in_one_line(folder, content, workers):
    path = folder / "dog" / "0.jpg"
    path.write_bytes(path.read_bytes()[:-40] if content == "truncated" else content)
    run = SimpleNamespace(
        settings=SimpleNamespace(seed=1, max_steps=9), first_step=0, device=torch.device("cpu"), share=lambda b: b
    )
    samples = [*load_folder(folder, 0.25).train, (str(path), 1)]
    with pytest.raises(ValueError) as caught:
        list(training_batches(run, Images(samples, noisy), 7, workers))
    assert str(caught.value).startswith(f"{path} cannot be read as an image (")
    assert "\n" not in str(caught.value)


VALUES = [0, 1, 128, 129, 9000, 32768, 45000, 65535]
SCALED = [0, 0, 0, 1, 35, 128, 175, 255]  # 255 / 65535 = 1 / 257 of each value, rounded


@pytest.mark.parametrize(
    ("mode", "dtype", "ending"),
    [("I;16", "<u2", "png"), ("I;16", "<u2", "tif"), ("I;16B", ">u2", "tif"), ("I", "<i4", "pgm")],
)
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, mode, dtype, ending):
    path = tmp_path / f"x.{ending}"
    image = Image.frombytes(mode, (8, 1), np.array(VALUES, dtype).tobytes())
    image.save(path)
    pixels = np.asarray(read_image(str(path)))
    assert pixels.tolist() == [[[value] * 3 for value in SCALED]]


@pytest.mark.parametrize(("bits", "white_is_zero"), [(16, True), (12, False)])
def test_tiff_says_what_white_is(tmp_path, bits, white_is_zero):
    """Written byte by byte: one row of two gray values, the second of them half of the largest."""
    data = struct.pack("<HH", 0, 2**15) if bits == 16 else bytes([0x00, 0x08, 0x00])  # 12 bits: 000 800
    tags = [
        (256, 2),
        (257, 1),
        (258, bits),
        (259, 1),
        (262, 0 if white_is_zero else 1),
        (273, 8),
        (277, 1),
        (278, 1),
        (279, len(data)),
    ]
    table = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    start = 8 + len(data) + len(data) % 2
    content = struct.pack("<2sHI", b"II", 42, start) + data.ljust(start - 8, b"\0")
    path = tmp_path / "x.tif"
    path.write_bytes(content + struct.pack("<H", len(tags)) + table + b"\0\0\0\0")
    assert np.asarray(read_image(str(path)))[0, :, 0].tolist() == ([255, 127] if white_is_zero else [0, 128])


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_what_is_transparent_shows_white(tmp_path, mode):
    """Red or gray, seen through by a fifth: 255 - (255 - value) * 204 / 255."""
    colors = {"LA": (100, 204), "RGBA": (200, 100, 0, 204)}.get(mode)
    if colors:
        image = Image.new(mode, (1, 1), colors)
        expected = [131] * 3 if mode == "LA" else [211, 131, 51]
    else:
        image = Image.new("P", (1, 1), 1)
        image.putpalette([0, 0, 0, 200, 100, 0])
        expected = [211, 131, 51]
    path = tmp_path / "x.png"
    image.save(path, **({"transparency": bytes([255, 204])} if mode == "P" else {}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.asarray(read_image(str(path))).tolist() == [[expected]]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("1", (1, 1), 1), [255] * 3),
        (Image.new("L", (1, 1), 77), [77] * 3),
        (Image.new("LA", (1, 1), (77, 255)), [77] * 3),
        (Image.new("L", (1, 1), 77).convert("P"), [77] * 3),
        (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), [255, 0, 0]),
        (Image.new("RGB", (1, 1), (1, 2, 3)), [1, 2, 3]),
    ],
)
def test_other_modes_keep_their_color(image, expected):
    assert np.asarray(to_rgb(image)).tolist() == [[expected]]


@pytest.mark.parametrize(("mode", "words"), [("F", "floating-point numbers"), ("I", "whole numbers of 32 bits")])
def test_values_without_a_range_are_refused_by_name(tmp_path, mode, words):
    Image.new(mode, (2, 2), 1).save(tmp_path / "x.tif")
    with pytest.raises(
        ValueError, match=rf"x\.tif cannot be read as an image \(its values are {words}, .*8 or 16 bits"
    ):
        read_image(str(tmp_path / "x.tif"))


def test_twelve_bits_in_sixteen_are_told(tmp_path):
    Image.fromarray(np.array([[0, 4000]], np.uint16)).save(tmp_path / "x.png")
    with pytest.warns(UserWarning, match="few shades of gray remain"):
        assert np.asarray(read_image(str(tmp_path / "x.png")))[0, :, 0].tolist() == [0, 16]
