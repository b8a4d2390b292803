"""The profile of docs/how-to/lsf.md, with Snakemake's LSF plugin and a stand-in for LSF's commands."""

import json
import os
import re
import signal
import subprocess
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("snakemake", reason="needs nnunet-cpr[batch], which needs Python 3.11")
pytest.importorskip("snakemake_executor_plugin_lsf", reason="needs snakemake-executor-plugin-lsf")
import lsf_stand_in
from batch_helpers import DATASET, prepared_dataset, raw_with_test_set
from batch_world import PATIENCE, World

TEN = "[nnUNetTrainerSGD_10epochs]"
NAME = "nnUNetTrainerSGD_10epochs__nnUNetPlans__3d_fullres"
DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "lsf.md"
# The plugin looks after jobs 20 s after it began, and every 10 s or less often after that.
SHORT_WAITS = """\
import asyncio
sleep = asyncio.sleep
asyncio.sleep = lambda seconds, *more: sleep(min(seconds, 1), *more)
"""


class Cluster:
    """LSF as the tests see it: what was submitted, and what happens to a job."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def submissions(self) -> list[tuple[str, dict[str, list[str]]]]:
        """Return the kind of every job that was submitted, and the options that LSF got with it."""
        found = []
        for *words, _ in self.read("submissions.jsonl"):
            options: dict[str, list[str]] = {}
            for name, value in zip(words[::2], words[1::2], strict=True):
                options.setdefault(name, []).append(value)
            kind = re.match(r"Snakemake_rule_(\w+):", options.pop("-J")[0])[1]
            assert options.pop("-o") == options.pop("-e")
            found.append((kind, options))
        return found

    def read(self, name: str) -> list[list]:
        path = self.state / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def job_of(self, fold: int) -> str:
        """Return the number of the job that trains this fold."""
        jobs = [json.loads(path.read_text()) for path in sorted((self.state / "jobs").glob("*.json"))]
        name = rf"Snakemake_rule_train:run=.*___fold_{fold}___\("
        (number,) = [job["number"] for job in jobs if re.match(name, job["options"]["-J"][0])]
        return number

    def ask(self, number: str, request: str) -> None:
        """Let something happen to a job that the stand-in knows."""
        with (self.state / "jobs" / f"{number}.requests").open("a") as stream:
            stream.write(f"{request}\n")


@pytest.fixture
def world(tmp_path, shadow_python):
    """In a folder with a plain name, as the plugin writes paths into a shell's command."""
    world = World(tmp_path, shadow_python)
    yield world
    world.close()


@pytest.fixture
def cluster(world, tmp_path, monkeypatch):
    lsf_stand_in.install(tmp_path / "commands", tmp_path / "lsf")
    (tmp_path / "startup").mkdir()
    (tmp_path / "startup" / "sitecustomize.py").write_text(SHORT_WAITS)
    monkeypatch.setenv("FAKE_LSF", str(tmp_path / "lsf"))
    monkeypatch.setenv("PATH", str(tmp_path / "commands"), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "startup"), prepend=os.pathsep)
    return Cluster(tmp_path / "lsf")


