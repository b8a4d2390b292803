"""Study files: what they mean, and one line with the right number for each mistake in them."""

import json
import os
import random

import pytest
from batch_helpers import DATASET, prepared_dataset

from nnunet_cpr.batch.study import read_study

GOOD = """\
datasets: [4]
trainers:
  SGD: nnUNetTrainerSGD_10epochs
  CPR: nnUNetTrainerCPR_ws500_10epochs
folds: [0, 1]
baseline: SGD
device: cpu
"""


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    prepared_dataset(tmp_path / "preprocessed")


@pytest.fixture
def study(tmp_path):
    def write(text):
        path = tmp_path / "study.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def mistakes(path) -> list[str]:
    """The lines of the error, without the file's name."""
    with pytest.raises(ValueError) as error:
        read_study(path)
    lines = str(error.value).split("\n")
    assert all(line.startswith(f"{path}:") for line in lines), lines
    return [line.removeprefix(f"{path}:") for line in lines]


def test_defaults(study, tmp_path):
    read = read_study(study("datasets: 4\ntrainers: [nnUNetTrainer, nnUNetTrainerCPR]"))
    assert read.datasets == [DATASET]
    assert (read.setups, read.folds) == ([("nnUNetPlans", "3d_fullres")], ["0", "1", "2", "3", "4"])
    assert read.trainers == {"nnUNetTrainer": ["nnUNetTrainer"], "nnUNetTrainerCPR": ["nnUNetTrainerCPR"]}
    assert (read.baseline, read.surface, read.tolerance, read.device) == ("nnUNetTrainer", False, 1.0, "cuda")
    assert read.output == tmp_path / "results" / "studies" / "study"


def test_everything_said(study, tmp_path):
    read = read_study(
        study(
            f"""\
datasets:
  - {DATASET}
configuration: 2d
plans: nnUNetPlans
trainers:
  wd: [nnUNetTrainerSGD_10epochs, nnUNetTrainerSGD_lr0.1]
  CPR: nnUNetTrainerCPR
seeds: [0, 27]
folds: [01, all]
baseline: CPR
surface: true
tolerance: 2.5
device: mps
train_arguments: [--npz]
output: ../there
"""
        )
    )
    assert read.trainers == {
        "wd": ["nnUNetTrainerSGD_10epochs_seed0", "nnUNetTrainerSGD_10epochs_seed27",
               "nnUNetTrainerSGD_lr0.1_seed0", "nnUNetTrainerSGD_lr0.1_seed27"],
        "CPR": ["nnUNetTrainerCPR_seed0", "nnUNetTrainerCPR_seed27"],
    }  # fmt: skip
    assert (read.datasets, read.configurations, read.folds, read.baseline) == ([DATASET], ["2d"], ["1", "all"], "CPR")
    assert (read.surface, read.tolerance, read.device, read.train_arguments) == (True, 2.5, "mps", ["--npz"])
    assert read.output == tmp_path.parent / "there"


def test_ids_are_decimal(study, tmp_path):
    """YAML 1.1 takes 027 for 23."""
    prepared_dataset(tmp_path / "preprocessed", "Dataset027_ACDC")
    assert read_study(study(GOOD.replace("[4]", "[027]"))).datasets == ["Dataset027_ACDC"]


def test_anchors(study):
    read = read_study(study(GOOD.replace("[0, 1]", "&some [0, 1]") + "seeds: *some\n"))
    assert read.folds == ["0", "1"]
    assert read.trainers["SGD"] == [f"nnUNetTrainerSGD_10epochs_seed{seed}" for seed in (0, 1)]


