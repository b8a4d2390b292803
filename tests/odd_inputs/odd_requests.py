"""What may be odd in the flags of both kinds of comparison, and in the place of the report."""

import json
import os
from typing import Any

from odd_comparisons import Compare
from odd_texts import NAMES, NUMBERS, for_files
from odd_worlds import ACCEPTED, EITHER, PLACE, REFUSED, REQUEST, TEXT, NotHereError, odd, pick


@odd(REQUEST)
def odd_numbers(world: Compare) -> str:
    own = world
    key = pick(own, ["tolerance", "seed", "processes"])
    value: Any = pick(own, [*NUMBERS, "0.5", "3"])
    if key == "tolerance":
        own.surface, own.request["surface"] = True, True
        own.unknown |= {"NSD"}
    bad = {"tolerance": {"-1", "0", "nan", "", "three", "1,5", "0x10", "--", "True", "None", "0.1.2", "inf", "-inf",
        "-0", "1e400"},
           "seed": set(NUMBERS) - {"0", " 3 ", "1_0", "١", "9" * 30, "9" * 5000, "+2", "-0"},
           "processes": {"-1", "1.5", "nan", "inf", "", "three", "--", "1e3", "0.1.2", "None",
           "True"}}[key]  # fmt: skip
    if own.as_yaml:
        bad = {v for v in bad if v not in ("True", "None", "1e3")}
        try:
            value = json.loads(value)
        except ValueError:
            bad.add(value)
    own.request[key] = value
    if str(value) in bad and len(own.chosen) == 1:
        own.verdict = REFUSED
    own.words.append(key)
    return f"{key} {str(value)[:40]!r}"


@odd(REQUEST)
def odd_margins(world: Compare) -> str:
    good = ["0.02", "Dice=0.5", "Dice=2e-2", "0.999999", "1e-300"]
    bad = ["0", "-1", "nan", "inf", "1", "Dice=", "=0.1", "=", "x=0.1", "dice=0.1", "RVE=0.1", "Recall=0.1", "0.1 0.2",
           "Lesion F1=0.1", "Dice=0.1=0.2", "1e400", "٠", "0,1"]  # fmt: skip
    value = pick(world, [*good, *bad])
    world.request["margin"] = value.split(" ") if world.rng.random() < 0.5 else [value]
    if len(world.chosen) == 1 and value not in ("Lesion F1=0.1", "0.1 0.2"):
        world.verdict = REFUSED if value in bad else ACCEPTED
    world.words.append("margin")
    return f"--margin {value!r}"


@odd(REQUEST)
def more_metrics(world: Compare) -> str:
    """Precision and so on, of results that may lack the counts; lesions of labels that may not be there."""
    own = world
    own.checked = False
    if own.rng.random() < 0.5:
        own.request["counts"] = True
        own.words += ["counts", "TP"]
        return "--counts"
    own.request["lesions"] = [pick(own, ["1", "2", "part 1", "label 1", "foreground mean", "", "é", "0"])]
    if own.rng.random() < 0.5:
        own.request["lesion_rule"] = pick(own, ["brats", "overlap", "BraTS", ""])
    own.words += ["lesion", "--lesions"]
    return f"--lesions {own.request['lesions'][0]!r}"


@odd(REQUEST)
def odd_penalty(world: Compare) -> str:
    own = world
    value = pick(own, ["374", "0", "-1", "nan", "1e400", "x"])
    own.request["missed_hd95"] = value
    own.unknown |= {"HD95"}
    own.words.append("missed")
    if len(own.chosen) == 1 and not own.surface:
        own.verdict = REFUSED
    return f"--missed-hd95 {value!r}"


@odd(REQUEST)
def odd_empty_policy(world: Compare) -> str:
    value = pick(world, ["NaN", "NAN", "0.0", "1.0", "2", "none", "", "0 ", "-1"])
    world.request["empty"] = value
    world.checked = False
    return f"--empty {value!r}"


@odd(REQUEST, REFUSED)
def unknown_baseline(world: Compare) -> str:
    if "baseline" in world.request:
        raise NotHereError
    world.request["baseline"] = pick(world, ["x", " ", "ONE", "é", "0"])
    return f"--baseline {world.request['baseline']!r}"


@odd(REQUEST, ACCEPTED)
def other_baseline(world: Compare) -> str:
    if "baseline" in world.request:
        raise NotHereError
    names = list(world.request["predictions"] if "predictions" in world.request else world.request["trainers"])
    world.request["baseline"] = names[-1].partition("=")[0]
    return "another baseline"


@odd(REQUEST)
def useless_keys(world: Compare) -> str:
    """What belongs to the other kind of comparison."""
    if "predictions" in world.request:
        key = pick(world, ["datasets", "trainers", "folds", "configuration", "plans"])
        world.request[key] = {"datasets": ["4"], "trainers": ["nnUNetTrainer", "B"], "folds": ["0"]}.get(key, "2d")
    else:
        key = pick(world, ["reference", "predictions"])
        world.request[key] = str(world.data) if key == "reference" else [f"x={world.data}", f"y={world.data}"]
    if key != "reference" and len(world.chosen) == 1:
        world.verdict = REFUSED
    world.checked = False
    return f"{key}, too"


@odd(REQUEST, REFUSED)
def missing_key(world: Compare) -> str:
    key = pick(world, ["reference", "predictions"] if "predictions" in world.request else ["datasets", "trainers"])
    del world.request[key]
    world.words += ["-tr", "--pred", "-d"]
    return f"without {key}"


@odd(REQUEST, REFUSED)
def unknown_flags(world: Compare) -> str:
    world.extra += pick(
        world, [["--x"], ["-x", "1"], ["extra"], ["--surfaces"], ["--seed"], ["-o"], ["--out", "x"], ["--config"]]
    )
    return f"and {world.extra}"


