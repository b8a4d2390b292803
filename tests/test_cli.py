"""The command as a whole: what it says of arguments, and what it never writes to a terminal."""

import os
import re

import pytest
from damaging import one_line

from nnunet_cpr.cli import main


@pytest.mark.parametrize("arguments", [["--link", "PLACE"], ["PLACE", "--link"], ["-np", "1", "PLACE"]])
def test_a_source_may_come_after_flags(tmp_path, capsys, arguments):
    place = tmp_path / "download"
    code = main(["convert", "heart", *(str(place) if word == "PLACE" else word for word in arguments)])
    assert f"{place} is not a folder" in one_line(capsys, code)


@pytest.mark.parametrize(
    ("arguments", "command", "unknown"),
    [
        (["compare", "--surfce", "-d", "4", "-tr", "A", "B"], "compare", "--surfce"),
        (["convert", "heart", "a", "b"], "convert", "b"),
        (["convert", "heart", "--link", "a", "b"], "convert", "a b"),
        (["status", "x.yaml", "--gpu"], "status", "--gpu"),
    ],
)
def test_unknown_arguments_show_the_usage_of_their_command(capsys, arguments, command, unknown):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    said = capsys.readouterr().err
    assert error.value.code == 2
    assert said.startswith(f"usage: nnunet-cpr {command} ") and said.endswith(f"unrecognized arguments: {unknown}\n")


def test_the_handwritten_usage_of_batch_has_all_flags(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["batch", "--help"])
    said = capsys.readouterr().out
    usage, _, described = said.partition("options:")
    flags = set(re.findall(r"^  .*?(--[a-z-]+)", described, re.MULTILINE)) - {"--help"}
    assert flags == set(re.findall(r"--[a-z-]+", usage)) and max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize(
    "arguments", [["convert", "heart", "\x1b[31mx"], ["convert", "heart", "\u202ex"], ["demo", "--st\x1beps"]]
)
def test_control_characters_are_shown_as_escapes(capsys, arguments):
    try:
        assert main(arguments) == 2
    except SystemExit as error:
        assert error.code == 2
    said = capsys.readouterr().err
    assert said and not {"\x1b", "\u202e"} & set(said)


@pytest.mark.parametrize("arguments", [["status", "PIPE"], ["batch", "PIPE"], ["compare", "--config", "PIPE"]])
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path, monkeypatch, capsys, arguments):
    for variable in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path))
    pipe = tmp_path / "study.yaml"
    os.mkfifo(pipe)
    code = main([str(pipe) if word == "PIPE" else word for word in arguments])
    assert f"{pipe} is a pipe" in one_line(capsys, code)


def test_a_study_that_is_not_there(tmp_path, monkeypatch, capsys):
    for variable in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path))
    assert "x.yaml: there is no such file; give the study" in one_line(capsys, main(["status", "x.yaml"]))
    monkeypatch.setenv("nnUNet_results", __file__)
    assert f"nnUNet_results is {__file__}, which is not a folder" in one_line(capsys, main(["status", "x.yaml"]))


def test_a_mistake_in_a_configuration_file_names_it(tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text("trainer: [A, B]\n")
    assert one_line(capsys, main(["compare", "--config", str(config)])).startswith(f"nnunet-cpr: error: {config}: ")


@pytest.mark.parametrize(
    ("trainers", "message"),
    [(["nnUNetTrainer=", "B"], "the trainer 'nnUNetTrainer='"), (["A", "B", "--baseline", "\n"], "baseline is empty")],
)
def test_what_was_typed_is_shown(capsys, trainers, message):
    assert message in one_line(capsys, main(["compare", "-d", "4", "-tr", *trainers]))


def test_a_misspelled_trainer(tmp_path, monkeypatch, capsys):
    model = tmp_path / "Dataset004_X" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    model.mkdir(parents=True)
    for variable in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path))
    arguments = ["compare", "-d", "Dataset004_X", "-tr", "nnUNetTrainer", "nnUNetTraner", "-o", str(tmp_path / "out")]
    said = one_line(capsys, main(arguments))
    assert "there is no folder nnUNetTraner__nnUNetPlans__3d_fullres: check trainer (-tr)" in said