def test_trainers_that_others_wrote(study, tmp_path, monkeypatch):
    text = GOOD + "# " + "\n"
    own = "nnUNetTrainerSGD: nnUNetTrainer_250epochs\n  Mine: MyTrainer\n  Mine too: nnUNetTrainerCPR_mine"
    text = text.replace("SGD: nnUNetTrainerSGD_10epochs", own).replace("baseline: SGD\n", "")
    assert mistakes(study(text)) == [
        "4: there is no trainer MyTrainer, neither in nnU-Net nor in nnUNet_extTrainer",
        "5: nnUNetTrainerCPR_mine: cannot read the part 'mine'; `nnunet-cpr trainers` lists what there is",
    ]
    folder = tmp_path / "trainers" / "deep"
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text("class MyTrainer(Base):\n    pass\nclass nnUNetTrainerCPR_mine(Base): pass\n")
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(tmp_path / "none"), str(tmp_path / "trainers")]))
    assert read_study(study(text)).trainers["Mine"] == ["MyTrainer"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("baseline: SGD", "basline:\n  SGD", "6: unknown key basline; there are datasets, configuration,"),
        ("baseline: SGD", "<<: {folds: [1]}", "6: unknown key <<;"),
        ("baseline: SGD", "datasets: [5]", "6: the key datasets is there twice"),
        ("baseline: SGD", "? [a]\n: b", "6: a key must be one word"),
        ("baseline: SGD", "baseline: sgd", "6: the baseline sgd is not among SGD, CPR"),
        ("baseline: SGD", "baseline:", "6: baseline must be one value"),
        ("baseline: SGD", "baseline: null", "6: baseline must be one value"),
        ("datasets: [4]", "plans: nnUNetPlans", "1: the key datasets is missing"),
        ("datasets: [4]", "datasets: []", "1: datasets is empty"),
        ("datasets: [4]", "datasets:", "1: datasets must be a list of single values, or one value"),
        ("datasets: [4]", "datasets: ~", "1: datasets must be a list"),
        ("datasets: [4]", "datasets:\n  - 4\n  - 5", "3: 5 is not a dataset of nnU-Net's folders"),
        ("datasets: [4]", "datasets: [4, Dataset004_Tiny]", "1: datasets has Dataset004_Tiny twice"),
        ("datasets: [4]", "datasets: Dataset9_Absent", "1: Dataset9_Absent is neither a number nor a name such as"),
        ("datasets: [4]", "datasets: Dataset009_../x", "1: Dataset009_../x is neither a number nor a name"),
        ("datasets: [4]", "datasets: Dataset009_Absent", "1: there is no {raw}/Dataset009_Absent/dataset.json;"),
        ("datasets: [4]", "datasets: [[4]]", "1: datasets must be a list of single values"),
        ("datasets: [4]", "datasets: &d [*d]", "1: datasets must be a list of single values"),
        ("SGD_10", "SGDD_10", "3: nnUNetTrainerSGDD_10epochs: an underscore must follow nnUNetTrainerSGD"),
        ("SGD_10", "SGD_ws5_10", "3: nnUNetTrainerSGD_ws5_10epochs: 'ws5' is for trainers with CPR"),
        ("ws500", "ws5000", "4: nnUNetTrainerCPR_ws5000_10epochs: the warm start takes 5000 steps, but the training"),
        ("CPR: ", "SGD: ", "4: trainers has SGD twice"),
        ("nnUNetTrainerCPR_ws500_10", "nnUNetTrainerSGD_10", "4: nnUNetTrainerSGD_10epochs is there twice"),
        ("CPR: nnUNetTrainerCPR_ws500_10epochs", "CPR: []", "4: trainers: every entry must be VALUE, NAME: VALUE or"),
        ("CPR: nnUNetTrainerCPR_ws500_10epochs", "CPR:", "4: trainers: every entry must be"),
        ("CPR: nnUNetTrainerCPR_ws500_10epochs", "CPR: {a: b}", "4: trainers: every entry must be"),
        ("device: cpu", "device: gpu", "7: device is gpu, but must be one of cuda, cpu, mps"),
        ("device: cpu", "device: [cpu]", "7: device must be one value"),
        ("device: cpu", "gpus_per_training: 0", "7: gpus_per_training is 0, but must be a whole number above 0"),
        ("device: cpu", "gpus_per_training: 1.5", "7: gpus_per_training is 1.5, but must be a whole number above 0"),
        ("device: cpu", "gpus_per_training: [1]", "7: gpus_per_training must be one value"),
        ("device: cpu", "gpus_per_training: 2\ndevice: cpu", "7: gpus_per_training means nothing with device: cpu"),
        ("device: cpu", "tolerance: 2", "7: the tolerance is that of NSD, which needs surface: true"),
        ("device: cpu", "surface: true\ntolerance: 0", "8: tolerance is 0, but must be a number above 0, in mm"),
        ("device: cpu", "surface: true\ntolerance: nan", "8: tolerance is nan"),
        ("device: cpu", "surface: yes", "7: surface is yes, but must be one of true, false"),
        ("device: cpu", "seeds: [1, 01]", "7: seeds has 01 twice"),
        ("device: cpu", "seeds: [1, -1]", "7: the seed -1 is not a whole number"),
        ("device: cpu", "seeds: []", "7: seeds is empty"),
        ("device: cpu", "train_arguments: --val", "7: --val cannot be passed on;"),
        ("device: cpu", "configuration: 3d_lowres", "7: Dataset004_Tiny has no configuration 3d_lowres; there are 3d_"),
        ("device: cpu", "configuration: 3d_cascade_fullres", "7: Dataset004_Tiny has no configuration 3d_cascade_"),
        ("device: cpu", "plans: MyPlans", "7: {preprocessed}/Dataset004_Tiny/MyPlans.json is missing, and only nnU"),
        ("device: cpu", "output:", "7: output must be one value"),
        ("[0, 1]", "[0, 5]", "5: fold 5 is out of range: Dataset004_Tiny has 5 folds, 0 to 4"),
        ("[0, 1]", "\n  - 0\n  - x\n", "7: the fold x is neither a number nor all"),
        ("[0, 1]", "[0, 1.0]", "5: the fold 1.0 is neither a number nor all"),
        ("[0, 1]", "[-1]", "5: the fold -1 is neither a number nor all"),
        ("[0, 1]", "[0, 00]", "5: folds has 00 twice"),
        ("[0, 1]", "[" + "9" * 5000 + "]", "5: the fold 999999999... is too large"),
        ("device: cpu", "seeds: [" + "9" * 5000 + "]", "7: the seed 9999999999... is too large"),
        ("[0, 1]", "[]", "5: folds is empty"),
        ("[0, 1]", "{0: 1}", "5: folds must be a list of single values, or one value"),
        ("[0, 1]", '["0\\n1"]', "5: the fold 0 1 is neither a number nor all"),
        ("[0, 1]", "[0, 1", "6: not YAML: expected ',' or ']'"),
        ("folds: [0, 1]", "\tfolds: [0, 1]", "5: not YAML: found character '\\t'"),
        ("folds: [0, 1]", "folds: \x00", "5: not YAML: special characters are not allowed"),
        ("folds: [0, 1]", "folds: [*nothing]", "5: not YAML: found undefined alias"),
        ("folds: [0, 1]", "---\nfolds: 1", "5: not YAML: but found another document"),
        ("folds: [0, 1]", "folds: " + "[" * 5000, "1: nested too deeply"),
    ],
)  # fmt: skip
def test_mistake(study, tmp_path, old, new, expected):
    assert GOOD.count(old) == 1
    path = study(GOOD.replace(old, new))
    expected = expected.format(raw=tmp_path / "raw", preprocessed=tmp_path / "preprocessed")
    found = mistakes(path)
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_files_that_editors_leave_among_trainers(study, tmp_path, monkeypatch):
    folder = tmp_path / "trainers"
    folder.mkdir()
    (folder / "mine.py").write_text("class MyTrainer(Base):\n    pass\n")
    (folder / ".#mine.py").symlink_to("user@host.1234:1600000000")  # Emacs
    (folder / ".mine.py.swp").write_bytes(b"b0VIM 9.0\0\xff")
    (folder / "gone.py").symlink_to(tmp_path / "nowhere.py")
    (folder / "folder.py").mkdir()
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    text = GOOD.replace("nnUNetTrainerSGD_10epochs", "MyTrainer")
    assert read_study(study(text)).trainers["SGD"] == ["MyTrainer"]
    assert mistakes(study(text.replace("MyTrainer", "YourTrainer")))[0].startswith("3: there is no trainer YourTrainer")


