"""scripts/compare_runs.py: tables computed by hand, what is said of them, and bad input."""

import csv
import json
import math
import re

import pytest
from compare_runs import main
from comparison_helpers import read, write_run
from script_helpers import ROOT, gpt2_flags, losses, run_python, stop_after, train_gpt2_here

CPR = {"optimizer": "adamcpr"}
WS = {**CPR, "kappa_init_method": "warm_start", "kappa_init_param": 4}


def adamw(wd):
    return {"optimizer": "adamw", "weight_decay": wd}


@pytest.fixture
def study(tmp_path):
    """Three seeds of the baseline and of Kappa-IP, two of Kappa-WS of which one is the baseline's, two of wd 1."""
    return [
        write_run(tmp_path / "base1", [40, 30, 22, 20], seed=1, **adamw(0.1)),
        write_run(tmp_path / "base2", [40, 30, 23, 21], seed=2, **adamw(0.1)),
        write_run(tmp_path / "base3", [40, 30, 24, 22], seed=3, **adamw(0.1)),
        write_run(tmp_path / "ip1", [40, 20, 19.5, 19], seed=1, **CPR),
        write_run(tmp_path / "ip2", [40, 22, 21, 19], seed=2, **CPR),
        write_run(tmp_path / "ip3", [40, 23, 21.5, 19], seed=3, **CPR),
        write_run(tmp_path / "ws1", [40, 30, 18, 20.5], seed=1, **WS),
        write_run(tmp_path / "ws9", [40, 30, 25, 21.5], seed=9, **WS),
        write_run(tmp_path / "decayed1", [40, 30, 25, 24], seed=1, **adamw(1)),
        write_run(tmp_path / "decayed2", [40, 30, 25, 26], seed=2, **adamw(1)),
    ]


def compared(tmp_path, folders, *flags):
    """Compare, and return the rows of --csv."""
    table = tmp_path / "table.csv"
    assert main([*map(str, folders), "--csv", str(table), *flags]) == 0
    return read(table)


def floats(row, *names):
    return [float(row[name]) if row[name] else None for name in names]


def test_the_table_by_hand(tmp_path, study):
    rows = compared(tmp_path, study)
    assert list(rows) == ["adamcpr Kappa-IP", "adamw wd 0.1", "adamcpr Kappa-WS 4", "adamw wd 1"]  # best first
    base, ip = rows["adamw wd 0.1"], rows["adamcpr Kappa-IP"]
    ws, decayed = rows["adamcpr Kappa-WS 4"], rows["adamw wd 1"]
    assert [row["baseline"] for row in rows.values()] == ["adamw wd 0.1"] * 4
    summary = ("n", "mean", "std", "pairs", "difference", "difference_std", "ci_low", "ci_high")
    # 20, 21, 22; not compared with itself
    assert floats(base, *summary) == [3, 21, 1, 0, None, None, None, None]
    # -1, -2, -3, std 1: the 97.5 % point of t with 2 degrees of freedom is 4.302653
    half = 4.302653 / math.sqrt(3)
    assert floats(ip, *summary) == pytest.approx([3, 19, 0, 3, -2, 1, -2 - half, -2 + half], abs=1e-5)
    # 20.5 (not 18, the best) and 21.5; one pair, seed 1
    assert floats(ws, *summary) == [2, 21, pytest.approx(math.sqrt(0.5)), 1, 0.5, None, None, None]
    # 4 and 5: two pairs have no interval
    half = math.sqrt(0.5)
    assert floats(decayed, *summary) == [2, 25, pytest.approx(2 * half), 2, 4.5, pytest.approx(half), None, None]


def test_steps_to_the_baseline_by_hand(tmp_path, study):
    rows = compared(tmp_path, study)
    names = [f"baseline_{name}" for name in ("reached", "of", "first_step", "last_step", "first_share", "last_share")]
    assert floats(rows["adamw wd 0.1"], *names) == [3, 3, 40, 40, 1, 1]
    # 20 <= 20 at step 20; 21 <= 21 and 21.5 <= 22 at step 30
    assert floats(rows["adamcpr Kappa-IP"], *names) == [3, 3, 20, 30, 0.5, 0.75]
    # seed 1: 18 <= 20 at step 30; seed 9, which the baseline lacks: never 21, the mean
    assert floats(rows["adamcpr Kappa-WS 4"], *names) == [1, 2, 30, 30, 0.75, 0.75]
    assert floats(rows["adamw wd 1"], *names) == [0, 2, None, None, None, None]


