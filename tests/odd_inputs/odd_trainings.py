"""What may be odd in finished trainings: labels, summaries, folders, what is asked of them, the environment."""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from odd_comparisons import trainings_only
from odd_texts import NAMES, NUMBERS
from odd_worlds import ACCEPTED, DISK, MODEL, PLACE, REFUSED, REQUEST, NotHereError, World, odd, pick


@odd(MODEL)
def odd_training_labels(world: World) -> str:
    own = trainings_only(world)
    old = pick(own, own.foreground())
    new = pick(own, [*NAMES, "", "0", "2", "Background", "Ignore", "3", "(1, 2)"])
    if new in own.labels:
        raise NotHereError
    own.labels = {new if name == old else name: value for name, value in own.labels.items()}
    for cases in own.values.values():
        for case in cases:
            cases[case] = {new if name == old else name: dice for name, dice in cases[case].items()}
    own.words.append(new)
    return f"a label called {new!r}"


@odd(DISK)
def rewritten_labels(world: World) -> str:
    own = trainings_only(world)
    way: tuple[str, Callable[[str, Any], Any]] = pick(
        own,
        [
            ("a region of one", lambda n, v: [v] if isinstance(v, int) and v else v),
            ("values as texts", lambda n, v: str(v) if isinstance(v, int) else v),
            ("values as floats", lambda n, v: float(v) if isinstance(v, int) else v),
            ("background as text", lambda n, v: "0" if v == 0 else v),
            ("background as a list", lambda n, v: [0] if v == 0 else v),
            ('background as ["0"]', lambda n, v: ["0"] if v == 0 else v),
        ],
    )
    said, change = way
    for path in own.data.glob("results/*/*/dataset.json"):
        content = json.loads(path.read_text())
        content["labels"] = {name: change(name, value) for name, value in content["labels"].items()}
        path.write_text(json.dumps(content))
    return f"dataset.json: {said}"


@odd(DISK)
def training_ignore(world: World) -> str:
    own = trainings_only(world)
    own.ignore = 9
    for path in own.data.glob("results/*/*/dataset.json"):
        content = json.loads(path.read_text())
        content["labels"]["ignore"] = 9
        path.write_text(json.dumps(content))
    return "an ignore label"


@odd(DISK)
def odd_summary(world: World) -> str:
    own = trainings_only(world)
    path = pick(own, own.summaries())
    content = json.loads(path.read_text())
    entries = content["metric_per_case"]
    entry = pick(own, entries)
    key = pick(own, entry["metrics"])
    said = pick(
        own,
        ["Dice null", "Dice a text", "Dice a word", "Dice above 1", "Dice below 0", "Dice infinite", "Dice true",
         "a list",
         "no Dice", "a label more", "a label less", "key 1.0", "key with spaces", "no cases", "a case twice",
         "Windows path",
         "no file name", "an empty file name", "more keys", "v1", "NaN as text", "Dice 1.0000001", "byte order mark",
         "UTF-16",
         "cases a mapping", "metrics null", "int Dice", "a dot file", "ending .nii"],
    )  # fmt: skip
    metrics = entry["metrics"]
    harmless = {"Windows path", "more keys"}
    values = {"Dice null": None, "Dice a text": "0.25", "Dice a word": "high", "Dice above 1": 1.5,
        "Dice below 0": -0.5,
              "Dice infinite": math.inf, "Dice true": True, "a list": [0.5], "NaN as text": "nan",
              "Dice 1.0000001": 1.0000001,
              "int Dice": 1}  # fmt: skip
    refused = {"Dice a word", "Dice above 1", "Dice below 0", "Dice infinite", "a list", "no Dice", "a label more",
        "v1",
               "a label less", "no cases", "a case twice", "metrics null", "Dice null", "UTF-16"}  # fmt: skip
    if said in values:
        metrics[key]["Dice"] = values[said]
    elif said == "no Dice":
        del metrics[key]["Dice"]
    elif said == "a label more":
        metrics["77"] = {"Dice": 0.5}
    elif said == "a label less":
        del metrics[key]
    elif said in ("key 1.0", "key with spaces"):
        entry["metrics"] = {f"{k}.0" if said == "key 1.0" else f" {k} ": v for k, v in metrics.items()}
    elif said == "no cases":
        content["metric_per_case"] = []
    elif said == "a case twice":
        entries.append(entries[0])
    elif said == "Windows path":
        entry["prediction_file"] = entry["prediction_file"].replace("/", "\\")
    elif said == "no file name":
        del entry["prediction_file"]
    elif said == "an empty file name":
        entry["prediction_file"] = ""
    elif said == "a dot file":
        entry["prediction_file"] = "/x/.nii.gz"
    elif said == "ending .nii":
        entry["prediction_file"] = entry["prediction_file"].removesuffix(".gz")
    elif said == "more keys":
        content |= {"x": 1}
        metrics[key] |= {"HD95": 3.0, "é": None}
    elif said == "v1":
        content = {"results": {"all": [{"1": {"Dice": 0.5}, "test": "a", "reference": "b"}], "mean": {}}, "name": "x"}
    elif said == "cases a mapping":
        content["metric_per_case"] = {str(n): one for n, one in enumerate(entries)}
    elif said == "metrics null":
        entry["metrics"] = None
    text = json.dumps(content)
    encoding = {"byte order mark": "utf-8-sig", "UTF-16": "utf-16"}.get(said, "utf-8")
    path.write_text(text, encoding=encoding)
    if said not in harmless:
        own.checked = False
    if said in refused and len(own.chosen) == 1:
        own.verdict = REFUSED
    if said == "v1":
        own.words.append("nnUNet")
    return f"summary.json with {said}"