def test_paths_of_users(study, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert read_study(study(GOOD + "output: ~/there\n")).output == tmp_path / "home" / "there"
    assert read_study(study(GOOD + "output: here\n")).output == tmp_path / "here"
    (line,) = mistakes(study(GOOD + "output: ~nobody-of-that-name/there\n"))
    assert line.startswith("8: output: ~nobody-of-that-name/there: ")


def test_pretrained_weights(study, tmp_path):
    (tmp_path / "some weights.pth").write_bytes(b"abc")
    given = GOOD + "pretrained_weights: some weights.pth\n"
    read = read_study(study(given))
    assert read.pretrained_weights == str(tmp_path / "some weights.pth")
    # FIPS 180-2's example
    assert read.weights_sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "some weights.pth").unlink()
    (line,) = mistakes(study(given))
    assert line.startswith("8: pretrained_weights: ") and "No such file" in line and "some weights.pth" in line
    assert read_study(study(given), need_data=False).weights_sha256 is None
    (tmp_path / "some weights.pth").mkdir()
    assert mistakes(study(given))[0].startswith("8: pretrained_weights: ")


def test_what_the_cascade_needs(study, tmp_path):
    (tmp_path / "weights.pth").touch()
    text = GOOD + "configuration: [2d, 3d_cascade_fullres]\npretrained_weights: weights.pth\n"
    plans = tmp_path / "preprocessed" / DATASET / "nnUNetPlans.json"
    content = json.loads(plans.read_text())
    content["configurations"]["3d_cascade_fullres"] = {}
    plans.write_text(json.dumps(content))
    fit = "9: pretrained_weights fit the network of one configuration only"
    assert mistakes(study(text)) == [
        f"8: {DATASET} has no configuration 3d_lowres; there are 3d_fullres, 2d, 3d_cascade_fullres, 3d_small", fit,
    ]  # fmt: skip
    content["configurations"]["3d_lowres"] = {}
    plans.write_text(json.dumps(content))
    assert mistakes(study(text)) == [fit]
    (line,) = mistakes(study(text.replace("2d, ", "")))
    assert line == fit
    read = read_study(study(text.replace("pretrained_weights: weights.pth\n", "")))
    assert [setup.configuration for setup in read.trained_setups] == ["2d", "3d_lowres", "3d_cascade_fullres"]