def test_the_share_is_of_the_baselines_steps(tmp_path):
    """The paper's claim: 200k steps of AdamCPR are worth 300k of AdamW."""
    base = write_run(tmp_path / "base", [40, 30, 20], seed=1, **adamw(0.1))
    ours = write_run(tmp_path / "ours", [40, 20], seed=1, **CPR)
    row = compared(tmp_path, [base, ours])["adamcpr Kappa-IP, 20 steps"]
    assert float(row["baseline_first_share"]) == pytest.approx(2 / 3)


def test_the_terminal_and_markdown_say_the_same(tmp_path, study, capsys):
    assert main([*map(str, study), "--markdown", str(tmp_path / "table.md"), "--reach", "19.5"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    header, *rows = shown.out.split("\n\n")[0].splitlines()
    assert header.split("  ")[0] == "setting"
    ip = "adamcpr Kappa-IP|3|19.000|0.000|-2.000|1.000|3|[-4.484, +0.484]|3 of 3|20-30|50-75 %|3 of 3|30-40|GPT2s 17.94"
    assert " ".join(rows[0].split()) == ip.replace("|", " ")
    # seed 1 only, with 18 at step 30 (better than 19.5, too)
    ws = "adamcpr Kappa-WS 4|2|21.000|0.707|+0.500|1|1 of 2|30|75 %|1 of 2|30|GPT2s 18.03"
    assert " ".join(rows[2].split()) == ws.replace("|", " ")
    assert "not reached (0 of 2)" in rows[3]
    starts = {line.index("3 of 3") for line in rows[:2]}
    assert len(starts) == 1  # aligned
    text = " ".join(shown.out.split())
    assert "Baseline: adamw wd 0.1, chosen after the fact: the best of 2 such settings" in text
    assert "Models of another size were trained here" in text
    assert "The paper also says: AMOS diverges with GPT2s, and AdamCPR after 200,000 steps is as good" in text
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:4]] == ["adamcpr Kappa-IP", "3", "19.000"]
    assert len({line.count("|") for line in lines[:6]}) == 1
    assert any(line.startswith("- Baseline: adamw wd 0.1, chosen after the fact") for line in lines)


def test_a_row_a_run(tmp_path, study):
    path = tmp_path / "runs.csv"
    assert main([*map(str, study), "--runs-csv", str(path), "--reach", "19.5"]) == 0
    with path.open() as file:
        lines = file.read().splitlines()
    assert lines[0].split(",")[:7] == ["setting", "seed", "folder", "step", "max_steps", "finished", "counted"]
    assert lines[1] == f"adamw wd 0.1,1,{study[0]},40,40,True,True,,20,40,1,,20,0.9375"
    assert lines[4] == f"adamcpr Kappa-IP,1,{study[3]},40,40,True,True,-1,20,20,0.5,30,19,0.9375"


def test_accuracy_is_better_when_higher(tmp_path, capsys):
    runs = [
        write_run(tmp_path / "a", [0.1, 0.5, 0.3], script="train_grokking", seed=1, **adamw(0.1)),
        write_run(tmp_path / "b", [0.1, 0.2, 0.4], script="train_grokking", seed=1, **adamw(1)),
        write_run(tmp_path / "c", [0.45, 0.96, 0.94], script="train_grokking", seed=1, **CPR),
        write_run(tmp_path / "d", [0.1, 0.9499, 0.9], script="train_grokking", seed=1, **CPR, kappa_init_param=0.5),
    ]
    rows = compared(tmp_path, runs, "--reach", "0.95")
    assert list(rows) == ["adamcpr Kappa-kI0 0.8", "adamcpr Kappa-kI0 0.5", "adamw wd 1", "adamw wd 0.1"]
    assert {row["baseline"] for row in rows.values()} == {"adamw wd 1"}
    assert [row["value_first_step"] for row in rows.values()] == ["20", "", "", ""]
    assert [row["baseline_first_step"] for row in rows.values()] == ["10", "20", "30", "20"]
    assert "higher is better" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("optimizers", "expected"),
    [
        (["adam", "sgd", "adamw"], "adamw wd 0.1"),
        (["adam", "sgd", "sgdcpr"], "sgd wd 0.1"),
        (["adam", "adamcpr"], "adam"),
        (["adamcpr", "sgdcpr"], ""),
    ],
)
def test_the_baseline_unless_it_is_named(tmp_path, capsys, optimizers, expected):
    values = iter([10, 11, 12])  # the first would be the best
    runs = [write_run(tmp_path / name, [20, next(values)], optimizer=name) for name in optimizers]
    assert {row["baseline"] for row in compared(tmp_path, runs).values()} == {expected}
    out = capsys.readouterr().out
    assert ("No baseline" in out) == (not expected)
    assert "after the fact" not in out  # it is the only one of its optimizer