@odd(DISK)
def odd_results(world: World) -> str:
    own = trainings_only(world)
    path = pick(own, own.summaries())
    validation, fold, model = path.parent, path.parents[1], path.parents[2]
    said = pick(
        own,
        ["validation is a link", "fold is a link", "model is a link", "dataset is a link", "summary is a link",
         "summary dangles", "no dataset.json", "no plans.json", "empty log", "odd log", "odd trace", "no predictions",
         "fold is a file", "other labels in one model", "stray folders", "summary is a folder", "dataset.json dangles"],
    )  # fmt: skip
    store = own.data / "store"
    store.mkdir()
    moved = {"validation is a link": validation, "fold is a link": fold, "model is a link": model,
             "dataset is a link": model.parent, "summary is a link": path}.get(said)  # fmt: skip
    if moved:
        moved.rename(store / moved.name)
        moved.symlink_to(store / moved.name)
        own.verdict = ACCEPTED if len(own.chosen) == 1 else own.verdict
    elif said in ("summary dangles", "summary is a folder"):
        path.unlink()
        path.symlink_to("nowhere") if said == "summary dangles" else path.mkdir()
    elif said in ("no dataset.json", "dataset.json dangles"):
        (model / "dataset.json").unlink()
        if said != "no dataset.json":
            (model / "dataset.json").symlink_to("nowhere")
    elif said == "no plans.json":
        (model / "plans.json").unlink()
    elif said == "empty log":
        (fold / "training_log_2026_1_2_3_4_5.txt").touch()
    elif said == "odd log":
        (fold / "training_log_2026_1_2_3_4_5.txt").write_bytes(
            b"\xff\xfe 2026-11-23 13:40:44.339281: Epoch 99999999999999999999\n"
        )
    elif said == "odd trace":
        (fold / "cpr_trace.csv").write_text("epoch,step,tensor,reg,kappa,lagmul\n0,1,é,nan,inf,-inf\n0,1,,,,\n")
    elif said == "no predictions":
        for file in validation.glob("*.nii.gz"):
            file.unlink()
    elif said == "fold is a file":
        shutil.rmtree(fold)
        fold.write_text("x")
    elif said == "other labels in one model":
        (model / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "x": 1}, "file_ending": ".nii.gz"}))
    elif said == "stray folders":
        for name in (".git", "fold_x", "ensembles", "crossval_results_folds_0_1_2_3_4"):
            (model / name).mkdir()
    fine = {
        "no plans.json",
        "empty log",
        "odd log",
        "odd trace",
        "stray folders",
        *(["no predictions"] * (not own.surface)),
    }
    if said in fine and len(own.chosen) == 1:
        own.verdict = ACCEPTED
    if not moved and said not in fine:
        own.verdict = REFUSED if len(own.chosen) == 1 else own.verdict
        own.checked = False
    return said


@odd(DISK)
def odd_truths(world: World) -> str:
    """Where the references are that only surface metrics need."""
    own = trainings_only(world)
    said = pick(own, ["in labelsTr", "nowhere", "dangling", "other spacing"])
    for path in own.data.glob("preprocessed/*/gt_segmentations/*"):
        if said == "in labelsTr":
            target = own.data / "raw" / path.parts[-3] / "labelsTr" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        elif said == "other spacing":
            image: Any = nib.load(path)
            affine = image.affine.copy()
            affine[:3, :3] *= 2
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)
        else:
            path.unlink()
            if said == "dangling":
                path.symlink_to("nowhere")
    if len(own.chosen) == 1:
        own.verdict = REFUSED if own.surface and said != "in labelsTr" else ACCEPTED
    return f"references {said}"


@odd(REQUEST)
def odd_datasets(world: World) -> str:
    own = trainings_only(world)
    first = own.datasets[0]
    said, value, good = pick(
        own,
        [
            ("4", "4", True), ("004", "004", True), ("a full name", first, True), ("twice", [first, "4"], None),
            ("04 ", "04 ", None), ("4.0", "4.0", False), ("five", "99", False), ("a name", "Tiny", False),
            ("part of a name", "Dataset004", False), ("a path", f"{first}/", None), ("up", "../x", False), ("", "",
             False),
            ("-4", "-4", None), ("4,27", "4,27", False), ("Task", "Task004_Tiny", False), ("Arabic", "٤", None),
            ("small letters", first.lower(), False),
        ],
    )  # fmt: skip
    if own.datasets != ["Dataset004_Tiny"]:
        raise NotHereError
    own.request["datasets"] = value if isinstance(value, list) else [value]
    if good is not None and len(own.chosen) == 1:
        own.verdict = ACCEPTED if good else REFUSED
    own.words += ["-d", "dataset"]
    return f"-d {said}"


