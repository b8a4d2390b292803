"""scripts/prepare_study_data.py: one training part, and two held-out parts, cut from different places."""

import pytest
from harness.images import load_folder
from prepare_study_data import BLOCK_BYTES, HELD_OUT_BYTES, TRAINED_BYTES, TRAINED_OF_A_CLASS, main


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "study"
    assert main(["--out", str(out)]) == 0
    return out


def test_texts_have_one_training_part_and_two_held_out_parts(data):
    tuning, final = ((data / "topics" / f"{name}.txt").read_bytes() for name in ("tuning", "final"))
    assert len(tuning) == len(final) == TRAINED_BYTES + HELD_OUT_BYTES
    assert tuning[:TRAINED_BYTES] == final[:TRAINED_BYTES]
    blocks = [
        part[start : start + BLOCK_BYTES]
        for part in (tuning, final[TRAINED_BYTES:])
        for start in range(0, len(part), BLOCK_BYTES)
    ]
    assert len(set(blocks)) == len(blocks) == (TRAINED_BYTES + 2 * HELD_OUT_BYTES) // BLOCK_BYTES


@pytest.mark.parametrize("kind", ["new", "old"])
def test_digits_have_one_training_part_and_two_held_out_parts(data, kind):
    def contents(part):
        return [(open(path, "rb").read(), label) for path, label in part]

    tuning, final = (load_folder(data / "digits" / kind / name, 0.5) for name in ("tuning", "final"))
    assert contents(tuning.train) == contents(final.train)
    assert len(tuning.train) == 10 * TRAINED_OF_A_CLASS
    assert sorted(label for _, label in tuning.train) == sorted(list(range(10)) * TRAINED_OF_A_CLASS)
    held_out = [content for part in (tuning.val, final.val) for content, _ in contents(part)]
    assert len(held_out) == 360
    seen = {content for content, _ in contents(tuning.train)}
    assert not seen & set(held_out)
    assert len(set(held_out)) == 360 if kind == "new" else len(set(held_out)) > 350
