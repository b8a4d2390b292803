"""`nnunet-cpr status` and `batch --dry-run` on odd studies: the trainings that they list are counted apart."""

import json
import os
import shutil
from itertools import product
from pathlib import Path
from typing import Any

from batch_helpers import DATASET, prepared_dataset
from odd_texts import NAMES, NUMBERS, for_files, scalars, yaml_text
from odd_worlds import (
    ACCEPTED,
    DISK,
    EITHER,
    MODEL,
    PLACE,
    REFUSED,
    REQUEST,
    TEXT,
    NotHereError,
    OracleError,
    World,
    odd,
    pick,
)

TRAINERS = {"SGD": ["nnUNetTrainerSGD_3epochs"], "CPR": ["nnUNetTrainerCPR_ws500_10epochs"], "own": ["nnUNetTrainer"]}
EPOCHS = {"nnUNetTrainerSGD_3epochs": 3, "nnUNetTrainerCPR_ws500_10epochs": 10, "nnUNetTrainer": 1000}
LOG = "2026-11-23 13:40:44.339281: Epoch {0} \n2026-11-23 13:40:44.339281: Epoch time: 36.0 s \n"


class Study(World):
    """A prepared dataset, some trainings in several states, and a study of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rng = self.rng
        self.several_lines = True
        self.repeatable = False
        self.data = self.folder / "data"
        self.datasets = rng.choice([[DATASET], [DATASET], [DATASET, "Dataset027_Other"]])
        self.trainers = {name: TRAINERS[name] for name in rng.sample(list(TRAINERS), rng.choice([1, 2, 2, 3]))}
        self.seeds = rng.choice([[], [], [0], [0, 1]]) if "own" not in self.trainers else []
        self.folds = rng.choice([["0"], ["0", "1"], ["0", "1", "2", "3", "4"], ["all"]])
        self.content: dict[str, Any] = {
            "datasets": self.datasets,
            "trainers": self.trainers,
            "folds": self.folds,
            "device": "cpu",
        }
        if self.seeds:
            self.content["seeds"] = self.seeds
        self.yaml = self.data / "study.yaml"
        self.command = rng.choice(
            [["status"], ["status", "--json"], ["batch", "--dry-run"], ["batch", "--dry-run", "--json"]]
        )
        self.flags: list[str] = []
        self.checked = True
        self.environment |= {f"nnUNet_{name}": str(self.data / name) for name in ("raw", "preprocessed", "results")}
        self.states: dict[tuple[str, str, str], str] = {}
        self.text = str(self.yaml)

    def loosen(self) -> None:
        """Note that the study is no longer known."""
        self.checked = False

    def runs(self) -> list[tuple[str, str, str]]:
        """Return dataset, nnU-Net's name and fold of every training."""
        names = [name for names in self.trainers.values() for name in names]
        names = [f"{name}_seed{seed}" for name in names for seed in self.seeds] or names
        return [(dataset, name, fold) for dataset, fold, name in product(self.datasets, self.folds, names)]

    def model(self, dataset: str, run: str) -> Path:
        """Return nnU-Net's folder of a model."""
        return self.data / "results" / dataset / f"{run}__nnUNetPlans__3d_fullres"

    def end_phase(self, phase: int) -> None:
        if phase == MODEL:
            self._write()
        elif phase == REQUEST:
            self.yaml.write_text(yaml_text(self.content), encoding="utf-8", errors="surrogateescape")
            self.words += scalars(self.content)
        elif phase == TEXT:
            self.argv = [*self.command, self.text, *self.flags]

    def _write(self) -> None:
        description = {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "a": 1},
            "file_ending": ".nii.gz",
            "numTraining": 10,
        }
        for dataset in self.datasets:
            folder = prepared_dataset(self.data / "preprocessed", dataset)
            raw = self.data / "raw" / dataset
            (raw / "labelsTr").mkdir(parents=True)
            for path in (raw / "dataset.json", folder / "dataset.json"):
                path.write_text(json.dumps(description))
        (self.data / "results").mkdir()
        for run in self.runs():
            state = self.rng.choice(["missing", "missing", "done", "resumable", "begun"])
            self.states[run] = state if state != "begun" else "missing"
            if state != "missing":
                self._write_fold(run, state)

    def _write_fold(self, run: tuple[str, str, str], state: str) -> None:
        dataset, name, fold = run
        model = self.model(dataset, name)
        folder = model / f"fold_{fold}"
        folder.mkdir(parents=True)
        preprocessed = self.data / "preprocessed" / dataset
        for source, target in (("dataset.json", "dataset.json"), ("nnUNetPlans.json", "plans.json")):
            shutil.copy(preprocessed / source, model / target)
        (folder / "training_log_2026_1_2_3_4_5.txt").write_text("".join(LOG.format(epoch) for epoch in range(2)))
        if state == "begun":
            return
        if state == "resumable":
            (folder / "checkpoint_latest.pth").write_bytes(b"x")
            return
        splits = json.loads((preprocessed / "splits_final.json").read_text())
        cases = splits[int(fold)]["val"] if fold != "all" else splits[0]["train"]
        entries = [
            {
                "metrics": {"1": {"Dice": 0.5}},
                "prediction_file": f"/x/{case}.nii.gz",
                "reference_file": f"/y/{case}.nii.gz",
            }
            for case in cases
        ]
        (folder / "checkpoint_final.pth").write_bytes(b"x")
        os.utime(folder / "checkpoint_final.pth", (1e9, 1e9))
        (folder / "validation").mkdir()
        content = {"metric_per_case": entries, "foreground_mean": {"Dice": 0.5}, "mean": {"1": {"Dice": 0.5}}}
        (folder / "validation" / "summary.json").write_text(json.dumps(content))

    def check_success(self, out: str, err: str) -> None:
        if not self.checked:
            return
        runs = self.runs()
        if "--json" not in self.command:
            if f"{len(runs)} trainings: " not in out:
                raise OracleError(f"not {len(runs)} trainings: {out[-200:]}")
            return
        found = {(row["dataset"], row["run"], row["fold"]): row for row in json.loads(out)}
        if sorted(found) != sorted(runs) or len(json.loads(out)) != len(runs):
            raise OracleError(f"the trainings differ in {sorted(set(found) ^ set(runs))[:3]}")
        for run in runs:
            row = found[run]
            if row["state"] != self.states[run]:
                raise OracleError(f"{run} is {row['state']}, not {self.states[run]}")
            epochs = EPOCHS.get(run[1].split("_seed")[0])
            if epochs and row["epochs"] != epochs:
                raise OracleError(f"{run} has {row['epochs']} epochs, not {epochs}")
            done = {"done": row["epochs"], "resumable": 2, "missing": 0}[self.states[run]]
            if row["epochs_done"] != done:
                raise OracleError(f"{run} has done {row['epochs_done']} epochs, not {done}")


