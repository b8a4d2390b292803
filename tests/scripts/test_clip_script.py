"""scripts/train_clip.py: the classifier against CLIP's own zero-shot answers, what is forgotten, exact resume."""

import shutil

import numpy as np
import pytest
import torch
from harness.batches import step_batch
from harness.images import Images, load_digits
from harness.parsing import make, parse
from harness.shifted_images import shifted
from harness.small_clip import class_embeddings, contrastive_loss
from safetensors.torch import load_file, save_file
from script_helpers import losses, run_with_torchrun, stop_after
from torch.nn.functional import cross_entropy
from train_clip import (
    DIGITS,
    DIGITS_SIZE,
    PRETRAINED_FOLDER,
    CLIPSettings,
    all_captions,
    build_model,
    image_transform,
    load_data,
    train,
)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A CLIP of a few steps: enough for its files."""
    import harness.small_clip as module

    folder = tmp_path_factory.mktemp("clip") / "pretrained"
    digits = load_digits(DIGITS_SIZE, 0.2)
    images = Images(digits.train[:64], image_transform(DIGITS_SIZE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STEPS", 40)
        module.pretrain(folder, [images[i] for i in range(64)], all_captions(list(DIGITS)), torch.device("cpu"))
    return folder


def flags(out, pretrained, *more):
    small = (
        f"--out {out} --device cpu --max-steps 7 --warmup-steps 2 --batch-size 4 --val-share 0.01 "
        f"--eval-every 3 --log-every 1 --trace-every 1 --checkpoint-every 3 --pretrained {pretrained}"
    )
    return [*small.split(), *more]


def train_here(given):
    train(parse(CLIPSettings, "", given))


def rows(out):
    import csv

    with (out / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_contrastive_loss_counts_every_caption_of_the_class_as_right():
    logits = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # All classes differ: CLIP's own loss.
    own = (cross_entropy(logits, torch.arange(4)) + cross_entropy(logits.T, torch.arange(4))) / 2
    assert float(contrastive_loss(logits, torch.tensor([5, 3, 2, 7]))) == pytest.approx(float(own))
    # Images 0 and 2 are of one class: by hand, each row's mean over its right captions.
    log_rows = np.log(np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=1, keepdims=True))
    log_columns = np.log(np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=0, keepdims=True))
    right = {0: (0, 2), 1: (1,), 2: (0, 2), 3: (3,)}
    by_hand = [-np.mean([log_rows[i, j] for j in of]) - np.mean([log_columns[j, i] for j in of])
               for i, of in right.items()]  # fmt: skip
    assert float(contrastive_loss(logits, torch.tensor([1, 4, 1, 0]))) == pytest.approx(np.mean(by_hand) / 2)


def test_before_training_the_classifier_answers_as_clip_does(pretrained):
    from transformers import AutoTokenizer, CLIPModel

    clip, tokenizer = CLIPModel.from_pretrained(pretrained), AutoTokenizer.from_pretrained(pretrained)
    texts = [f"a photo of the {name}." for name in DIGITS]
    images = torch.randn(5, 3, DIGITS_SIZE, DIGITS_SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = clip(pixel_values=images, **tokenizer(texts, padding=True, return_tensors="pt")).logits_per_image
        model = build_model(clip, class_embeddings(clip, tokenizer, [[text] for text in texts]))
        torch.testing.assert_close(model(images), expected)


def test_captions_name_imagenets_numbers_and_folders_in_words():
    tench, shark = all_captions(["n01440764", "n01484850"])
    assert tench[0] == "a photo of the tench."
    assert "great white shark" in shark[1]
    assert all_captions(["brown_bear", "n01440764"])[0][0] == "a photo of the brown bear."
    bird, machine = all_captions(["n02012849", "n03126707"])  # both are "crane" first
    assert bird != machine


def test_names_of_any_length_and_script_are_classes(pretrained):
    from transformers import AutoTokenizer, CLIPModel

    clip, tokenizer = CLIPModel.from_pretrained(pretrained), AutoTokenizer.from_pretrained(pretrained)
    embeddings = class_embeddings(clip, tokenizer, all_captions(["西瓜" * 30, "golden_retriever_of_my_neighbor" * 3]))
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))


def test_the_new_images_are_the_old_ones_changed_and_none_is_trained_and_validated_with():
    task = load_data(make(CLIPSettings, {}))
    again = load_data(make(CLIPSettings, {"seed": 5}))
    for part, old, other in (("train", task.old.train, again.new.train), ("val", task.old.val, again.new.val)):
        new = getattr(task.new, part)
        assert [label for _, label in new] == [label for _, label in old]
        assert [image.tobytes() for image, _ in new] == [image.tobytes() for image, _ in other]
        assert all(image.tobytes() != plain.tobytes() for (image, _), (plain, _) in zip(new, old, strict=True))
    assert not {i.tobytes() for i, _ in task.old.train} & {i.tobytes() for i, _ in task.old.val}
    assert shifted(task.old.val[:2], seed=0)[0][0].tobytes() != shifted(task.old.val[:2], seed=1)[0][0].tobytes()


@pytest.mark.slow
def test_without_flags_it_learns_the_new_images_and_forgets_old_ones(tmp_path):
    train_here(["--out", str(tmp_path / "run"), "--device", "cpu", "--optimizer", "adamw"])
    first, *_, last = rows(tmp_path / "run")
    assert (first["step"], first["train_loss"], last["step"]) == ("0", "", "300")
    assert float(first["old_accuracy"]) > 0.8  # zero-shot, by the captions alone
    assert float(last["val_accuracy"]) > float(first["val_accuracy"]) + 0.3
    assert float(last["old_accuracy"]) < float(first["old_accuracy"]) - 0.1


def test_cpr_bounds_the_image_tower_and_the_head_and_no_text(tmp_path, pretrained):
    train_here(flags(tmp_path / "run", pretrained, "--kappa-init-method", "warm_start", "--kappa-init-param", "2"))
    trace = [row.split(",") for row in (tmp_path / "run" / "cpr_trace.csv").read_text().splitlines()[1:]]
    names = {row[1] for row in trace}
    assert {"head.weight", "visual_projection.weight"} < names
    assert not any("text" in name or "bias" in name or "norm" in name for name in names)


def test_a_resumed_run_has_the_same_losses(tmp_path, pretrained, monkeypatch):
    train_here(flags(tmp_path / "whole", pretrained))
    for steps in (2, 5):  # before the first checkpoint, too
        out = tmp_path / f"broken{steps}"
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            with pytest.raises(KeyboardInterrupt):
                train_here(flags(out, pretrained))
        train_here(flags(out, pretrained, "--resume"))
        assert losses(out) == losses(tmp_path / "whole")
        assert [row["step"] for row in rows(out)] == [str(step) for step in range(8)]


def test_a_resumed_run_needs_the_same_pretrained_model(tmp_path, pretrained, monkeypatch):
    folder, out = tmp_path / "clip", tmp_path / "run"
    shutil.copytree(pretrained, folder)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train_here(flags(out, folder))
    weights = load_file(folder / "model.safetensors")
    weights["text_projection.weight"][0, 0] += 1  # it is not trained, and not in the checkpoint
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    before = (out / "metrics.csv").read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint.pt is of a run that began with another pretrained model"):
        train_here(flags(out, folder, "--resume"))
    assert (out / "metrics.csv").read_bytes() == before


def test_two_processes_train_and_evaluate_as_one(tmp_path, pretrained):
    train_here(flags(tmp_path / "one", pretrained))
    done = run_with_torchrun("train_clip.py", flags(tmp_path / "two", pretrained))
    assert done.returncode == 0, done.stderr
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        for name in ("train_loss", "val_loss", "val_accuracy", "old_accuracy"):
            assert (two[name] and float(two[name])) == (one[name] and pytest.approx(float(one[name]), rel=1e-3))


def test_without_a_pretrained_clip_one_is_trained_whole_or_not_at_all(tmp_path, monkeypatch):
    import harness.small_clip as module

    given = flags(tmp_path / "run", "x")[:-2]
    monkeypatch.setattr(module, "STEPS", 40)
    with monkeypatch.context() as patch:
        patch.setattr(module, "contrastive_loss", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_here(given)
    folder = tmp_path / "run" / PRETRAINED_FOLDER
    assert not folder.exists()
    train_here(given)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(before)
    assert [path.name for path in folder.parent.iterdir() if "unfinished" in path.name] == []
    shutil.copytree(folder, tmp_path / "copy")
    train_here(flags(tmp_path / "second", tmp_path / "copy"))
    assert losses(tmp_path / "second") == losses(tmp_path / "run")
    with pytest.raises(ValueError, match=r"was pretrained with --val-share 0\.01: some of its digits"):
        train_here(flags(tmp_path / "third", tmp_path / "copy", "--val-share", "0.2"))


def test_what_cannot_be_used_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"no pretrained CLIP can be loaded from .*nowhere"):
        train_here(flags(tmp_path / "run", tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="1437 training images are too few for a batch of 1438"):
        train_here(flags(tmp_path / "run", "x", "--val-share", "0.2", "--batch-size", "1438"))
    assert not (tmp_path / "run").exists()


def test_pretraining_sees_each_image_before_any_twice():
    assert len({*step_batch(128, 64, 0, 0, drop_last=True), *step_batch(128, 64, 0, 1, drop_last=True)}) == 128
