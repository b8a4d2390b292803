"""Which files count as the same: by what is in them, not by their names or how they were compressed."""

import bz2
import gzip
import os

import pytest
import torch

from nnunet_cpr.content_id import content_id, same_content

NOISE = os.urandom(3 << 20)
CONTENTS = {"noise": NOISE, "another byte": NOISE[:-1] + bytes([NOISE[-1] ^ 1]), "shorter": NOISE[:-1], "empty": b""}
WRITERS = {
    "plain": lambda path, data: path.write_bytes(data),
    "gzip": lambda path, data: path.write_bytes(gzip.compress(data, mtime=0)),
    "gzip, other level and time": lambda path, data: path.write_bytes(gzip.compress(data, 1, mtime=9)),
    "gzip in parts": lambda path, data: path.write_bytes(gzip.compress(data, mtime=0) + gzip.compress(b"", mtime=0)),
    "bzip2": lambda path, data: path.write_bytes(bz2.compress(data)),
    "torch": lambda path, data: torch.save({"weights": torch.tensor(list(data[-9:])), "size": len(data)}, path),
}  # fmt: skip


@pytest.mark.parametrize("writer", WRITERS)
def test_equal_and_different_contents(tmp_path, writer):
    ids = {}
    for name, data in CONTENTS.items():
        WRITERS[writer](tmp_path / name, data)
        (tmp_path / f"copy of {name}").write_bytes((tmp_path / name).read_bytes())
        ids[name] = content_id(tmp_path / name)
        assert content_id(tmp_path / f"copy of {name}") == ids[name]
        assert same_content(tmp_path / name, tmp_path / f"copy of {name}")
    assert len(set(ids.values())) == len(CONTENTS)
    assert not same_content(tmp_path / "noise", tmp_path / "another byte")
    assert not same_content(tmp_path / "noise", tmp_path / "shorter")


def test_compressed_anew(tmp_path):
    for name in ("gzip", "gzip, other level and time"):
        WRITERS[name](tmp_path / name, NOISE)
    first, second = sorted(tmp_path.iterdir())
    assert first.read_bytes() != second.read_bytes()
    assert content_id(first) == content_id(second)
    assert same_content(first, second)


def test_a_checkpoint_saved_again_under_another_name(tmp_path):
    for name in ("checkpoint_final.pth", ".temporary-checkpoint_final.pth"):
        torch.save({"weights": torch.arange(1000.0), "epoch": 3}, tmp_path / name)
    assert content_id(tmp_path / "checkpoint_final.pth") == content_id(tmp_path / ".temporary-checkpoint_final.pth")


def test_a_file_that_changes(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(b"one")
    first = content_id(path)
    path.write_bytes(b"others")
    assert content_id(path) != first


def test_damaged_gzip(tmp_path):
    path, other = tmp_path / "a.gz", tmp_path / "b.gz"
    path.write_bytes(gzip.compress(NOISE)[:-100])
    other.write_bytes(path.read_bytes())
    assert content_id(path) == content_id(other)
    assert not same_content(path, other)