# The study


@odd(MODEL)
def odd_shown_names(world: Study) -> str:
    old = pick(world, world.trainers)
    new = pick(world, [*NAMES, ""])
    if new in world.trainers:
        raise NotHereError
    world.trainers = {new if name == old else name: runs for name, runs in world.trainers.items()}
    world.content["trainers"] = world.trainers
    world.words.append(new)
    return f"a trainer shown as {new!r}"


@odd(REQUEST)
def odd_trainers(world: Study) -> str:
    value: Any = pick(
        world,
        ["nnUNetTrainerNone", "", " ", "nnUNetTrainerCPR_", "nnUNetTrainerCPR_ws0", "nnUNetTrainerCPR_ws999999999",
         "../nnUNetTrainer", "é",
         "nnUNetTrainerSGD_3epochs_3epochs", "nnUNetTrainer(", "nnUNetTrainer.*", "[a", "x" * 300,
         "nnUNetTrainerCPR ", None, 3, True, ["a"],
         {"a": 1}, [], {}, "nnUNetTrainerCPR_seed0_seed1"],
    )  # fmt: skip
    world.content["trainers"] = pick(world, [{"bad": value}, {**world.trainers, "bad": value}, [value]])
    world.checked = False
    world.words += ["trainers", "null"]
    if len(world.chosen) == 1:
        world.verdict = REFUSED
    return f"the trainer {str(value)[:40]!r}"