def test_several_plans_and_configurations(study, tmp_path):
    (tmp_path / "raw" / DATASET).mkdir(parents=True)
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}
    (tmp_path / "raw" / DATASET / "dataset.json").write_text(json.dumps(description))
    text = GOOD + "configuration: [2d, 3d_small]\nplans:\n  - nnUNetPlans\n  - nnUNetResEncUNetMPlans\n"
    assert [setup.name for setup in read_study(study(text)).setups] == [
        "nnUNetPlans__2d", "nnUNetPlans__3d_small", "nnUNetResEncUNetMPlans__2d", "nnUNetResEncUNetMPlans__3d_small",
    ]  # fmt: skip
    wrong = text.replace("3d_small", "2d, a, ../b").replace("nnUNetPlans", "MyPlans")
    assert [line[:60] for line in mistakes(study(wrong))] == [
        "8: '../b' cannot be used in a batch; a name must be without ",
        "8: Dataset004_Tiny has no configuration a; there are 2d, 3d_",
        "8: configuration has 2d twice",
        f"10: {tmp_path}/preprocessed"[:60],
    ]


@pytest.mark.parametrize("name", ["Dataset009_{x}", "Dataset009_a}", '"Dataset009_a\\nb"', '"Dataset009_\\e[2J"'])
def test_names_that_snakemake_or_a_terminal_would_read(study, tmp_path, name):
    (line,) = mistakes(study(GOOD.replace("[4]", name)))
    assert line.startswith("1: 'Dataset009_")
    assert "cannot be used in a batch" in line


@pytest.mark.parametrize("key", ["plans", "configuration"])
def test_names_of_files_without_folders(study, key):
    (line,) = mistakes(study(GOOD + f"{key}: ../up\n"))
    assert line.startswith("8: '../up' cannot be used in a batch")


def test_seeds_are_checked_with_every_trainer(study):
    text = GOOD.replace("SGD: nnUNetTrainerSGD_10epochs", "SGD: nnUNetTrainer").replace("_10epochs", "_seed1")
    assert mistakes(study(text + "seeds: [2, 3]\n")) == [
        "3: nnUNetTrainer takes no seed; seeds are for the trainers of `nnunet-cpr trainers`",
        "4: nnUNetTrainerCPR_ws500_seed1_seed2: 'seed2' sets the seed a second time",
    ]
    assert [line[:2] for line in mistakes(study(GOOD + "seeds: [4294967296]\n"))] == ["3:", "4:"]