@odd(REQUEST)
def odd_folds(world: World) -> str:
    own = trainings_only(world)
    value = pick(own, [*NUMBERS, "00", "fold_0", "0-4", "0,1", "all ", "ALL", "../fold_0", "5"])
    own.request["folds"] = [value]
    own.checked = False
    if len(own.chosen) == 1 and value not in ("0", "00", "5", "-0", "+2", " 3 ", "1e3", "١", "", "1_0"):
        own.verdict = REFUSED
    return f"-f {value[:40]!r}"


@odd(REQUEST)
def fold_twice(world: World) -> str:
    own = trainings_only(world)
    own.request["folds"] = [*own.folds, own.folds[0]]
    return "a fold twice"


@odd(REQUEST)
def odd_trainers(world: World) -> str:
    own = trainings_only(world)
    own.words.append("named twice")
    runs = own.runs()
    value = pick(
        own,
        [[runs[0]], [runs[0], runs[0]], [*runs, runs[0]], [f"A={runs[0]},{runs[0]}", runs[1]], [f"A={runs[0]}",
         f"A={runs[1]}"],
         [f"={runs[0]}", runs[1]], [f"A={runs[0]},", runs[1]], ["nnUNetTrainerNone", runs[0]], ["", runs[0]], [" ",
          runs[0]],
         [f"{runs[0]} ", runs[1]], ["../x", runs[0]], [f"A=B={runs[0]}", runs[1]], ["*", runs[0]], ["x" * 300, runs[0]],
         [], [f"A={runs[0]}, {runs[1]}", runs[-1]]],
    )  # fmt: skip
    own.request["trainers"] = value
    own.checked = False
    own.words.append("name two")
    if len(own.chosen) == 1:
        own.verdict = REFUSED
    return f"-tr {value}"


@odd(REQUEST)
def odd_shown_names(world: World) -> str:
    own = trainings_only(world)
    old = pick(own, own.groups)
    new = pick(own, NAMES)
    if new in own.groups or ("=" in new and not own.as_yaml):
        raise NotHereError
    own.groups = {new if name == old else name: runs for name, runs in own.groups.items()}
    own.request["trainers"] = own.groups
    own.words.append(new)
    return f"a trainer shown as {new!r}"


@odd(REQUEST)
def odd_plans(world: World) -> str:
    own = trainings_only(world)
    key = pick(own, ["plans", "configuration"])
    own.request[key] = pick(
        own, ["", " ", "x", "../..", "nnUNetPlans/", "3D_FULLRES", "*", "é", "a__b", "nan", "x" * 300]
    )
    own.checked = False
    if len(own.chosen) == 1 and own.request[key].strip():
        own.verdict = REFUSED
    return f"{key} {own.request[key][:30]!r}"


@odd(REQUEST)
def skip_missing(world: World) -> str:
    own = trainings_only(world)
    own.request["skip_missing"] = True
    if own.rng.random() < 0.7:
        key = pick(own, own.values)
        path = own.model(key[0], key[1]) / f"fold_{key[2]}" / "validation" / "summary.json"
        if not path.is_file() or path.is_symlink():
            raise NotHereError
        path.unlink()
        own.checked = False
        return f"--skip-missing without {key}"
    return "--skip-missing"


@odd(PLACE)
def odd_environment(world: World) -> str:
    own = trainings_only(world)
    name = f"nnUNet_{pick(own, ['raw', 'preprocessed', 'results'])}"
    path = Path(own.environment[name])
    said = pick(own, ["not set", "empty", "~", "relative", "trailing slash", "trailing space", "a file", "missing",
        "a link",
                      "newline", "quoted", "null device", "root"])  # fmt: skip
    if said == "not set":
        del own.environment[name]
    else:
        own.environment[name] = {
            "empty": "", "~": f"~/data/{path.name}", "relative": os.path.relpath(path, own.cwd),
            "trailing slash": f"{path}/",
            "trailing space": f"{path} ", "a file": str(own.data / "afile"), "missing": str(own.data / "gone"),
            "a link": str(own.data / "alink"), "newline": f"{path}\n", "quoted": f'"{path}"',
            "null device": "/dev/null",
            "root": "/",
        }[said]  # fmt: skip
    (own.data / "afile").write_text("x")
    (own.data / "alink").symlink_to(path)
    if said == "~":
        own.environment["HOME"] = str(own.folder)
    if said in ("relative", "trailing slash", "a link") and len(own.chosen) == 1:
        own.verdict = ACCEPTED
    return f"{name}: {said}"