@pytest.fixture
def profile(tmp_path):
    """The file that the document shows, as it is there."""
    shown = r"^    # FOLDER/config.yaml\n((?:    .*\n)+)"
    (text,) = re.findall(shown, DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    folder = tmp_path / "profile"
    folder.mkdir()
    (folder / "config.yaml").write_text(textwrap.dedent(text))
    return folder


COMMON = {"-env": ["all"], "-P": ["default"], "-q": ["gpu"], "-W": ["1440"], "-n": ["12"],
          "-R": ["rusage[mem=4096.0]", "span[hosts=1]"]}  # fmt: skip
ON_GPU = {"-gpu": ["num=1:j_exclusive=yes"], "-wa": ["USR1"], "-wt": ["2"]}


def test_a_study_goes_on_after_all_that_stops_its_jobs(world, cluster, profile):
    """One training is warned of its time limit, one gets to it, and one is ended by bkill."""
    raw_with_test_set(world.folder / "raw")
    study = world.study("device: cuda\ntest_set: true\n", trainers=TEN, folds="[0, 1, 2]")
    world.hold(1)
    process = world.start("batch", study, "--profile", profile)
    world.wait_for_events("epoch", 3)
    jobs = [cluster.job_of(fold) for fold in range(3)]
    cluster.ask(jobs[0], "warning")
    cluster.ask(jobs[1], "run limit")
    subprocess.run(["bkill", jobs[2]], check=True)
    records = [world.output() / "records" / DATASET / NAME / f"fold_{fold}.json" for fold in range(3)]
    world.wait_for(lambda: all(path.is_file() for path in records))
    for path in records:
        record = json.loads(path.read_text())
        assert (record["outcome"], record["exit_code"]) == ("stopped", 75)
    world.release()
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out + err

    world.check_trained_once(folds=3, epochs=10)
    assert dict(cluster.read("signals.jsonl")) == dict(zip(jobs, ["SIGUSR1", "SIGUSR2", "SIGINT"], strict=True))
    assert cluster.read("left_behind.jsonl") == []
    assert len(world.events("predicted")) == 1
    for event in world.events("begin") + world.events("predict"):
        assert event["gpu"] in {str(number) for number in range(lsf_stand_in.GPUS)}
    submissions = cluster.submissions()
    assert [kind for kind, _ in submissions] == ["train"] * 6 + ["predict"]
    for _, options in submissions:
        assert options == COMMON | ON_GPU | {"-cwd": [str(world.output())]}


def test_ctrl_c_ends_the_jobs_and_the_next_call_goes_on(world, cluster, profile):
    study = world.study("device: cuda\n", trainers=TEN, folds="[0]")
    world.hold(1)
    process = world.start("batch", study, "--profile", profile)
    world.wait_for_events("epoch")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, out + err
    world.check_nothing_left()
    assert len(world.events("stopped")) == 1
    assert {name for _, name in cluster.read("signals.jsonl")} == {"SIGINT"}
    assert cluster.read("left_behind.jsonl") == []
    world.release()
    again = world.batch(study, "--profile", profile)
    assert again.returncode == 0, again.stdout + again.stderr
    world.check_trained_once(folds=1, epochs=10)


def test_ctrl_c_ends_the_jobs_while_their_state_is_asked_for(world, cluster, profile):
    """Snakemake's own list of jobs is empty at that time."""
    study = world.study("device: cuda\n", trainers=TEN, folds="[0]")
    world.hold(1)
    (cluster.state / "slow").touch()
    process = world.start("batch", study, "--profile", profile)
    world.wait_for_events("epoch")
    world.wait_for(lambda: cluster.read("questions.jsonl"))
    process.send_signal(signal.SIGINT)
    world.wait_for(lambda: world.events("stopped"))
    (cluster.state / "slow").unlink()
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, out + err
    world.check_nothing_left()


def test_jobs_that_need_no_gpu_ask_for_none(world, cluster, profile):
    """A dataset that is to be prepared, and a finished training whose surface metrics are missing; both only wait."""
    new = world.folder / "raw" / "Dataset005_New"
    new.mkdir()
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}
    (new / "dataset.json").write_text(json.dumps(description))
    prepared_dataset(world.folder / "preprocessed", "Dataset006_Done")
    finished = world.folder / "results" / "Dataset006_Done" / NAME / "fold_0" / "validation" / "summary.json"
    finished.parent.mkdir(parents=True)
    finished.write_text(json.dumps({"metric_per_case": [{"prediction_file": f"case_{k}.nii.gz"} for k in (0, 5)]}))
    study = world.study("surface: true\ndevice: cuda\n", trainers=TEN, folds="[0]")
    study.write_text(study.read_text().replace("[4]", "[4, 5, 6]"))
    (cluster.state / "closed").touch()
    process = world.start("batch", study, "--profile", profile)
    log = world.output() / "snakemake.log"  # bkill is only for jobs of which the plugin knows the number
    world.wait_for(lambda: log.is_file() and log.read_text().count("submitted with LSF jobid") == 3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, out + err
    world.check_nothing_left()
    common = COMMON | {"-cwd": [str(world.output())]}
    assert dict(cluster.submissions()) == {"prepare": common, "surface": common, "train": common | ON_GPU}
    assert cluster.read("signals.jsonl") == []


def test_a_queue_that_is_not_there(world, cluster, profile):
    config = profile / "config.yaml"
    config.write_text(config.read_text().replace("lsf_queue: gpu", "lsf_queue: absent"))
    done = world.batch(world.study("device: cuda\n"), "--profile", profile)
    assert done.returncode == 1
    assert "absent: No such queue. Job not submitted." in done.stderr