@odd(REQUEST, REFUSED)
def trainer_twice(world: Study) -> str:
    first = next(iter(world.trainers.values()))
    world.content["trainers"] = {**world.trainers, "again": first}
    return "a trainer twice"


@odd(REQUEST)
def odd_datasets(world: Study) -> str:
    said, value, good = pick(
        world,
        [("4", 4, True), ("004", "004", True), ("one value", DATASET, True), ("twice", [4, DATASET], False), ("99",
         99, False),
         ("4.0", 4.0, False), ("a part", "Dataset004", False), ("-4", -4, None), ("empty", [], False), ("null", None,
          False),
         ("a mapping", {"a": 4}, False), ("a path", "../x", False), ("nested", [[4]], False), ("Arabic", "٤", None),
          ("small", DATASET.lower(), False),
         ("spaces", " 4", None), ("4,27", "4,27", False), ("true", True, False), ("0o4", "0o4", False), ("Dataset",
          "Dataset", False),
         ("slash", DATASET + "/", False)],
    )  # fmt: skip
    if world.datasets != [DATASET]:
        raise NotHereError
    world.content["datasets"] = value
    if good is not None and len(world.chosen) == 1:
        world.verdict = ACCEPTED if good else REFUSED
    if not good:
        world.checked = good is not False and world.checked
    world.words.append("datasets")
    return f"datasets {said}"


@odd(REQUEST)
def odd_numbers(world: Study) -> str:
    key = pick(world, ["folds", "seeds", "tolerance"])
    value = pick(world, [*NUMBERS, "5", "00", "all", "ALL", "0-4"])
    if key == "tolerance":
        world.content["surface"] = True
    elif key == "seeds" and "own" in world.trainers:
        raise NotHereError
    world.content[key] = value if key == "tolerance" else [value]
    world.checked = False
    plain = {
        "folds": {"0", "00", "all", "-0"},
        "seeds": {"0", "00", "5"},
        "tolerance": {"5", "1.5", "1e3", " 3 ", "+2", "1_0", "١"},
    }
    if (
        len(world.chosen) == 1
        and value not in plain[key]
        and value not in ("9" * 30, "١", " 3 ", "1e-320", "", "1e3", "1_0", "²")
    ):
        world.verdict = REFUSED
    world.words += [key, value]
    return f"{key} {value[:30]!r}"


@odd(REQUEST)
def odd_keys(world: Study) -> str:
    key, value, good = pick(
        world,
        [("configuration", "2d", None), ("configuration", "3d_cascade_fullres", False), ("configuration", "x", False),
         ("configuration", "", None),
         ("configuration", "../x", False), ("plans", "x", False), ("plans", "../../x", False), ("plans",
          "nnUNetPlans/", None),
         ("plans", "nnUNetResEncUNetMPlans", True), ("device", "gpu", False), ("device", "cuda", None), ("device",
          "mps", None),
         ("surface", "yes", False), ("surface", 1, False), ("surface", True, True), ("tolerance", 2, False),
          ("baseline", "x", False),
         ("baseline", ["SGD"], False), ("train_arguments", ["--npz"], True), ("train_arguments", ["--c"], False),
         ("train_arguments", "--npz --val_best", False), ("train_arguments", [], None), ("output", "", None),
          ("output", "../out", True),
         ("output", "~", None), ("output", "~nobody-here/x", False), ("output", "/dev/null", None), ("output", "a\nb",
          None), ("output", ["x"], False),
         ("output", "x" * 300, None), ("seeds", [], None), ("folds", [], False), ("folds", "all", None), ("folds", [0,
          "00"], False),
         ("configuration", True, False), ("device", "CPU", False)],
    )  # fmt: skip
    world.content[key] = value
    if key == "seeds" and "own" in world.trainers:
        raise NotHereError
    if key in ("folds", "configuration", "plans", "seeds"):
        world.checked = False
    if good is not None and len(world.chosen) == 1:
        world.verdict = ACCEPTED if good else REFUSED
    return f"{key}: {str(value)[:30]!r}"