GRID = """\
datasets: [4]
trainers:
  SGD: nnUNetTrainerSGD_10epochs
  CPR ws{ws}: nnUNetTrainerCPR_ws{ws}_10epochs
  "{mu}": nnUNetTrainerCPR_mu{mu}
grid:
  ws: [500, 2000]
  mu: 0.50
baseline: CPR ws500
device: cpu
"""


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("CPR: nnUNetTrainerCPR", {"CPR": ["nnUNetTrainerCPR"]}),
        ("- nnUNetTrainerCPR_ws{ws}", {f"nnUNetTrainerCPR_ws{ws}": [f"nnUNetTrainerCPR_ws{ws}"] for ws in "597"}),
        ("ws {ws}: nnUNetTrainerCPR_ws{ws}", {f"ws {ws}": [f"nnUNetTrainerCPR_ws{ws}"] for ws in "597"}),
        ("x{ws}: ['nnUNetTrainerCPR_ws{ws}', 'nnUNetTrainerCPR_ws{ws}_bf16']",
         {f"x{ws}": [f"nnUNetTrainerCPR_ws{ws}", f"nnUNetTrainerCPR_ws{ws}_bf16"] for ws in "597"}),
        ("'{mu}': nnUNetTrainerCPR_mu{mu}", {mu: [f"nnUNetTrainerCPR_mu{mu}"] for mu in ("0.50", "1")}),
        ("mu {mu}, ws {ws}: nnUNetTrainerCPR_ws{ws}_mu{mu}",
         {f"mu {mu}, ws {ws}": [f"nnUNetTrainerCPR_ws{ws}_mu{mu}"] for ws in "597" for mu in ("0.50", "1")}),
    ],
)  # fmt: skip
def test_a_grid_stands_for_all_combinations(study, entry, expected):
    """In the grid's order, each with all seeds; values are taken as they are written."""
    values = {"ws": "[5, 9, 7]", "mu": "[0.50, 1]"}
    grid = "".join(f"  {key}: {values[key]}\n" for key in values if f"{{{key}}}" in entry)
    text = f"datasets: 4\ntrainers:\n  {entry}\n" + (f"grid:\n{grid}" if grid else "")
    assert list(read_study(study(text)).trainers.items()) == list(expected.items())
    seeded = {name: [f"{run}_seed{seed}" for run in runs for seed in (3, 4)] for name, runs in expected.items()}
    assert read_study(study(f"{text}seeds: [3, 4]\n")).trainers == seeded


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("500, 2000", "500, 1e3", "4: nnUNetTrainerCPR_ws1e3_10epochs: cannot read the part 'ws1e3';"),
        ("500, 2000", "500, 9000", "4: nnUNetTrainerCPR_ws9000_10epochs: the warm start takes 9000 steps, but"),
        ("SGD: nnUNetTrainerSGD", "SGD: nnUNetTrainerSGD_lr{lr}", "3: unknown placeholder {lr}; the grid has ws, mu"),
        ("SGD: ", "SGD {mu}: ", "3: nnUNetTrainerSGD_10epochs must hold {mu}, as its name SGD {mu} does"),
        ("ws{ws}: nnU", "x: nnU", "4: the name CPR x must hold {ws}, as its trainer nnUNetTrainerCPR_ws{ws}_10epo"),
        ('  "{mu}": nnUNetTrainerCPR_mu{mu}', "  CPR: nnUNetTrainerCPR", "8: no trainer uses the grid's {mu}"),
        ('"{mu}"', "CPR ws2000", "5: the name CPR ws2000 must hold {mu}, as its trainer nnUNetTrainerCPR_mu{mu} does"),
        ("SGD: nnU", "CPR ws2000: nnU", "4: trainers has CPR ws2000 twice"),
        ("  ws: [500, 2000]", "  ws:\n    - 500\n    - 500", "7: the grid's ws has a value twice"),
        ("[500, 2000]", "[]", "7: grid: every entry must be"),
        ("[500, 2000]", "{from: 1}", "7: grid: every entry must be"),
        ("\n  ws: [500, 2000]\n  mu: 0.50", " [ws, mu]", "6: grid must be a mapping of placeholders to values"),
        ("\n  ws: [500, 2000]\n  mu: 0.50", "", "6: grid must be a mapping of placeholders to values"),
        ("ws: [", "a b: [", "7: the placeholder a b must consist of letters, digits and _"),
        ("mu: 0", "ws: 0", "8: grid has ws twice"),
        ("nnUNetTrainerCPR_mu{mu}", "[nnUNetTrainerCPR_mu{mu}]",
         "5: not YAML: expected ',' or ']', but got '{'; put names with a {placeholder} into quotes"),
        ("baseline: CPR ws500", "baseline: CPR ws{ws}", "9: the baseline CPR ws{ws} is not among SGD, CPR ws500, C"),
    ],
)  # fmt: skip
def test_mistake_in_a_grid(study, old, new, expected):
    assert GRID.count(old) == 1
    read_study(study(GRID))
    (line,) = mistakes(study(GRID.replace(old, new)))
    assert line.startswith(expected)


