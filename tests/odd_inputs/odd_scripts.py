"""`scripts/compare_runs.py` on odd runs and flags, and how the training scripts read flags and YAML."""

import csv
import json
import math
import shutil
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comparison_helpers import write_run
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
    oddities,
    pick,
)

TABLES = ("--csv", "--runs-csv", "--markdown")
FIGURES = ("--curves", "--heatmap", "--constraints")


class Runs(World):
    """Runs of a script with several seeds and optimizers, and what to write of their comparison."""

    program = "compare_runs.py"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.program = "compare_runs.py"
        rng = self.rng
        self.script = rng.choice(["train_gpt2", "train_gpt2", "train_grokking"])
        self.out = self.output = self.folder / "out"
        self.output.mkdir()
        self.values: dict[str, list[float]] = {}
        self.settings: dict[str, dict[str, Any]] = {}
        optimizers = rng.sample(["adamw", "adam", "adamcpr"], rng.choice([1, 2, 3]))
        for optimizer in optimizers:
            for seed in range(rng.choice([1, 2, 3])):
                name = f"{optimizer}-{seed}"
                self.values[name] = [round(rng.uniform(0.1, 9), 4) for _ in range(rng.choice([1, 3, 5]))]
                if self.script == "train_grokking":
                    self.values[name] = [value / 10 for value in self.values[name]]
                self.settings[name] = {"optimizer": optimizer, "seed": seed}
        length = rng.choice([3, 5])
        for name, values in self.values.items():
            self.values[name] = (values * length)[:length]
        self.flags: list[str] = []
        self.table = self.output / "table.csv"
        self.checked = True
        self.unfinished: set[str] = set()

    def main(self) -> Callable[[list[str]], int]:
        import compare_runs

        return compare_runs.main

    def end_phase(self, phase: int) -> None:
        if phase == MODEL:
            for name, values in self.values.items():
                trace = (
                    ["10,w,2,1.5,0.5", "20,w,1.8,1.5,0.2"] if self.settings[name]["optimizer"] == "adamcpr" else None
                )
                write_run(self.folder / "runs" / name, values, script=self.script, trace=trace, **self.settings[name])
        elif phase == REQUEST:
            folders = [str(self.folder / "runs" / name) for name in self.values]
            self.argv = [*folders, "--csv", str(self.table), *self.flags]

    def check_success(self, out: str, err: str) -> None:
        if not self.checked:
            return
        with self.table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        groups: dict[str, list[float]] = {}
        for name, values in self.values.items():
            if name not in self.unfinished:
                groups.setdefault(self.settings[name]["optimizer"], []).append(values[-1])
        found = {row["setting"].split()[0].rstrip(","): row for row in rows if int(row["n"])}
        if set(found) != set(groups):
            raise OracleError(f"the table has {sorted(found)}, not {sorted(groups)}")
        for optimizer, values in groups.items():
            row = found[optimizer]
            if int(row["n"]) != len(values):
                raise OracleError(f"{optimizer}: n is {row['n']}, not {len(values)}")
            mean = sum(values) / len(values)
            if not math.isclose(float(row["mean"] or "nan"), mean, rel_tol=1e-6):
                raise OracleError(f"{optimizer}: the mean is {row['mean']}, not {mean}")
            if len(values) > 1 and not math.isclose(
                float(row["std"]), statistics.stdev(values), rel_tol=1e-5, abs_tol=1e-9
            ):
                raise OracleError(f"{optimizer}: std is {row['std']}")


def runs_only(world: World) -> Runs:
    """Return the world if it is one of runs."""
    if not isinstance(world, Runs):
        raise NotHereError
    return world


@odd(MODEL, ACCEPTED)
def odd_folder_names(world: Runs) -> str:
    own = runs_only(world)
    old = pick(own, own.values)
    new = pick(own, for_files([name for name in NAMES if len(name.encode(errors="replace")) < 200]))
    tables: list[dict[str, Any]] = [own.values, own.settings]
    for table in tables:
        entries = {new if name == old else name: value for name, value in table.items()}
        table.clear()
        table.update(entries)
    if new in ("b\udcffd", "-x"):
        own.verdict = EITHER
    return f"a run in {new!r}"