def test_a_named_baseline(tmp_path, study, capsys):
    rows = compared(tmp_path, study, "--baseline", "adamw wd 1")
    assert float(rows["adamcpr Kappa-IP"]["difference"]) == ((19 - 24) + (19 - 26)) / 2
    assert rows["adamcpr Kappa-IP"]["pairs"] == "2"
    assert "after the fact" not in capsys.readouterr().out


def test_unfinished_runs_are_left_out_and_said_so(tmp_path, study, capsys):
    open_run = write_run(tmp_path / "open", [40, 10], seed=4, max_steps=40, **adamw(0.1))
    alone = write_run(tmp_path / "alone", [40], seed=1, max_steps=40, **CPR, lr=0.002)
    before = compared(tmp_path, study)
    capsys.readouterr()
    rows = compared(tmp_path, [*study, open_run, alone])
    shown = capsys.readouterr()
    assert f"{open_run} is not finished (step 20 of 40): left out" in shown.err
    assert f"{alone} is not finished (step 10 of 40): left out" in shown.err
    assert "unfinished" in shown.out.splitlines()[0]
    base = rows["adamw wd 0.1, lr 0.001"]
    assert (base["n"], base["unfinished"], base["mean"]) == ("3", "1", before["adamw wd 0.1"]["mean"])
    assert rows["adamcpr Kappa-IP, lr 0.002"]["n"] == "0"
    counted = compared(tmp_path, [*study, open_run], "--unfinished")["adamw wd 0.1"]
    assert (counted["n"], counted["unfinished"], float(counted["mean"])) == ("4", "1", (20 + 21 + 22 + 10) / 4)
    assert "counted as it is" in capsys.readouterr().err


def test_a_diverged_run_is_not_averaged_away(tmp_path, capsys):
    runs = [
        write_run(tmp_path / "a", [20, 10], seed=1, **adamw(0.1)),
        write_run(tmp_path / "b", [20, "nan"], seed=2, **adamw(0.1)),
        write_run(tmp_path / "c", [20, 15], seed=1, **adamw(1)),
    ]
    rows = compared(tmp_path, runs)
    assert rows["adamw wd 0.1"]["mean"] == ""
    assert {row["baseline"] for row in rows.values()} == {"adamw wd 1"}
    shown = capsys.readouterr()
    assert f"the last val_perplexity of {runs[1]} is nan" in shown.err
    assert next(line for line in shown.out.splitlines() if line.startswith("adamw wd 0.1")).split()[4] == "nan"
    named = compared(tmp_path, runs, "--baseline", "adamw wd 0.1")["adamw wd 1"]
    assert floats(named, "difference", "baseline_reached", "baseline_of") == [5, 0, 1]  # of seed 1, which is known
    unpaired = write_run(tmp_path / "d", [20, 15], seed=3, **adamw(1))
    named = compared(tmp_path, [*runs, unpaired], "--baseline", "adamw wd 0.1")["adamw wd 1"]
    assert floats(named, "baseline_reached", "baseline_of", "baseline_first_step") == [0, 0, None]  # no mean to reach


def test_what_makes_runs_hard_to_compare_is_said(tmp_path, capsys):
    runs = [
        write_run(tmp_path / "a", [20, 10], **adamw(0.1), data={"source": "x", "sha256": "1"}),
        write_run(tmp_path / "b", [20, 18, 15, 9], every=5, **CPR, data={"source": "x", "sha256": "2"}),
    ]
    assert main(list(map(str, runs))) == 0
    error = capsys.readouterr().err
    assert "the runs differ in data, so their val_perplexity is not of the same thing" in error
    assert "eval_every is" not in error  # which is a setting, and not changed here
    other = write_run(tmp_path / "c", [20, 10], seed=7, **adamw(0.1), eval_every=20)
    assert main([str(runs[0]), str(other)]) == 0
    assert "eval_every is 20 or 50" in capsys.readouterr().err
    configured(other, settings={"eval_every": None})
    assert main([str(runs[0]), str(other)]) == 0
    assert "eval_every is 50 or None" in capsys.readouterr().err