def test_placeholders_without_a_grid(study):
    assert mistakes(study("datasets: 4\ntrainers: {'CPR {ws}': 'nnUNetTrainerCPR_ws{ws}'}\n")) == [
        "2: unknown placeholder {ws}; there is no grid"
    ]


@pytest.mark.parametrize("trainers", ["[]", "{}", "nnUNetTrainer", "", "null"])
def test_no_trainers(study, trainers):
    assert mistakes(study(f"datasets: [4]\ntrainers: {trainers}\n")) == [
        "2: trainers must be a list, or a mapping of names to values, and not empty"
    ]


@pytest.mark.parametrize("text", ["", "# nothing\n", "datasets", "- datasets", "4", "null"])
def test_no_mapping(study, text):
    assert mistakes(study(text)) == ["1: there are no keys such as datasets and trainers"]


def test_not_utf8(study):
    assert mistakes(study(GOOD.replace("SGD:", "Größe:").encode("latin-1"))) == ["3: not UTF-8 text"]
    assert read_study(study(b"\xef\xbb\xbf" + GOOD.encode())).folds == ["0", "1"]  # with the mark that Windows adds


def test_all_mistakes_at_once_in_the_files_order(study):
    text = "datasets: [99]\ntrainers: {A: Nobody, B: nnUNetTrainerCPR_zz}\nfolds: [x, y]\ncolour: red\ndevice: tpu\n"
    assert [line[:20] for line in mistakes(study(text))] == [
        "1: 99 is not a datas", "2: nnUNetTrainerCPR_", "2: there is no train", "3: the fold x is nei",
        "3: the fold y is nei", "4: unknown key colou", "5: device is tpu, bu",
    ]  # fmt: skip


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.yaml: there is no such file; give the study's YAML file"):
        read_study(tmp_path / "absent.yaml")


def test_variables_not_set(study, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(ValueError, match=r"^nnUNet_raw not set: export"):
        read_study(study(GOOD))


def test_damaged_datasets(study, tmp_path):
    """Each of nnU-Net's files cut at any byte is named, or still whole."""
    prepared = tmp_path / "preprocessed" / DATASET
    raw = tmp_path / "raw" / DATASET / "dataset.json"
    raw.parent.mkdir(parents=True)
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}
    raw.write_text(json.dumps(description))
    path = study(GOOD)
    read_study(path)
    for file in (raw, prepared / "nnUNetPlans.json", prepared / "splits_final.json"):
        content = file.read_text()
        for size in [*range(0, len(content), 7), len(content) - 1]:
            file.write_text(content[:size])
            (line,) = mistakes(path)
            assert line.startswith(f"1: {file} cannot be read (")
        for wrong in ("null", "3", '{"configurations": []}', '{"configurations": {"3d_fullres": true}}', "[1, 2, 3]",
                      '[{"train": ["a"]}]', '[{"train": ["a"], "val": [1]}]'):  # fmt: skip
            file.write_text(wrong)
            assert str(file) in mistakes(path)[0]
        file.write_text(content)
    raw.write_text("{}")
    assert mistakes(path) == [f"1: {raw} lacks channel_names, labels, file_ending"]
    raw.write_text(json.dumps({"modality" if key == "channel_names" else key: description[key] for key in description}))
    read_study(path)  # nnU-Net takes the former name, too
    copy = prepared / "dataset.json"  # which trainings read
    copy.write_text("[]")
    assert str(copy) in mistakes(path)[0]