@odd(REQUEST, REFUSED)
def missing_key(world: Study) -> str:
    key = pick(world, ["datasets", "trainers"])
    del world.content[key]
    return f"without {key}"


@odd(REQUEST, ACCEPTED)
def many_trainings(world: Study) -> str:
    if world.seeds or len(world.chosen) > 1 or "own" in world.trainers:
        raise NotHereError
    world.seeds = list(range(60))
    world.content["seeds"] = world.seeds
    world.states = dict.fromkeys(world.runs(), "missing")
    return "60 seeds"


# Files and folders


@odd(DISK)
def odd_summary(world: Study) -> str:
    done = [run for run, state in world.states.items() if state == "done"]
    if not done:
        raise NotHereError
    run = pick(world, done)
    path = world.model(run[0], run[1]) / f"fold_{run[2]}" / "validation" / "summary.json"
    said = pick(world, ["empty", "half", "a list", "no cases", "dangling", "a folder", "missing", "v1", "UTF-16"])
    text = path.read_text()
    path.unlink()
    if said == "dangling":
        path.symlink_to("nowhere")
    elif said == "a folder":
        path.mkdir()
    elif said != "missing":
        texts = {"empty": "", "half": text[: len(text) // 2], "a list": "[]", "no cases": '{"metric_per_case": []}',
            "UTF-16": text,
                 "v1": '{"results": {"all": []}}'}  # fmt: skip
        path.write_text(texts[said], encoding="utf-16" if said == "UTF-16" else "utf-8")
    world.states[run] = "resumable"
    world.checked = False  # its epochs are told by the checkpoint
    return f"summary.json is {said}"


@odd(DISK)
def odd_prepared(world: Study) -> str:
    folder = world.data / "preprocessed" / world.datasets[0]
    said = pick(
        world,
        ["no plans", "plans dangle", "plans are a list", "plans without configurations", "no splits",
         "splits are a mapping", "splits of three",
         "splits empty", "data lost", "no dataset.json", "raw lost", "preprocessed lost", "splits in UTF-16", "a link"],
    )  # fmt: skip
    plans, splits, raw = (
        folder / "nnUNetPlans.json",
        folder / "splits_final.json",
        world.data / "raw" / world.datasets[0],
    )
    if said in ("no plans", "plans dangle"):
        plans.unlink()
        if said != "no plans":
            plans.symlink_to("nowhere")
    elif said.startswith("plans"):
        plans.write_text("[]" if said == "plans are a list" else "{}")
    elif said == "no splits":
        splits.unlink()
    elif said.startswith("splits"):
        content = {"splits are a mapping": '{"a": 1}', "splits empty": "[]"}.get(
            said, json.dumps(json.loads(splits.read_text())[:3])
        )
        splits.write_text(content, encoding="utf-16" if "UTF" in said else "utf-8")
    elif said == "data lost":
        shutil.rmtree(folder / "nnUNetPlans_3d_fullres")
    elif said == "no dataset.json":
        (raw / "dataset.json").unlink()
    elif said == "raw lost":
        shutil.rmtree(raw)
    elif said == "preprocessed lost":
        shutil.rmtree(folder)
    else:
        folder.rename(world.data / "elsewhere")
        folder.symlink_to(world.data / "elsewhere")
    world.words += ["fold", world.datasets[0]]
    world.checked = False
    return said


@odd(DISK)
def odd_results(world: Study) -> str:
    run = pick(world, world.runs())
    folder = world.model(run[0], run[1]) / f"fold_{run[2]}"
    said = pick(world, ["a fold is a file", "a fold is a link", "a lock", "a lock is a folder", "odd log",
        "odd record", "records is a file",
                        "checkpoint is a folder", "checkpoint dangles"])  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    records = world.data / "results" / "studies" / "study" / "records"
    if said == "a fold is a file":
        if folder.exists():
            shutil.rmtree(folder)
        folder.write_text("x")
    elif said == "a fold is a link":
        if not folder.exists():
            raise NotHereError
        folder.rename(world.data / "elsewhere")
        folder.symlink_to(world.data / "elsewhere")
    elif said.startswith("a lock"):
        lock = folder.with_name(f".{folder.name}.lock")
        lock.mkdir() if "folder" in said else lock.write_text("123")
    elif said == "records is a file":
        records.parent.mkdir(parents=True)
        records.write_text("x")
    elif said == "odd record":
        record = records / run[0] / folder.parent.name / f"{folder.name}.json"
        record.parent.mkdir(parents=True)
        record.write_text(
            pick(world, ['{"outcome": "failed"}', '{"outcome": ["failed"], "ended": "x"}', "{}", "null", "\xff"])
        )
        world.checked = False
    else:
        folder.mkdir(parents=True, exist_ok=True)
        if said == "odd log":
            (folder / "training_log_x.txt").write_bytes(
                b"\xff\xfe Epoch 99999999999999999999999 \n2026: Epoch time: 1e999 s\n"
            )
            (folder / "training_log_2026_9_9_9_9_9.txt").write_text(
                "2026-11-23 13:40:44.339281: Epoch 0 \n2026-11-23 13:40:44.339281: Epoch time: nan s \n"
            )
        elif said == "checkpoint is a folder":
            (folder / "checkpoint_best.pth").mkdir()
        else:
            (folder / "checkpoint_best.pth").symlink_to("nowhere")
    if said in ("a fold is a file", "odd log", "records is a file"):
        world.checked = False
    return said


@odd(PLACE)
def odd_environment(world: Study) -> str:
    name = f"nnUNet_{pick(world, ['raw', 'preprocessed', 'results'])}"
    path = Path(world.environment[name])
    said = pick(world, ["not set", "empty", "~", "relative", "trailing slash", "trailing space", "a file", "missing",
        "a link", "newline",
                        "quoted", "device"])  # fmt: skip
    (world.data / "afile").write_text("x")
    (world.data / "alink").symlink_to(path)
    if said == "not set":
        del world.environment[name]
    else:
        world.environment[name] = {
            "empty": "", "~": f"~/data/{path.name}", "relative": os.path.relpath(path, world.cwd),
            "trailing slash": f"{path}/",
            "trailing space": f"{path} ", "a file": str(world.data / "afile"), "missing": str(world.data / "gone"),
            "a link": str(world.data / "alink"), "newline": f"{path}\n", "quoted": f'"{path}"', "device": "/dev/null",
        }[said]  # fmt: skip
    if said == "~":
        world.environment["HOME"] = str(world.folder)
    if said not in ("relative", "trailing slash", "a link", "~"):
        world.checked = False
    if len(world.chosen) == 1:
        world.verdict = (
            ACCEPTED
            if said in ("relative", "trailing slash", "a link")
            else REFUSED
            if said in ("not set", "empty")
            else EITHER
        )
    return f"{name}: {said}"


@odd(PLACE, ACCEPTED)
def trainers_of_others(world: Study) -> str:
    """What may lie in nnUNet_extTrainer."""
    folder = world.data / "trainers"
    folder.mkdir()
    said = pick(world, ["a dangling link", "a lock file of an editor", "Latin-1", "a folder called x.py",
        "a loop of links", "several folders",
                        "a missing folder"])  # fmt: skip
    if said == "a dangling link":
        (folder / "a.py").symlink_to("nowhere")
    elif said == "a lock file of an editor":
        (folder / ".#a.py").symlink_to("me@host.123:456")
    elif said == "Latin-1":
        (folder / "a.py").write_bytes(b"# \xfc\n")
    elif said == "a folder called x.py":
        (folder / "x.py").mkdir()
    elif said == "a loop of links":
        (folder / "inner").symlink_to(folder)
    world.environment["nnUNet_extTrainer"] = {
        "several folders": f"{folder}{os.pathsep}{world.data}", "a missing folder": "/nowhere",
    }.get(said, str(folder))  # fmt: skip
    return f"nnUNet_extTrainer with {said}"


@odd(REQUEST)
def odd_flags(world: Study) -> str:
    batch = world.command[0] == "batch"
    added, good = pick(
        world,
        [(["--jobs", "2"], True), (["--jobs", "0"], False), (["--jobs", "-1"], False), (["--jobs", "two"], False),
         (["--jobs", "1.5"], False),
         (["--gpus", "0"], False), (["--gpus", ""], False), (["--profile", "nowhere"], False), (["--profile", ""],
          None), (["--slurm", "x"], False),
         (["--slurm", ""], None), (["--slurm", "mem=1"], None), (["--slurm", "time=1:x"], False), (["--slurm",
          "time=٣"], None),
         (["--slurm", "mem=64Q"], False), (["--slurm", "cpus=x"], None), (["--slurm", "partition="], False),
          (["--slurm", "=1"], False),
         (["--slurm", "nodes=2"], False), (["--slurm", "time=1:2:3:4"], False), (["--slurm", "mem=" + "9" * 5000],
          None),
         (["--jobs", "1", "--gpus", "0"], False), (["--x"], False), (["extra"], False), (["--dry"], None), (["--json",
          "--json"], None)],
    )  # fmt: skip
    world.flags += added
    world.checked = world.checked and added != ["--json", "--json"] and added != ["--dry"]
    if not batch:
        good = False if added[0] not in ("--json", "--dry") else None
    if good is not None and len(world.chosen) == 1:
        world.verdict = ACCEPTED if good else REFUSED
    return f"and {[part[:30] for part in added]}"


@odd(REQUEST)
def fake_slurm(world: Study) -> str:
    """A cluster whose commands say nothing."""
    if world.command[0] != "batch":
        raise NotHereError
    folder = world.folder / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "sacct"):
        (folder / name).write_text("#!/bin/sh\nexit 1\n")
        (folder / name).chmod(0o755)
    world.environment["PATH"] = f"{folder}:{world.environment['PATH']}"
    value = pick(
        world,
        ["partition=gpu,time=24:00:00,gres=gpu:1", "mem=0", "mem=64G,cpus=1", "partition=all", "partition=a b",
         "partition='x'", "account=$(x)",
         "time=2-00", "time=0", "mem=1T", "constraint=a&b|c", "qos=1-2", "gres=gpu:a100:2", "partition=\u00fc",
         "mem=,cpus=2", "time=1-2-3",
         "mem=1.5G", "partition=a,partition=b", "cpus=0", "cpus=-1", "cpus=1e3"],
    )  # fmt: skip
    world.flags += ["--slurm", value]
    return f"--slurm {value}"