@odd(REQUEST)
def flags_twice(world: Compare) -> str:
    world.extra += pick(world, [["--seed", "1", "--seed", "2"], ["-np", "1", "-np", "2"]])
    return f"and {world.extra}"


@odd(TEXT)
def no_such_config(world: Compare) -> str:
    world.extra += [
        "--config",
        pick(world, ["", "nowhere.yaml", "/dev/null", "/", ".", "/proc/self/mem", "x" * 300, "/dev/zero0"]),
    ]
    if not world.as_yaml:
        world.argv += world.extra[-2:]
    world.checked = False
    if len(world.chosen) == 1 and world.extra[-1]:
        world.verdict = REFUSED
    return f"--config {world.extra[-1][:30]!r}"


# The output


REPORT = ["report.html", "report.md", "cases.csv", "summary.csv", "comparisons.csv", "table.tex", "manifest.json"]


@odd(PLACE)
def output_state(world: Compare) -> str:
    output = world.folder / "out" / "report"
    if str(world.request.get("output")) != str(output) or world.output != output:
        raise NotHereError
    said = pick(
        world,
        ["a file", "a dangling link", "a link to a folder", "an empty folder", "foreign files", "a foreign report.html",
         "a foreign cases.csv", "half made", "a link to a file", "a folder of figures", "hidden files",
         "a git repository",
         "report.html is a folder", "figures is a file", "figures is a link", "report.html is a link"],
    )  # fmt: skip
    users: list[str] = []
    target = world.folder / "target"

    def put(name: str, text: str = "the user's") -> None:
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        users.append(str(path.relative_to(world.folder)))

    verdict = EITHER
    if said == "a file":
        output.write_text("the user's")
        verdict = REFUSED
    elif said == "a dangling link":
        output.symlink_to(target)
        world.output = None if world.rng.random() < 0 else output
    elif said == "a link to a folder":
        target.mkdir()
        output.symlink_to(target)
        verdict = ACCEPTED
    elif said == "a link to a file":
        target.write_text("the user's")
        output.symlink_to(target)
        verdict = REFUSED
    elif said == "an empty folder":
        output.mkdir()
        verdict = ACCEPTED
    elif said == "foreign files":
        put("thesis.tex")
        put("data/a.txt")
        verdict = REFUSED
    elif said == "a foreign report.html":
        put(pick(world, ["report.html", "report.html", "index.html"]))
        put("cases.csv", "my,own\n1,2\n")
    elif said == "a foreign cases.csv":
        put(pick(world, [name for name in REPORT if name != "report.html"]))
    elif said == "half made":
        (output / "figures").mkdir(parents=True)
        (output / "cases.csv").write_text("dataset,trainer,fold,case,label,metric,value,run\n")
    elif said == "a folder of figures":
        put("figures/mine.png")
    elif said == "hidden files":
        put(".mine")
        put(f".{os.getpid()}-report.html")
        put(".999999-notes.txt")
    elif said == "a git repository":
        put(".git/config")
    elif said == "report.html is a folder":
        put("report.html/x")
    elif said == "figures is a file":
        put("figures")
    elif said == "figures is a link":
        output.mkdir()
        target.mkdir()
        (target / "notes.txt").write_text("the user's")
        users.append("target/notes.txt")
        (output / "figures").symlink_to(target)
    elif said == "report.html is a link":
        output.mkdir()
        target.write_text("the user's")
        users.append("target")
        (output / "report.html").symlink_to(target)
    world.users_files = users
    if len(world.chosen) == 1:
        world.verdict = verdict
    return f"output: {said}"


@odd(PLACE)
def output_place(world: Compare) -> str:
    said = pick(
        world,
        ["nested", "relative", "below a file", "the data", "the predictions", "too long", "device", "proc", "empty",
         "..", "cwd",
         "trailing slash", "odd name", "~ in it", "null", "hyphen"],
    )  # fmt: skip
    if world.output != world.folder / "out" / "report" or world.as_yaml or "-o" not in world.argv:
        raise NotHereError
    (world.folder / "out" / "afile").write_text("x")
    name = pick(world, for_files([n for n in NAMES if len(n.encode(errors="replace")) < 200]))
    texts = {
        "nested": str(world.folder / "out" / "a" / "b" / "c"), "relative": "../out/rel",
        "below a file": str(world.folder / "out" / "afile" / "x"), "the data": str(world.data),
        "the predictions": str(world.data / pick(world, os.listdir(world.data))),
        "too long": str(world.folder / "out" / ("x" * 300)),
        "device": "/dev/null", "proc": "/proc/x", "empty": "", "..": str(world.folder / "out" / ".." / "out" / "b"),
        "cwd": ".", "trailing slash": str(world.folder / "out" / "s") + "/",
        "odd name": str(world.folder / "out" / name),
        "~ in it": "~/report", "null": "a" * 5000, "hyphen": str(world.folder / "out" / "-x"),
    }  # fmt: skip
    text = texts[said]
    world.argv[world.argv.index("-o") + 1] = text
    world.output = (world.cwd / text) if text and text[0] != "~" else world.cwd / "~" / "report"
    if said in ("device", "proc", "empty"):
        world.output = None
    if len(world.chosen) == 1:
        refused = {"below a file", "the data", "the predictions", "too long", "device", "proc", "null", "empty"}
        world.verdict = REFUSED if said in refused else ACCEPTED if said != "~ in it" else EITHER
    if said == "~ in it":  # within quotes the shell does not expand it
        world.checked = False
        world.output = world.home / "report"
    return f"-o {text[-40:]!r} ({said})"