@odd(DISK)
def odd_config(world: Runs) -> str:
    own = runs_only(world)
    path = own.folder / "runs" / pick(own, own.values) / "config.json"
    content = json.loads(path.read_text())
    said, change = pick(
        own,
        [("max_steps a text", {"max_steps": "50"}), ("max_steps null", {"max_steps": None}), ("max_steps 1e400",
         {"max_steps": 10**400}),
         ("seed a text", {"seed": "a"}), ("seed a list", {"seed": [1]}), ("lr a text", {"lr": "fast"}), ("lr null",
          {"lr": None}),
         ("lr NaN", {"lr": math.nan}), ("weight_decay a text", {"weight_decay": "x"}), ("optimizer a list",
          {"optimizer": ["adam"]}),
         ("optimizer unknown", {"optimizer": "lion"}), ("data a number", {"data": 3}), ("data a list", {"data": ["x"]}),
         ("a key more", {"é": {"x": [1]}}), ("eval_every null", {"eval_every": None}), ("eval_every a text",
          {"eval_every": "x"}),
         ("kappa_init_method a number", {"kappa_init_method": 3}), ("kappa_init_param a text",
          {"kappa_init_param": "x"}),
         ("size a mapping", {"size": {"a": 1}}), ("seed null", {"seed": None}), ("max_steps a list",
          {"max_steps": [50]}),
         ("settings a list", None), ("starts a mapping", None), ("data of starts a text", None), ("script a list",
          None), ("a list", None),
         ("UTF-16", None), ("max_steps a float", {"max_steps": 30.5}), ("betas null", {"betas": None})],
    )  # fmt: skip
    if change:
        content["settings"] |= change
    elif said == "settings a list":
        content["settings"] = [1]
    elif said == "starts a mapping":
        content["starts"] = {"a": 1}
    elif said == "data of starts a text":
        content["starts"] = [{"data": "text"}]
    elif said == "script a list":
        content["script"] = ["train_gpt2"]
    path.write_text(json.dumps([] if said == "a list" else content), encoding="utf-16" if said == "UTF-16" else "utf-8")
    own.checked = False
    return f"config.json: {said}"


@odd(DISK)
def odd_metrics(world: Runs) -> str:
    own = runs_only(world)
    name = pick(own, own.values)
    path = own.folder / "runs" / name / "metrics.csv"
    lines = path.read_text().splitlines(keepends=True)
    said = pick(own, ["CRLF", "byte order mark", "no newline at the end", "header only", "empty", "step a float",
        "step negative", "steps swapped",
                      "NaN at the end", "infinite at the end", "a column twice", "no step column", "quotes",
                      "a null character", "a blank line",
                      "a text for a number", "huge step", "extra column", "missing", "dangling", "folder",
                      "one line only", "Latin-1"])  # fmt: skip
    last = lines[-1].split(",")
    if said == "CRLF":
        path.write_bytes("".join(lines).replace("\n", "\r\n").encode())
    elif said == "byte order mark":
        path.write_text("".join(lines), encoding="utf-8-sig")
    elif said in ("missing", "dangling", "folder"):
        path.unlink()
        if said == "dangling":
            path.symlink_to("nowhere")
        elif said == "folder":
            path.mkdir()
    elif said == "Latin-1":
        path.write_bytes("".join(lines).encode() + "é".encode("latin-1") + b"\n")
    else:
        changed = {
            "no newline at the end": [*lines[:-1], lines[-1].rstrip("\n")], "header only": lines[:1], "empty": [],
            "one line only": lines[:2],
            "step a float": [*lines[:-1], ",".join([last[0] + ".5", *last[1:]])], "step negative": [*lines[:-1],
            ",".join(["-5", *last[1:]])],
            "steps swapped": [lines[0], *reversed(lines[1:])], "NaN at the end": [*lines[:-1], ",".join([*last[:3],
            "nan", *last[4:]])],
            "infinite at the end": [*lines[:-1], ",".join([*last[:3], "inf", *last[4:]])],
            "a column twice": [lines[0].replace("train_accuracy", lines[0].split(",")[3]), *lines[1:]],
            "no step column": [lines[0].replace("step,", "steps,"), *lines[1:]], "quotes": [lines[0], '"' + lines[1],
            *lines[2:]],
            "a null character": [*lines[:-1], lines[-1].replace(",", "\0,", 1)], "a blank line": [*lines[:2], "\n",
            *lines[2:]],
            "a text for a number": [*lines[:-1], ",".join([*last[:3], "good", *last[4:]])],
            "huge step": [*lines[:-1], ",".join(["9" * 30, *last[1:]])], "extra column": [*lines[:-1],
            lines[-1].replace("\n", ",1\n")],
        }[said]  # fmt: skip
        path.write_text("".join(changed))
    harmless = {"CRLF", "byte order mark"}
    own.checked = own.checked and said in harmless
    refused = {
        "empty",
        "header only",
        "steps swapped",
        "a text for a number",
        "missing",
        "dangling",
        "folder",
        "step a float",
        "no step column",
    }
    if len(own.chosen) == 1 and said in refused:
        own.verdict = REFUSED
    return f"metrics.csv: {said}"