def test_only_what_is_asked_for_must_be_whole(study, tmp_path):
    prepared = tmp_path / "preprocessed" / DATASET
    splits = json.loads((prepared / "splits_final.json").read_text())
    (prepared / "splits_final.json").write_text(json.dumps([*splits[:2], {"train": ["a"]}]))
    read_study(study(GOOD))
    (line,) = mistakes(study(GOOD.replace("[0, 1]", "[1, 2]")))
    assert 'splits_final.json cannot be read (fold 2 has no "train" and "val"' in line
    (prepared / "splits_final.json").write_text("null")
    read_study(study(GOOD.replace("[0, 1]", "[all]")))  # nnU-Net then reads no split
    (prepared / "splits_final.json").write_text(json.dumps(splits))
    plans = json.loads((prepared / "nnUNetPlans.json").read_text())
    plans["configurations"]["another"] = True
    (prepared / "nnUNetPlans.json").write_text(json.dumps(plans))
    read_study(study(GOOD))
    assert "another is no mapping" in mistakes(study(GOOD + "configuration: another\n"))[0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ('{"background": 0, "a": 1, "a": 2}', "'a' is there twice"),
        ('{"background": 0, "a": 1, "b": 1}', "the labels 'a' and 'b' have the same value 1"),
        ('{"0": "background", "1": "a"}', 'no "background": 0, which nnU-Net needs'),
        ('{"air": 0, "a": 1}', 'no "background": 0, which nnU-Net needs'),
    ],
)
def test_labels_on_which_nnunet_would_fail_or_of_which_it_would_lose_one(study, tmp_path, labels, message):
    raw = tmp_path / "raw" / DATASET / "dataset.json"
    raw.parent.mkdir(parents=True)
    raw.write_text('{"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "labels": %s}' % labels)  # noqa: UP031
    (line,) = mistakes(study(GOOD))
    assert line.startswith(f"1: {raw} cannot be read (") and message in line.replace("\\'", "'")


def test_names_that_would_look_the_same_in_the_report(study):
    text = GOOD.replace("  CPR: nnU", "  ' SGD ': nnU")
    assert mistakes(study(text)) == ["4: trainers has SGD twice"]


def test_own_splits_decide_the_folds(study, tmp_path):
    (tmp_path / "preprocessed" / DATASET / "splits_final.json").write_text(
        '[{"train": [], "val": []}, {"train": [], "val": []}]'
    )
    assert mistakes(study(GOOD.replace("[0, 1]", "[0, 2]"))) == [
        "5: fold 2 is out of range: Dataset004_Tiny has 2 folds, 0 to 1"
    ]


def test_datasets_not_yet_planned(study, tmp_path):
    raw = tmp_path / "raw" / "Dataset005_New"
    raw.mkdir(parents=True)
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(description))
    text = GOOD.replace("[4]", "[5]")
    assert read_study(study(text + "plans: nnUNetResEncUNetLPlans\nconfiguration: 3d_small\n")).folds == ["0", "1"]
    assert mistakes(study(text + "configuration: 3d_huge\n")) == [
        "8: Dataset005_New has no configuration 3d_huge; "
        "there are 2d, 3d_fullres, 3d_lowres, 3d_cascade_fullres, 3d_small"
    ]


def test_any_damage_is_one_error(study):
    """Cut at every byte, and with bytes changed: a study or ValueError with lines, never anything else."""
    good = GOOD.encode()
    generator = random.Random(0)
    damaged = [good[:size] for size in range(len(good))]
    for _ in range(400):
        content = bytearray(good)
        for _ in range(generator.randint(1, 3)):
            content[generator.randrange(len(content))] = generator.randrange(256)
        damaged.append(bytes(content))
    for content in damaged:
        path = study(content)
        try:
            read_study(path)
        except ValueError as error:
            lines = str(error).split("\n")
            assert all(line.startswith(f"{path}:") for line in lines), (content, lines)