@odd(PLACE)
def odd_study_path(world: Study) -> str:
    said = pick(
        world,
        [
            "relative",
            "~",
            "empty",
            "a folder",
            "missing",
            "odd name",
            "no ending",
            "twice",
            "trailing slash",
            "device",
            "none",
        ],
    )
    index = world.argv.index(world.text)
    if not world.yaml.is_file() or world.yaml.is_symlink():
        raise NotHereError
    new = {
        "relative": os.path.relpath(world.yaml, world.cwd), "~": "~/data/study.yaml", "empty": "",
        "a folder": str(world.data), "missing": "no.yaml",
        "trailing slash": f"{world.yaml}/", "device": "/dev/null",
    }.get(said, world.text)  # fmt: skip
    if said == "~":
        world.environment["HOME"] = str(world.folder)
    elif said in ("odd name", "no ending"):
        name = (
            pick(world, for_files([n for n in NAMES if len(n.encode(errors="replace")) < 200]))
            if said == "odd name"
            else "study"
        )
        new = str(world.yaml.rename(world.data / name))
    elif said == "twice":
        world.argv.append(new)
    if said == "none":
        del world.argv[index]
    else:
        world.argv[index] = new
    if len(world.chosen) == 1:
        fine = ("relative", "no ending")
        world.verdict = ACCEPTED if said in fine else EITHER if said in ("odd name", "~", "trailing slash") else REFUSED
    return f"the study's path: {said}"