@odd(DISK)
def odd_trace(world: Runs) -> str:
    own = runs_only(world)
    found = sorted(own.folder.glob("runs/*/cpr_trace.csv"))
    if not found:
        raise NotHereError
    path = pick(own, found)
    said, text = pick(
        own,
        [("empty", ""), ("header only", "step,tensor,reg,kappa,lagmul\n"), ("a tensor of NaN",
         "step,tensor,reg,kappa,lagmul\n1,nan,1,1,0\n2,nan,1,1,0\n"),
         ("odd names", f"step,tensor,reg,kappa,lagmul\n1,$x_,1,1,0\n2,{'y' * 300},1,1,0\n"), ("infinite",
          "step,tensor,reg,kappa,lagmul\n1,w,inf,inf,nan\n"),
         ("one step twice", "step,tensor,reg,kappa,lagmul\n1,w,1,1,0\n1,w,2,1,0\n"), ("huge",
          "step,tensor,reg,kappa,lagmul\n1,w,1e308,1e308,1e308\n2,w,-1e308,1,0\n")],
    )  # fmt: skip
    path.write_text(text)
    own.flags += ["--constraints", str(own.out / "c.png")]
    return f"trace: {said}"


@odd(DISK)
def links_and_strays(world: Runs) -> str:
    own = runs_only(world)
    folder = own.folder / "runs" / pick(own, own.values)
    said = pick(own, ["a link", "strays", "a file instead", "empty instead", "dangling instead"])
    if said == "strays":
        (folder / "checkpoint.pt").write_bytes(b"x")
        (folder / ".DS_Store").write_text("x")
    elif said == "a link":
        folder.rename(own.folder / "elsewhere")
        folder.symlink_to(own.folder / "elsewhere")
    else:
        shutil.rmtree(folder)
        if said == "a file instead":
            folder.write_text("x")
        elif said == "empty instead":
            folder.mkdir()
        else:
            folder.symlink_to("nowhere")
    if len(own.chosen) == 1:
        own.verdict = ACCEPTED if said in ("a link", "strays") else REFUSED
    return f"a run's folder: {said}"


@odd(DISK)
def unfinished(world: Runs) -> str:
    own = runs_only(world)
    if len(own.values) < 2:
        raise NotHereError
    name = pick(own, own.values)
    path = own.folder / "runs" / name / "config.json"
    content = json.loads(path.read_text())
    content["settings"]["max_steps"] = 10**6
    path.write_text(json.dumps(content))
    own.checked = False
    return f"{name} is not finished"


@odd(REQUEST)
def odd_numbers(world: Runs) -> str:
    own = runs_only(world)
    value = pick(own, NUMBERS)
    own.flags += ["--reach", value]
    if len(own.chosen) == 1 and value in ("three", "", "1,5", "0x10", "--", "True", "None", "0.1.2", "²"):
        own.verdict = REFUSED
    return f"--reach {value[:30]!r}"


@odd(REQUEST)
def odd_words(world: Runs) -> str:
    own = runs_only(world)
    flag = pick(own, ["--metric", "--baseline"])
    value = pick(own, [*NAMES, "val_loss", "train_loss", "lr", "step", "train_accuracy", "adamw", ""])
    own.flags += [flag, value]
    own.checked = False
    own.words += [value]
    return f"{flag} {value[:30]!r}"


