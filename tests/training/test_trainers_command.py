"""`nnunet-cpr trainers`, as a user types it."""

import subprocess
import sys
from pathlib import Path

import pytest
from training_helpers import run_command

from nnunet_cpr.training.settings import FAMILIES, PARTS

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "trainers.md"


def test_lists_families_and_parts():
    output = run_command("nnunet-cpr", "trainers").stdout
    for word in [*FAMILIES, *(part.spelling for part in PARTS)]:
        assert word in output


def test_says_what_a_name_means():
    name = "nnUNetTrainerCPR_ws2000_warmup2000_100epochs"
    output = run_command("nnunet-cpr", "trainers", name, "nnUNetTrainerAdamW_wd0.05").stdout
    for words in ("SGD, Nesterov momentum 0.99", "linear warmup over 2,000 steps", "25,000 (100 epochs of 250)",
                  "R after 2,000 unconstrained steps", "weight decay    none", f"{name}__<plans>__<configuration>",
                  "AdamW, betas (0.9, 0.99)", "0.05, of all parameters"):  # fmt: skip
        assert words in output


def test_says_what_a_name_on_top_of_another_trainer_means():
    names = (
        "nnUNetTrainerAdamCPR_on_nnUNetTrainerDA5_ws20",
        "nnUNetTrainerAdamW_on_nnUNetTrainer_50epochs_warmup9_3iters",
    )
    first, second = run_command("nnunet-cpr", "trainers", *names).stdout.split("\n\n")
    for words in ("nnUNetTrainerDA5.py", "0.001 if that is nnU-Net's 0.01", "with the base's schedule",
                  "as many as the base does", "exempts from weight decay", "all else         the base's"):  # fmt: skip
        assert " ".join(words.split()) in " ".join(first.split())
    for words in ("linear warmup over 9 steps", "as many epochs as the base has of 3", "of the same kind, else 0.01"):
        assert words in " ".join(second.split())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nnUNetTrainerCPR_ws2000_ip", "a second time"),
        ("nnUNetTrainerBTCV", "does not begin"),
        ("nnUNetTrainerCPR_2epochs", "warm start takes 1000 steps, but the training has only 500"),
    ],
)
def test_says_why_a_name_is_no_trainer(name, reason):
    result = run_command("nnunet-cpr", "trainers", name, check=False)
    assert result.returncode == 2
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_starts_without_torch():
    code = (
        "import sys; from nnunet_cpr.training.command import describe, grammar; describe('nnUNetTrainerCPR');"
        "grammar(); "
        "sys.exit(str([m for m in ('torch', 'numpy', 'nnunetv2', 'matplotlib') if m in sys.modules]))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == "[]"


def test_the_reference_has_every_part():
    text = DOCS.read_text()
    for part in PARTS:
        for spelling in part.spelling.split(" | "):
            assert f"`{spelling}`" in text, f"docs/reference/trainers.md does not say what {spelling} is"
    for family in FAMILIES:
        assert f"`{family}`" in text
