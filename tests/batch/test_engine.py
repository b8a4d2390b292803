"""Whole studies with a stand-in for nnUNetv2_train: what is done, what is not done twice, and what survives."""

import fcntl
import json
import os
import shlex
import signal
import time

import pytest
from batch_helpers import DATASET, plan_cascade

from nnunet_cpr.batch import attempt
from nnunet_cpr.parallel import job_cores

psutil = pytest.importorskip("psutil", reason="needs nnunet-cpr[batch], which needs Python 3.11")
PATIENCE = 300  # seconds

TWO = "[nnUNetTrainerSGD_3epochs, nnUNetTrainerCPR_ws100_3epochs]"


def test_a_study_runs_ends_with_its_report_and_is_not_done_again(world):
    study = world.study(trainers=TWO)
    first = world.batch(study)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == f"Report: {world.output() / 'report' / 'report.html'}"
    assert (world.output() / "report" / "report.html").is_file()
    assert first.stdout.count("done after") == 4
    world.check_trained_once(folds=4)
    world.check_nothing_left()
    begun = world.events()
    assert all(entry["arguments"][:3] == [DATASET, "3d_fullres", entry["fold"][-1]] for entry in world.events("begin"))

    second = world.batch(study)
    assert second.returncode == 0, second.stderr
    assert "4 trainings, 4 done before" in second.stdout
    assert world.events() == begun


def test_paths_in_variables_may_be_relative(world):
    folders = {f"nnUNet_{name}": name for name in ("raw", "preprocessed", "results")}
    done = world.batch(world.study(), **folders, PYTHONPATH="a:/b")
    assert done.returncode == 0, done.stderr
    world.check_trained_once(folds=2)
    assert {entry["python_path"] for entry in world.events("begin")} == {f"{world.folder}/a:/b"}


def test_a_training_whose_split_changes_meanwhile_is_not_said_to_have_no_result(world):
    world.hold(1)
    process = world.start("batch", world.study(folds="[0]"))
    world.wait_for_events("epoch")
    splits = world.folder / "preprocessed" / DATASET / "splits_final.json"
    splits.write_text(json.dumps(list(reversed(json.loads(splits.read_text())))))
    world.release()
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "nnU-Net ended well, but" in out + err and "left no result" not in out + err