@odd(REQUEST)
def outputs(world: Runs) -> str:
    own = runs_only(world)
    flag = pick(own, [*TABLES[1:], *FIGURES])
    ending = {"--runs-csv": ".csv", "--markdown": ".md"}.get(
        flag, pick(own, [".png", ".svg", ".pdf", ".PNG", ".xyz", "", ".jpg", ".pgf"])
    )
    said, path = pick(
        own,
        [("plain", own.out / f"a{ending}"), ("no folder", own.folder / "gone" / f"a{ending}"), ("a folder",
         own.out), ("a run's file", None),
         ("below a file", own.table / f"x{ending}"), ("odd", own.out / (pick(own,
          for_files(NAMES))[:80] + ending)), ("the same as --csv", own.table),
         ("long", own.out / ("x" * 300 + ending)), ("device", Path("/dev/null"))],
    )  # fmt: skip
    if said == "a run's file":
        path = next(iter(sorted((own.folder / "runs").iterdir()))) / f"metrics{ending}"
    if flag == "--constraints" and own.rng.random() < 0.5:
        own.flags += ["--tensors", pick(own, ["w", "v", "", "w w", *NAMES])]
        own.checked = False
    own.flags += [flag, str(path)]
    if said == "the same as --csv":
        own.checked = False
    refused = ("no folder", "a folder", "a run's file", "below a file", "long")
    if len(own.chosen) == 1 and said in refused:
        own.verdict = REFUSED
    return f"{flag} {said} {ending}"


@odd(REQUEST)
def folder_twice(world: Runs) -> str:
    own = runs_only(world)
    folder = own.folder / "runs" / next(iter(own.values))
    own.flags += [
        pick(
            own,
            [
                str(folder),
                f"{folder}/",
                f"{folder}/../{folder.name}",
                "",
                "nowhere",
                str(own.folder / "runs"),
                "~/x",
                "-x",
            ],
        )
    ]
    own.checked = False
    return f"and the folder {own.flags[-1][-30:]!r}"


@odd(REQUEST, REFUSED)
def odd_flags(world: Runs) -> str:
    own = runs_only(world)
    own.flags += pick(own, [["--x"], ["--metric"], ["--tensors", "w"], ["--reach", "x"], ["--baseline"]])
    return f"and {own.flags}"


@odd(PLACE, ACCEPTED)
def outputs_exist(world: Runs) -> str:
    own = runs_only(world)
    if str(own.table) not in own.argv:
        raise NotHereError
    own.table.write_text("earlier")
    return "the table exists"


OF_RUNS = [one for one in oddities(sys.modules[__name__])]


