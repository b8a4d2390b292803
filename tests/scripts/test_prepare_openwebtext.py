"""Token files against a plain loop over the documents; broken off, continued, damaged."""

import json
import os

import datasets
import pytest
import tokenizers
from harness.tokens import load_tokens
from prepare_openwebtext import main, prepare, validation_documents

from nnunet_cpr.exclusive import exclusive

DOCUMENTS = [f"document {i}: " + "the quick brown fox " * (i % 7) for i in range(103)]
ABOUT = {"dataset": "here", "tokenizer": "own", "val_share": 0.1, "seed": 5}


def make_tokenizer(vocab_size=300, special=("<|endoftext|>",)):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(DOCUMENTS, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def expected(tokenizer):
    """What the files should hold, document by document."""
    validation, end = validation_documents(103, 0.1, 5), tokenizer.token_to_id("<|endoftext|>")
    split = {"train": [], "val": []}
    for text, chosen in zip(DOCUMENTS, validation, strict=True):
        split["val" if chosen else "train"] += [*tokenizer.encode(text).ids, end]
    return split


def assert_complete(out, tokenizer):
    assert sorted(p.name for p in out.iterdir()) == ["meta.json", "train.bin", "val.bin"]
    data = load_tokens(str(out), 0.0)
    assert data.vocab_size == tokenizer.get_vocab_size()
    assert data.train.tolist() == expected(tokenizer)["train"]
    assert data.val.tolist() == expected(tokenizer)["val"]


def test_the_files_hold_every_document_once_in_order(tokenizer, tmp_path):
    meta = prepare(DOCUMENTS, tokenizer, tmp_path / "out", ABOUT, batch=10)
    assert_complete(tmp_path / "out", tokenizer)
    assert meta["tokens"]["train"] == len(expected(tokenizer)["train"])
    assert validation_documents(103, 0.1, 5).sum() == 10


class BreaksOff(list):
    """Documents whose reading fails once, from a certain one on."""

    def __getitem__(self, index):
        if isinstance(index, slice) and index.start >= 40 and not getattr(self, "failed", False):
            self.failed = True
            raise OSError("the disk is gone")
        return super().__getitem__(index)


@pytest.mark.parametrize("garbage", [b"", b"half a batch that was not noted"])
def test_a_broken_off_preparation_continues_where_it_was(tokenizer, tmp_path, garbage):
    documents, out = BreaksOff(DOCUMENTS), tmp_path / "out"
    with pytest.raises(OSError, match="the disk is gone"):
        prepare(documents, tokenizer, out, ABOUT, batch=10)
    assert json.loads((out / "state.json").read_text())["documents_done"] == 40
    with pytest.raises(ValueError, match=r"holds token files without meta.json; finish prepare_openwebtext.py first"):
        (out / "train.bin").touch()
        load_tokens(str(out), 0.1)
    (out / "train.bin").unlink()
    with (out / "train.bin.part").open("ab") as file:
        file.write(garbage)
    prepare(documents, tokenizer, out, ABOUT, batch=10)
    assert_complete(out, tokenizer)


def test_broken_off_between_the_renaming_and_the_description(tokenizer, tmp_path, monkeypatch):
    import prepare_openwebtext

    real = prepare_openwebtext.write_json

    def full_disk(path, content):
        if path.name == "meta.json":
            raise OSError("No space left on device")
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(prepare_openwebtext, "write_json", full_disk)
        with pytest.raises(OSError, match="No space"):
            prepare(DOCUMENTS, tokenizer, tmp_path / "out", ABOUT, batch=10)
    prepare(DOCUMENTS, tokenizer, tmp_path / "out", ABOUT, batch=10)
    assert_complete(tmp_path / "out", tokenizer)


def test_other_settings_do_not_continue_it(tokenizer, tmp_path):
    with pytest.raises(OSError, match="the disk is gone"):
        prepare(BreaksOff(DOCUMENTS), tokenizer, tmp_path, ABOUT, batch=10)
    with pytest.raises(ValueError, match="was begun with seed 5, not 6"):
        prepare(DOCUMENTS, tokenizer, tmp_path, ABOUT | {"seed": 6}, batch=10)
    os.truncate(tmp_path / "train.bin.part", 10)
    with pytest.raises(ValueError, match=r"train.bin.part is shorter than .*state.json says"):
        prepare(DOCUMENTS, tokenizer, tmp_path, ABOUT, batch=10)


def test_a_vocabulary_beyond_uint16_and_one_without_end_of_text_are_refused(tmp_path):
    large = make_tokenizer()
    large.add_tokens([f"extra {i}" for i in range(2**16)])
    with pytest.raises(ValueError, match=r"a vocabulary of 65\d+ does not fit uint16, which has 65536 values"):
        prepare(DOCUMENTS, large, tmp_path / "out", ABOUT, batch=10)
    with pytest.raises(ValueError, match=r"no token <\|endoftext\|>"):
        prepare(DOCUMENTS, make_tokenizer(special=()), tmp_path / "out", ABOUT, batch=10)
    assert not (tmp_path / "out").exists()


def test_the_check_reads_the_files_back(tokenizer, tmp_path):
    class Wrong:
        """Notes a smaller vocabulary than its tokens need."""

        get_vocab_size = staticmethod(lambda: 50)
        token_to_id, encode_batch = tokenizer.token_to_id, tokenizer.encode_batch

    with pytest.raises(ValueError, match=r"holds the token .* but the vocabulary ends at 49"):
        prepare(DOCUMENTS, Wrong(), tmp_path, ABOUT, batch=10)
    assert not (tmp_path / "meta.json").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_truncated_or_missing_token_file_is_noticed_before_the_training(tokenizer, tmp_path, split):
    prepare(DOCUMENTS, tokenizer, tmp_path, ABOUT, batch=50)
    file = tmp_path / f"{split}.bin"
    size = file.stat().st_size
    os.truncate(file, size - 3)
    with pytest.raises(
        ValueError, match=rf"{split}.bin has {size - 3} bytes, but {size // 2} tokens have {size}: it is"
    ):
        load_tokens(str(tmp_path), 0.1)
    file.unlink()
    with pytest.raises(ValueError, match=rf"{split}.bin is missing"):
        load_tokens(str(tmp_path), 0.1)


@pytest.mark.parametrize("content", ["{", "{}", '{"vocab_size": 70000, "tokens": {"train": 1, "val": 1}}'])
def test_a_broken_description_is_one_line(tmp_path, content):
    (tmp_path / "meta.json").write_text(content)
    with pytest.raises(ValueError, match=r"meta.json(:| cannot be read)"):
        load_tokens(str(tmp_path), 0.1)


def test_text_files_are_bytes_with_the_end_for_validation(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"world")
    (tmp_path / "a.txt").write_bytes(b"hello")
    (tmp_path / "image.png").write_bytes(b"\0\1")
    (tmp_path / ".hidden").write_bytes(b"no")
    data = load_tokens(str(tmp_path), 0.2)
    assert bytes(data.train) + bytes(data.val) == b"hello\nworld"
    assert (len(data.train), data.vocab_size) == (9, 256)
    with pytest.raises(ValueError, match="holds no text"):
        (tmp_path / "empty").mkdir()
        load_tokens(str(tmp_path / "empty"), 0.1)


def test_the_embedded_text_is_the_standard_librarys_source():
    data = load_tokens(None, 0.05)
    assert len(data.train) > 5e6
    assert b"class JSONDecoder" in bytes(data.train)


def test_the_command_with_a_saved_dataset_and_a_tokenizer_file(tokenizer, tmp_path, capsys):
    datasets.Dataset.from_dict({"text": DOCUMENTS}).save_to_disk(tmp_path / "data")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    flags = ["--dataset", str(tmp_path / "data"), "--tokenizer", str(tmp_path / "tokenizer.json"), "--val-share", "0.1"]
    assert main([*flags, "--seed", "5", "--batch", "20", "--out", str(tmp_path / "out")]) == 0
    assert_complete(tmp_path / "out", tokenizer)
    assert main(["--out", str(tmp_path / "out")]) == 0
    assert "is complete already" in capsys.readouterr().out


def test_sources_that_cannot_be_loaded_are_one_line(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    assert main(["--dataset", str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "cannot be loaded" in error
    assert not (tmp_path / "out").exists()


def test_a_batch_of_no_documents_is_one_line(tmp_path, capsys):
    assert main(["--batch", "0", "--dataset", str(tmp_path / "absent"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "prepare_openwebtext.py: error: --batch is 0, but must be at least 1\n"


def test_a_second_process_is_refused_before_it_touches_anything(tokenizer, tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(OSError, match="the disk is gone"):
        prepare(BreaksOff(DOCUMENTS), tokenizer, out, ABOUT, batch=10)
    with exclusive(out):  # as by another process
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        assert main(["--out", str(out), "--dataset", str(tmp_path / "absent")]) == 2
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    error = capsys.readouterr().err
    assert error.startswith(f"prepare_openwebtext.py: error: {out} is in use by another process")
    assert error.count("\n") == 1
    prepare(DOCUMENTS, tokenizer, out, ABOUT, batch=10)
    assert_complete(out, tokenizer)


def test_paths_below_the_home_folder(tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    datasets.Dataset.from_dict({"text": DOCUMENTS}).save_to_disk(tmp_path / "data")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    flags = ["--dataset", "~/data", "--tokenizer", "~/tokenizer.json", "--val-share", "0.1", "--seed", "5"]
    assert main([*flags, "--out", "~/out"]) == 0
    assert_complete(tmp_path / "out", tokenizer)
    capsys.readouterr()
    assert main(["--out", "~nobody-here/out"]) == 2
    assert "~nobody-here" in capsys.readouterr().err