@pytest.mark.parametrize(("jobs", "asked"), [(1, ""), (2, ""), (2, "3")])
def test_trainings_on_a_cpu_share_its_cores(world, jobs, asked):
    study = world.study(trainers=TWO, folds="[0]")
    done = world.batch(study, "--jobs", jobs, NNUNET_CPR_THREADS=asked, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    share = int(asked or max(1, job_cores() // jobs))
    assert {entry["threads"] for entry in world.events("begin")} == {str(share)}
    workers = {entry["workers"] for entry in world.events("begin")}
    assert workers == {str(min(share, job_cores()))} or min(share, job_cores()) >= 12
    if share < job_cores():  # nnU-Net's own trainers use a thread for each core whatever they are told
        assert {entry["waiting"] for entry in world.events("begin")} == {"PASSIVE"}


def test_several_plans_and_configurations_have_a_report_each(world):
    plans = world.folder / "preprocessed" / DATASET / "nnUNetPlans.json"
    plans.with_name("MyPlans.json").write_text(plans.read_text())
    study = world.study("configuration: [2d, 3d_fullres]\nplans: [nnUNetPlans, MyPlans]\n", trainers=TWO, folds="[0]")
    world.fail("nnUNetTrainerCPR_ws100_3epochs", 0)
    first = world.batch(study, "--jobs", "2")
    assert first.returncode == 1
    assert "4 of 8 trainings are not done" in first.stderr
    assert "No report for MyPlans__2d: nothing can be compared yet" in first.stderr
    assert f"{DATASET}, MyPlans, 2d, nnUNetTrainerSGD_3epochs, fold 0: done after" in first.stdout
    (world.folder / "control" / "fail-nnUNetTrainerCPR_ws100_3epochs-0").unlink()
    second = world.batch(study, "--jobs", "2")
    assert second.returncode == 0, second.stderr
    names = ["MyPlans__2d", "MyPlans__3d_fullres", "nnUNetPlans__2d", "nnUNetPlans__3d_fullres"]
    assert sorted(path.parent.name for path in world.output().glob("report/*/report.html")) == names
    assert not (world.output() / "report" / "report.html").exists()
    assert ": 2d of MyPlans, 2 trainers\n" in (world.output() / "report/MyPlans__2d/report.md").read_text()
    used = {tuple(entry["arguments"][index] for index in (1, 6)) for entry in world.events("begin")}
    assert used == {(c, p) for c in ("2d", "3d_fullres") for p in ("nnUNetPlans", "MyPlans")}
    world.check_trained_once(folds=8)
    assert world.batch(study).returncode == 0  # reports are replaced


def test_the_cascade_trains_its_first_stage_before(world):
    """All five folds of it, whichever folds are asked for; nnU-Net needs the predictions of all of them."""
    plan_cascade(world.folder / "preprocessed")
    study = world.study("configuration: 3d_cascade_fullres\n", trainers=TWO, folds="[1]")
    assert world.batch(world.study("configuration: 3d_lowres\n", "first", folds="[2]")).returncode == 0
    lowres = world.results / "nnUNetTrainerSGD_3epochs__nnUNetPlans__3d_lowres"
    first = lowres / "predicted_next_stage" / "3d_cascade_fullres" / "case_2.b2nd"
    first.unlink()  # as if the data of the second stage had not been there yet
    world.fail("nnUNetTrainerCPR_ws100_3epochs", 4)
    planned = world.run("status", study).stdout
    assert "12 trainings: 1 resumable, 11 missing; 33 of 36 epochs left" in planned
    assert "validated, but its predictions for the cascade are missing" in planned
    failing = world.batch(study, "--jobs", "2")
    assert failing.returncode == 1
    assert "2 of 12 trainings are not done" in failing.stderr  # the fold, and the cascade that needs it
    assert first.is_file()
    (world.folder / "control" / "fail-nnUNetTrainerCPR_ws100_3epochs-4").unlink()
    done = world.batch(study, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    world.check_trained_once(folds=12)
    assert ": 3d_cascade_fullres, 2 trainers" in (world.output() / "report/report.md").read_text().replace("\\", "")
    assert "12 trainings: 12 done" in world.run("status", study).stdout


def test_a_failing_fold_does_not_stop_the_rest(world):
    study = world.study(trainers=TWO)
    obstacle = world.fail("nnUNetTrainerCPR_ws100_3epochs", 0)
    first = world.batch(study)
    assert first.returncode == 1
    assert "fold 0: failed with exit code 1, see " in first.stdout
    assert "(RuntimeError: told to fail)" in first.stdout
    assert "1 of 4 trainings are not done" in first.stderr
    assert "fold_0: exit code 1: RuntimeError: told to fail; see " in first.stderr
    assert "1 trainings are missing: nnUNetTrainerCPR_ws100_3epochs fold 0" in first.stdout
    assert len(world.events("done")) == 3

    obstacle.unlink()
    before = len(world.events("begin"))
    assert world.batch(study).returncode == 0
    assert [entry["fold"] for entry in world.events("begin")[before:]] == [
        "nnUNetTrainerCPR_ws100_3epochs__nnUNetPlans__3d_fullres/0"
    ]
    world.check_trained_once(folds=4)


def test_one_trainer_has_nothing_to_be_compared_with(world):
    done = world.batch(world.study(folds="[0, 1, 2]"))
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "nothing to compare" in done.stdout.splitlines()[-1]
    world.check_trained_once(folds=3)
    order = [entry["event"] for entry in world.events() if entry["event"] in ("begin", "done")]
    assert order == ["begin", "done"] * 3  # one at a time


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_saved_and_unlocked(world, number):
    study = world.study(folds="[0, 1, 2]")
    world.hold(1)
    process = world.start("batch", study, "--jobs", 2)
    world.wait_for_events("epoch", 2)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert out.splitlines()[-1] == f"Stopped. To go on: nnunet-cpr batch {shlex.quote(str(study))} --jobs 2"
    assert "Traceback" not in err
    assert not world.processes()
    assert len(world.events("stopped")) == 2
    assert len(world.events("begin")) == 2  # the third was not begun
    if number == signal.SIGINT:
        world.release()
        second = world.batch(study, "--jobs", 2)
        assert second.returncode == 0, second.stderr
        world.check_trained_once(folds=3)


def test_impatience_is_harmless(world):
    world.hold(1)
    process = world.start("batch", world.study())
    world.wait_for_events("epoch")
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, "")
    assert not world.processes()
    assert len(world.events("stopped")) == 1


def test_nohup_is_respected(world):
    world.hold(1)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does; children inherit it
    try:
        process = world.start("batch", world.study(folds="[0]"))
    finally:
        signal.signal(signal.SIGHUP, before)
    world.wait_for_events("epoch")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    world.release()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert not world.events("stopped")


def kill_training(world, _):
    world.trainings()[0].kill()


def kill_job(world, _):
    world.trainings()[0].parent().kill()


def kill_snakemake(world, _):
    world.snakemake().kill()


def kill_snakemakes_group(world, _):
    os.killpg(world.snakemake().pid, signal.SIGKILL)


def kill_controller(_, controller):
    controller.kill()


def kill_controller_and_snakemake(world, controller):
    controller.kill()
    world.snakemake().kill()


def kill_all(world, controller):
    for process in [psutil.Process(controller.pid), *world.processes()]:
        process.kill()


@pytest.mark.parametrize(
    ("kill", "epoch"),
    [
        (kill_training, 1), (kill_job, 1), (kill_snakemake, 1), (kill_snakemakes_group, 0),
        (kill_controller, 1), (kill_controller_and_snakemake, 1), (kill_all, 1), (kill_all, 0),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_after_any_kill_a_second_call_finishes(world, kill, epoch):
    study = world.study()
    world.hold(epoch)
    process = world.start("batch", study, "--jobs", 2)
    world.wait_for_events("epoch" if epoch else "begin", 2)
    kill(world, process)
    if kill is kill_controller:  # Snakemake and its trainings go on, and nobody gets between
        refused = world.batch(study)
        assert refused.returncode == 2
        assert f"is at work on this study (process group {world.snakemake().pid})" in refused.stderr
        world.release()
        world.check_nothing_left()
    elif kill is kill_controller_and_snakemake:  # only the trainings go on, and are waited for
        again = world.start("batch", study, "--jobs", 2)
        log = world.output() / "snakemake.log"
        world.wait_for(lambda: log.read_text().count("waiting for it") == 2)
        world.release()
        assert again.wait(timeout=PATIENCE) == 0
    else:
        if kill is kill_job:
            world.wait_for_events("stopped")  # the training is not left alone
        if kill in (kill_training, kill_job):  # the other one goes on
            world.release()
        process.communicate(timeout=PATIENCE)
        if kill is not kill_all:  # the controller is alive and leaves nothing behind
            assert process.returncode == 1
            world.check_nothing_left()
        (world.folder / "control" / "hold").unlink(missing_ok=True)
    again = world.batch(study, "--jobs", 2)
    assert again.returncode == 0, again.stderr
    world.check_trained_once(folds=2)
    world.check_nothing_left()


def test_one_training_on_a_gpu_and_all_gpus_used(world):
    study = world.study("device: cuda\n", folds="[0, 1, 2, 3, 4]")
    world.hold(1)
    process = world.start("batch", study, "--gpus", "0,1")
    world.wait_for_events("epoch", 2)
    assert {entry["gpu"] for entry in world.events("epoch")} == {"0", "1"}
    world.release()
    assert process.wait(timeout=PATIENCE) == 0
    world.check_trained_once(folds=5)


def test_trainings_on_two_gpus_each(world):
    """All or none, and stopped by a signal although nnU-Net trains in other processes then."""
    study = world.study("device: cuda\ngpus_per_training: 2\n", folds="[0, 1, 2]")
    world.hold(1)
    process = world.start("batch", study, "--gpus", "0,1,2,3,4")
    world.wait_for_events("epoch", 2)
    assert {entry["gpu"] for entry in world.events("epoch")} == {"0,1", "2,3"}
    for entry in world.events("begin"):
        assert entry["arguments"][entry["arguments"].index("-num_gpus") + 1] == "2"
    commands = world.processes(lambda words: "nnunet_cpr.training.launch" in words)
    assert len(commands) == 2
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert len(world.events("stopped")) == 2
    world.release()
    again = world.batch(study, "--gpus", "0,1,2,3,4")
    assert again.returncode == 0, again.stderr
    world.check_trained_once(folds=3)


@pytest.mark.slow
def test_two_studies_share_folds_and_gpus(world):
    studies = [world.study("device: cuda\n", name, folds="[0, 1, 2]") for name in ("one", "two")]
    world.hold(1)
    processes = [world.start("batch", study, "--gpus", "0,1") for study in studies]
    world.wait_for_events("epoch", 2)
    world.wait_for(lambda: all((world.output(name) / "snakemake.log").is_file() for name in ("one", "two")))
    world.release()
    for process in processes:
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
    world.check_trained_once(folds=3)


def test_a_second_call_is_refused_and_status_looks_on(world):
    study = world.study()
    world.hold(1)
    first = world.start("batch", study)
    world.wait_for_events("epoch")
    assert "2 trainings: 1 running, 1 missing" in world.run("status", study).stdout
    second = world.batch(study)
    assert second.returncode == 2
    assert f"another call is at work on this study (process group {world.snakemake().pid})" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    world.release()
    assert first.wait(timeout=PATIENCE) == 0
    world.check_trained_once(folds=2)


def test_results_removed_by_hand_are_made_again(world):
    study = world.study(folds="[0]")
    assert world.batch(study).returncode == 0
    next(world.results.glob("*/fold_0/validation/summary.json")).unlink()
    assert world.batch(study).returncode == 0
    assert len(world.events("done")) == 2  # validated again, not trained again
    world.check_trained_once(folds=1)


def test_output_that_cannot_be_written(world):
    (world.folder / "file").touch()
    done = world.batch(world.study("output: file/inside\n"))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "Not a directory" in done.stderr


def test_a_fold_that_was_trained_again_is_gone_on_with(world):
    """Not from the earlier training's final checkpoint, which nnU-Net's --c prefers."""
    study = world.study(folds="[0]")
    assert world.batch(study).returncode == 0
    folder = next(world.results.glob("*/fold_0"))
    (folder / "checkpoint_latest.pth").write_text("1")  # a training without --c has done two of three epochs
    next(folder.glob("training_log*")).unlink()
    assert "resumable" in world.run("status", study).stdout
    done = world.batch(study)
    assert done.returncode == 0, done.stderr
    assert world.events("begin")[-1]["epoch"] == 2
    assert [entry["epoch"] for entry in world.events("epoch")] == [0, 1, 2, 2]
    assert (folder / "checkpoint_final.pth.old").is_file()


def test_a_changed_split_is_left_to_the_user(world):
    """nnU-Net would validate cases that the fold was trained with."""
    study = world.study(trainers=TWO, folds="[0]")
    assert world.batch(study).returncode == 0
    splits = world.folder / "preprocessed" / DATASET / "splits_final.json"
    changed = json.loads(splits.read_text())
    splits.write_text(json.dumps(changed[1:] + changed[:1]))
    begun = world.events()
    done = world.batch(study)
    assert done.returncode == 1
    assert done.stdout.count("it was validated with case_0, case_5 and without case_1, case_6, unlike fold 0 of") >= 2
    assert "2 of 2 trainings are not done" in done.stderr
    assert world.events() == begun
    assert len(list(world.results.glob("*/fold_0/checkpoint_final.pth"))) == 2


def test_pretrained_weights_are_given_at_the_start_and_remembered(world):
    """nnU-Net refuses them together with --c, and keeps no record of them."""
    weights = world.folder / "weights.pth"
    weights.write_text("one")
    study = world.study(f"pretrained_weights: {weights.name}\n", folds="[0]")
    world.hold(1)
    process = world.start("batch", study)
    world.wait_for_events("epoch")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    world.release()
    again = world.batch(study)
    assert again.returncode == 0, again.stderr
    first, second = (entry["arguments"] for entry in world.events("begin"))
    assert first[-2:] == ["-pretrained_weights", str(weights)] and "--c" not in first
    assert second[-1] == "--c" and "-pretrained_weights" not in second
    world.check_trained_once(folds=1)

    for text, content, reason in [
        ("pretrained_weights: weights.pth\n", "two", "it was trained from other pretrained weights, "),
        ("", "one", "it was trained from pretrained weights, "),
    ]:
        weights.write_text(content)
        refused = world.batch(world.study(text, folds="[0]"))
        assert refused.returncode == 1
        assert f"{reason}{weights}" in refused.stdout
        assert "1 of 1 trainings are not done" in refused.stderr
    assert len(world.events("begin")) == 2
    world.study("pretrained_weights: weights.pth\n", folds="[0]")
    assert world.batch(study).returncode == 0


def test_weights_that_change_while_trainings_wait(world):
    weights = world.folder / "weights.pth"
    weights.write_text("one")
    study = world.study("pretrained_weights: weights.pth\n")
    world.hold(1)
    process = world.start("batch", study)
    world.wait_for_events("epoch")
    weights.write_text("two")
    world.release()
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert f"{weights} has changed since this call began; call again to use it" in err
    assert len(world.events("begin")) == 1


def test_no_home_and_no_user(world):
    """As in a container that is started with a number instead of a user."""
    nobody = world.folder / "sitecustomize"
    nobody.mkdir()
    (nobody / "sitecustomize.py").write_text(
        "import pwd\ndef getpwuid(uid): raise KeyError(f'getpwuid(): uid not found: {uid}')\npwd.getpwuid = getpwuid\n"
    )
    names = dict.fromkeys(("LOGNAME", "USER", "LNAME", "USERNAME", "XDG_CACHE_HOME"), "")
    path = os.pathsep.join(filter(None, [str(nobody), os.environ.get("PYTHONPATH")]))
    done = world.batch(world.study(folds="[0]"), HOME="/proc/nowhere", PYTHONPATH=path, **names)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(world.events("done")) == 1


def test_what_snakemake_says_reaches_the_terminal(world):
    study = world.study(folds="[0]")
    world.output().mkdir(parents=True)
    (world.output() / ".snakemake").touch()  # where it needs a folder
    done = world.batch(study)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Snakemake failed with exit code 1: ")]
    assert ".snakemake" in line and "Error" in line


def test_the_reason_of_a_failing_preparation_reaches_the_terminal(world, tmp_path, monkeypatch):
    preprocess = tmp_path / "bin" / "nnUNetv2_preprocess"
    preprocess.parent.mkdir()
    preprocess.write_text("#!/bin/sh\necho KeyError: absent >&2\nexit 1\n")
    preprocess.chmod(0o755)
    monkeypatch.setenv("PATH", f"{preprocess.parent}{os.pathsep}{os.environ['PATH']}")
    (world.folder / "preprocessed" / DATASET / "splits_final.json").unlink()
    plans = world.folder / "preprocessed" / DATASET / "nnUNetPlans.json"
    plans.write_text(plans.read_text().replace("nnUNetPlans_3d_fullres", "absent"))
    done = world.batch(world.study(folds="[0]"))
    assert done.returncode == 1
    assert f"  prepare/{DATASET}: nnUNetv2_preprocess failed with exit code " in done.stdout
    assert f"prepare/{DATASET}: nnUNetv2_preprocess failed with exit code " in done.stderr
    assert not world.events()


def test_waiting_for_a_gpu_is_said(world):
    study = world.study("device: cuda\n", folds="[0]")
    locks = world.folder / "tmp" / f"nnunet-cpr-{os.getuid()}"
    locks.mkdir(mode=0o700)
    with (locks / "gpu-0.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        process = world.start("batch", study, "--gpus", "0")
        seen = iter(process.stdout.readline, "")
        assert any("waits, because other studies train on all of the GPUs 0" in line for line in seen)
        assert not world.events()
    assert process.wait(timeout=PATIENCE) == 0
    assert len(world.events("done")) == 1


@pytest.mark.parametrize(("cores", "expected"), [(1, ("1", "1")), (10, ("10", None)), (64, (None, None))])
def test_a_training_starts_as_many_processes_as_its_job_has_cores(monkeypatch, cores, expected):
    for name in ("nnUNet_n_proc_DA", "nnUNet_def_n_proc"):
        monkeypatch.delenv(name, raising=False)
    found = attempt.processes(cores)
    assert (found.get("nnUNet_n_proc_DA"), found.get("nnUNet_def_n_proc")) == expected
    monkeypatch.setenv("nnUNet_n_proc_DA", "3")
    assert "nnUNet_n_proc_DA" not in attempt.processes(cores)