def test_other_metrics(tmp_path, study):
    rows = compared(tmp_path, study, "--metric", "train_accuracy")
    assert {row["metric"] for row in rows.values()} == {"train_accuracy"}


def broken(folder, text):
    (folder / "metrics.csv").write_text(text)


def configured(folder, settings=(), **changes):
    config = json.loads((folder / "config.json").read_text())
    config["settings"] |= dict(settings)
    (folder / "config.json").write_text(json.dumps(config | changes))


HEADER = "step,train_loss,lr,val_perplexity\n"
BAD = {
    "absent": (lambda f: None, ["absent"], "absent is no run of a training script (it holds no config.json)"),
    "no config": (lambda f: (f / "config.json").unlink(), ["a"], "holds no config.json"),
    "no metrics": (lambda f: (f / "metrics.csv").unlink(), ["a"], "holds no metrics.csv"),
    "no json": (lambda f: (f / "config.json").write_text("{"), ["a"], "config.json cannot be read as the config"),
    "odd json": (lambda f: (f / "config.json").write_text("[]"), ["a"], "config.json cannot be read as the config"),
    "other": (lambda f: (f / "config.json").write_text(
        '{"script": "x", "settings": {"seed": 1, "max_steps": 2, "optimizer": "adam"}}'), ["a"], "is a run of x; only"),
    "a list for a script": (lambda f: configured(f, script=["x"]), ["a"], "script is ['x'], not a text"),
    "UTF-16": (lambda f: (f / "config.json").write_text("{}", encoding="utf-16"), ["a"], "run: it is not UTF-8"),
    "a text for data": (lambda f: configured(f, starts=[{"data": "x"}]), ["a"], "data of starts is 'x', not a mapping"),
    "a list of data": (lambda f: configured(f, settings={"data": [1]}), ["a"], "data is [1], not a path"),
    "no number of steps": (lambda f: configured(f, settings={"max_steps": None}), ["a"], "max_steps is None, not a"),
    "a text for a rate": (lambda f: configured(f, settings={"lr": "x"}), ["a"], "lr is 'x', not a number"),
    "a text for a number": (lambda f: configured(f, settings={"eval_every": "x"}), ["a"], "eval_every is 'x', not a"),
    "more than a number": (lambda f: configured(f, settings={"max_steps": 10**400}), ["a"],
                           "0000..., but at most 922337"),
    "a number for a rule": (lambda f: configured(f, settings={"reg_function": 2}), ["a"], "reg_function is 2, not a"),
    "empty": (lambda f: broken(f, ""), ["a"], "metrics.csv is truncated or damaged in line"),
    "none yet": (lambda f: broken(f, HEADER), ["a"], "a has no evaluation yet"),
    "no values yet": (lambda f: broken(f, HEADER + "5,1,1,\n"), ["a"], "a has no evaluation yet"),
    "truncated": (lambda f: broken(f, HEADER + "10,1,1,20\n20,1,1,1"), ["a"], "truncated or damaged in line 3"),
    "cut line": (lambda f: broken(f, HEADER + "10,1\n20,1,1,10\n"), ["a"], "truncated or damaged in line 2"),
    "words": (lambda f: broken(f, HEADER + "10,1,1,x\n"), ["a"], "cannot be read as the metrics of a run"),
    "bytes": (lambda f: (f / "metrics.csv").write_bytes(HEADER.encode() + b"10,1,1,\xff\n"), ["a"], "cannot be read"),
    "no steps": (lambda f: broken(f, HEADER.replace("step", "x") + "10,1,1,1\n"), ["a"], "cannot be read as"),
    "two in one": (lambda f: broken(f, HEADER + "20,1,1,5\n10,1,1,5\n"), ["a"], "steps that do not increase"),
    "unfinished": (lambda f: broken(f, HEADER + "10,1,1,5\n"), ["a"], "no run is finished (", "at step 10 of 20"),
    "scripts": (lambda f: None, ["a", "grok"], "is a run of train_gpt2, but", "of train_grokking"),
    "same": (lambda f: None, ["a", "b", "a2"], "are both adamw wd 0.1 with seed 1234; leave one out"),
    "metric": (lambda f: None, ["a", "--metric", "lr"], "a has no metric lr; it has val_perplexity, train_accuracy"),
    "baseline": (lambda f: None, ["a", "b", "--baseline", "x"],
                 "no setting is called 'x'; there are: adamw wd 0.1; adamcpr Kappa-IP"),
    "open baseline": (lambda f: broken(f, HEADER + "10,1,1,5\n"), ["a", "b", "--baseline", "adamw wd 0.1"],
                      "no run of the baseline adamw wd 0.1 is finished"),
    "no grid": (lambda f: None, ["a", "b", "--heatmap", "out/h.png"], "the runs are no grid"),
    "no trace": (lambda f: None, ["a", "--constraints", "out/c.png"], "none of the runs has a trace"),
    "huge trace": (lambda f: (f.parent / "t" / "cpr_trace.csv").write_text(
        "step,tensor,reg,kappa,lagmul\n10,w1,1e300,inf,0\n"), ["t", "--constraints", "out/c.png"], "holds 1e+300"),
    "a trace below 0": (lambda f: (f.parent / "t" / "cpr_trace.csv").write_text(
        "step,tensor,reg,kappa,lagmul\n10,w1,1,2,-inf\n"), ["t", "--constraints", "out/c.png"], "trace.csv holds -inf"),
    "no tensor": (lambda f: (f.parent / "t" / "cpr_trace.csv").write_text(
        "step,tensor,reg,kappa,lagmul\n10,,1,2,0\n"), ["t", "--constraints", "out/c.png"], "rows without a tensor"),
    "a row twice": (lambda f: (f.parent / "t" / "cpr_trace.csv").write_text(
        "step,tensor,reg,kappa,lagmul\n10,w1,1,2,0\n10,w1,1,2,0\n"), ["t", "--constraints", "out/c.png"],
        "cpr_trace.csv has rows without a tensor, or with steps that do not increase"),
    "tensor": (lambda f: None, ["t", "--constraints", "out/c.png", "--tensors", "w2"], "no tensor w2; it has w1"),
    "tensors": (lambda f: None, ["t", "--tensors", "w1"], "--tensors chooses what --constraints"),
    "figure": (lambda f: None, ["a", "--curves", "out/c.xyz"], "a figure's name ends in one of ."),
    "no folder": (lambda f: None, ["a", "--csv", "nowhere/t.csv"], "there is no folder nowhere"),
    "own file": (lambda f: None, ["a", "--csv", "a/metrics.csv"], "lies in the folder of a run"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a", [20, 10], **adamw(0.1))
    write_run(tmp_path / "a2", [20, 10], **adamw(0.1), eval_every=7)
    write_run(tmp_path / "b", [20, 10], **CPR)
    write_run(tmp_path / "t", [20, 10], **CPR, lr=0.1, trace=["10,w1,1,2,0"])
    write_run(tmp_path / "grok", [0.5, 1], script="train_grokking")
    (tmp_path / "out").mkdir()
    damage, flags, *messages = BAD[case]
    damage(tmp_path / "a")
    if case != "own file":
        flags = [*flags, "--csv", "out/table.csv"] if "--csv" not in flags else flags
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(flags) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("compare_runs.py: error: ")
    assert shown.err.count("\n") == 1
    assert all(message in shown.err for message in messages)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_truncated_trace_is_one_line(tmp_path, capsys):
    run = write_run(tmp_path / "run", [20, 10], **CPR, trace=["10,w1,1,2,0"])
    (run / "cpr_trace.csv").write_text("step,tensor,reg,kappa,lagmul\n10,w1,1,2,0\n20,w1,1")
    assert main([str(run), "--constraints", str(tmp_path / "c.png")]) == 2
    assert "cpr_trace.csv is truncated or damaged in line 3" in capsys.readouterr().err


def test_nothing_imports_torch():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
        "import compare_runs\ncompare_runs.build_parser()\nprint('torch' in sys.modules)"
    )
    found = run_python("-c", code)
    assert found.stdout == "False\n", found.stderr


def test_real_trainings_one_of_them_resumed(tmp_path, text, monkeypatch):
    """End to end: the table has what the trainings wrote last, and a resumed run is like any other."""
    for seed in ("1", "2"):
        for name, flags in {"base": ["--optimizer", "adamw"], "ours": ["--optimizer", "adamcpr"]}.items():
            flags = gpt2_flags(text, tmp_path / f"{name}{seed}", "--seed", seed, *flags)
            if (name, seed) == ("ours", "2"):
                with monkeypatch.context() as patch:
                    stop_after(patch, 7)
                    with pytest.raises(KeyboardInterrupt):
                        train_gpt2_here(flags)
                flags.append("--resume")
            train_gpt2_here(flags)
    folders = [tmp_path / f"{name}{seed}" for name in ("base", "ours") for seed in "12"]
    figures = {name: tmp_path / f"{name}.png" for name in ("curves", "constraints")}
    flags = [part for name, path in figures.items() for part in (f"--{name}", str(path))]
    rows = compared(tmp_path, folders, "--metric", "val_loss", *flags)
    last = {folder.name: float(losses(folder)[-1][3]) for folder in folders}
    base, ours = rows["adamw wd 0.1"], rows["adamcpr Kappa-IP"]
    assert float(base["mean"]) == pytest.approx((last["base1"] + last["base2"]) / 2)
    differences = [last[f"ours{seed}"] - last[f"base{seed}"] for seed in "12"]
    assert float(ours["difference"]) == pytest.approx(sum(differences) / 2, rel=1e-5)
    assert all(path.stat().st_size > 10_000 for path in figures.values())


def test_as_a_command(tmp_path, study):
    command = [str(ROOT / "scripts" / "compare_runs.py"), *map(str, study)]
    done = run_python(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("setting ")
    failed = run_python(command[0], str(tmp_path / "absent"))
    assert (failed.returncode, failed.stdout) == (2, "")


def test_names_are_text_everywhere(tmp_path, capsys):
    folder = tmp_path / "=1+1|<b>$x$"
    monkey = [write_run(folder, [3, 2], data={}), write_run(tmp_path / "other", [4, 3], lr=0.5)]
    config = json.loads((folder / "config.json").read_text())
    config["settings"]["size"] = "-$x^2$|<b>"
    (folder / "config.json").write_text(json.dumps(config))
    outputs = ["--markdown", "t.md", "--csv", "t.csv", "--runs-csv", "r.csv", "--curves", "c.png"]
    outputs = [part if part.startswith("--") else str(tmp_path / part) for part in outputs]
    assert main([*map(str, monkey), *outputs]) == 0
    table = (tmp_path / "t.md").read_text().split("\n\n")[0].splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert not re.search(r"(?<!\\)<b", (tmp_path / "t.md").read_text())
    assert not re.search(r"(^|,)[=+@]", (tmp_path / "r.csv").read_text(), flags=re.M)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("b\udcffd", r"b\udcffd"), ("\u202erev", r"\u202erev"), ("a\nb", r"a\nb"), ("\x1b[2J", r"\x1b[2J")],
)
def test_folders_whose_names_cannot_be_shown(tmp_path, capsys, name, shown):
    odd = write_run(tmp_path / name, [3, 2], max_steps=30)
    whole = write_run(tmp_path / "whole", [4, 3], lr=0.5)
    names = {"--runs-csv": "r.csv", "--csv": "t.csv", "--markdown": "t.md", "--curves": "c.png"}
    flags = [part for flag, file in names.items() for part in (flag, str(tmp_path / file))]
    assert main([str(odd), str(whole), *flags]) == 0
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        assert [row["folder"] for row in csv.DictReader(file)] == [str(tmp_path / shown), str(whole)]
    assert f"warning: {tmp_path / shown} is not finished" in capsys.readouterr().err


def test_what_a_file_cannot_hold_is_one_line(tmp_path, study, capsys, monkeypatch):
    monkeypatch.setattr("compare_runs.read_runs", lambda _: "b\udcffd".encode())
    assert main([*map(str, study)]) == 2
    assert capsys.readouterr().err == "compare_runs.py: error: 'b\\udcffd' is not text in utf-8; rename the file\n"


def test_an_interruption_is_one_line(tmp_path, study, capsys, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("compare_runs.read_runs", interrupted)
    assert main([*map(str, study)]) == 130
    assert capsys.readouterr().err == "compare_runs.py: interrupted\n"