class Settings(World):
    """Flags and a YAML file of one of the training scripts, which then prints the settings that it has read."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rng = self.rng
        self.name, self.kind = rng.choice(
            [
                ("train_gpt2", "GPT2Settings"),
                ("train_deit", "DeiTSettings"),
                ("train_cifar100", "CIFAR100Settings"),
                ("train_clip", "CLIPSettings"),
                ("train_lora", "LoRASettings"),
                ("train_grokking", "GrokkingSettings"),
            ]
        )
        self.program = f"{self.name}.py"
        self.repeatable = False
        self.checked = True
        values: dict[str, Any] = {
            "optimizer": rng.choice(["adamcpr", "adamw", "sgd", "adam", "scheduled"]),
            "max_steps": rng.choice([100, 5000]),
        }
        values["lr"] = rng.choice([1e-3, 0.1, 3e-4])
        values["seed"] = rng.choice([0, 7, 2**31])
        if values["optimizer"] in ("adamw", "sgd", "scheduled"):
            values["weight_decay"] = rng.choice([0.0, 0.1, 1e-4])
        elif values["optimizer"] == "adamcpr":
            values["kappa_init_method"] = rng.choice(["warm_start", "dependent", "uniform"])
            values["kappa_init_param"] = {"warm_start": 20, "dependent": 0.5, "uniform": 3.0}[
                values["kappa_init_method"]
            ]
        values["warmup_steps"] = 10
        names = list(values)
        rng.shuffle(names)
        self.in_file = {name: values[name] for name in names if rng.random() < 0.5}
        if "kappa_init_method" in self.in_file or "kappa_init_param" in self.in_file:  # they belong together
            self.in_file |= {name: values[name] for name in ("kappa_init_method", "kappa_init_param")}
        self.by_flag = {name: values[name] for name in names if name not in self.in_file}
        self.yaml: Path | None = self.folder / "config.yaml" if self.in_file else None
        self.extra: list[str] = []

    def loosen(self) -> None:
        """Note that the settings are no longer known."""
        self.checked = False

    def main(self) -> Callable[[list[str]], int]:
        from importlib import import_module

        from harness.parsing import run_script

        cls = getattr(import_module(self.name), self.kind)
        return lambda argv: run_script(cls, lambda settings: print(json.dumps(settings.to_json())), "", argv)

    def end_phase(self, phase: int) -> None:
        if phase == REQUEST and self.yaml:
            self.yaml.write_text(yaml_text(self.in_file), encoding="utf-8")
        elif phase == TEXT:
            flags = [
                part for name, value in self.by_flag.items() for part in (f"--{name.replace('_', '-')}", str(value))
            ]
            self.argv = [*flags, *(["--config", str(self.yaml)] if self.yaml else []), *self.extra]
            self.words += [*self.in_file, *self.by_flag, *scalars(self.in_file)]

    def check_success(self, out: str, err: str) -> None:
        if not self.checked:
            return
        found = json.loads(out)
        for name, value in {**self.in_file, **self.by_flag}.items():
            if found[name] != value:
                raise OracleError(f"{name} is {found[name]}, not {value}")


def settings_only(world: World) -> Settings:
    """Return the world if it is one of settings."""
    if not isinstance(world, Settings):
        raise NotHereError
    return world


@odd(MODEL)
def odd_setting(world: Settings) -> str:
    own = settings_only(world)
    name = pick(own, ["lr", "seed", "max_steps", "warmup_steps", "betas", "precision", "device", "eval_every",
        "workers", "out", "data", "size",
                      "adaptive_bounds", "kappa_init_method", "optimizer", "eps"])  # fmt: skip
    value: Any = pick(
        own, [*NUMBERS, *NAMES[:20], "fp32", "cpu", [1, 2], ["a"], {"a": 1}, True, None, -1, math.nan, 10**400, "~/x"]
    )
    if own.yaml and own.rng.random() < 0.6:
        own.by_flag.pop(name, None)
        own.in_file[name] = value
    elif isinstance(value, str) and value:
        own.in_file.pop(name, None)
        own.by_flag[name] = value
    else:
        raise NotHereError
    own.checked = False
    own.words += [name, name.replace("_", "-"), str(value)]
    bad = {"lr": ["three", "nan", "inf", "1e400", "", "-1"], "seed": ["1.5", "three", "-1", "nan", ""],
        "max_steps": ["0", "-1", "1.5", "three", ""],
           "device": ["three", "cuda:0", ""], "optimizer": ["three", ""], "precision": ["three", ""]}  # fmt: skip
    if len(own.chosen) == 1 and value in bad.get(name, []):
        own.verdict = REFUSED
    return f"{name}: {str(value)[:40]!r}"


@odd(MODEL, REFUSED)
def odd_arguments(world: Settings) -> str:
    own = settings_only(world)
    own.extra += pick(own, [["--x"], ["extra"], ["--lr"], ["--betas", "0.9"], ["--betas", "a", "b"], ["--config"],
        ["--config", "nowhere"],
                            ["--resume"], ["--resume", "--out", "nowhere"], ["--config", ""], ["--adaptive-bounds",
                             "yes"]])  # fmt: skip
    return f"and {own.extra}"


@odd(MODEL, REFUSED)
def of_another_optimizer(world: Settings) -> str:
    own = settings_only(world)
    optimizer = {**own.in_file, **own.by_flag}["optimizer"]
    name, value = {
        "adamcpr": ("weight_decay", 0.1),
        "adamw": ("momentum", 0.9),
        "sgd": ("eps", 1e-8),
        "adam": ("kappa_update", 1.0),
    }[optimizer]
    own.by_flag[name] = value
    own.words.append(name)
    return f"{name} of {optimizer}"


@odd(MODEL, REFUSED)
def too_long(world: Settings) -> str:
    own = settings_only(world)
    own.in_file.pop("warmup_steps", None)
    own.by_flag["warmup_steps"] = 5000
    return "a warmup as long as the training"


@odd(MODEL, ACCEPTED)
def flag_wins(world: Settings) -> str:
    own = settings_only(world)
    if "lr" not in own.in_file:
        raise NotHereError
    own.by_flag["lr"] = 0.5
    return "the flag wins over the file"


@odd(MODEL)
def resumed(world: Settings) -> str:
    """A folder of a run whose settings are odd."""
    own = settings_only(world)
    folder = own.folder / "run"
    folder.mkdir()
    text = pick(
        own,
        [
            "{}",
            "[]",
            '{"settings": {}}',
            '{"settings": null}',
            '{"settings": {"lr": 3}}',
            "",
            "\xff",
            '{"settings": "x"}',
        ],
    )
    (folder / "config.json").write_text(text)
    own.extra += ["--resume", "--out", str(folder)]
    own.checked = False
    if len(own.chosen) == 1:
        own.verdict = REFUSED
    return f"resume of {text[:30]}"


OF_SETTINGS = [one for one in oddities(sys.modules[__name__]) if one not in OF_RUNS]
