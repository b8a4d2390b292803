"""Whole studies with a stand-in for nnUNetv2_train: what is done, what is not done twice, and what survives."""

import os
import signal

import pytest
from batch_helpers import DATASET

psutil = pytest.importorskip("psutil", reason="needs nnunet-cpr[batch], which needs Python 3.11")

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


def test_a_failing_fold_does_not_stop_the_rest(world):
    study = world.study(trainers=TWO)
    obstacle = world.fail("nnUNetTrainerCPR_ws100_3epochs", 0)
    first = world.batch(study)
    assert first.returncode == 1
    assert "fold 0: failed with exit code 1, see " in first.stdout
    assert "1 of 4 trainings are not done" in first.stderr
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
    done = world.batch(world.study())
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "nothing to compare" in done.stdout.splitlines()[-1]
    world.check_trained_once(folds=2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_saved_and_unlocked(world, number):
    study = world.study("", folds="[0, 1, 2]")
    process = world.start("batch", study, "--jobs", 2, FAKE_EPOCH_SECONDS="1")
    world.wait_for_events("epoch", 2)
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "Stopped. To go on: nnunet-cpr batch" in out.splitlines()[-1]
    assert "Traceback" not in err
    assert not world.processes()
    assert len(world.events("stopped")) == 2
    second = world.batch(study, "--jobs", 2)
    assert second.returncode == 0, second.stderr
    world.check_trained_once(folds=3)


def test_impatience_is_harmless(world):
    study = world.study()
    process = world.start("batch", study, FAKE_EPOCH_SECONDS="1")
    world.wait_for_events("epoch")
    for _ in range(3):
        process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130
    assert not world.processes()


def test_nohup_is_respected(world):
    study = world.study(folds="[0]")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does; children inherit it
    try:
        process = world.start("batch", study)
    finally:
        signal.signal(signal.SIGHUP, before)
    world.wait_for_events("begin")
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=300) == 0


def kill_training(world, _):
    world.trainings()[0].kill()


def kill_controller(world, controller):
    controller.kill()


def kill_snakemake(world, _):
    world.snakemake().kill()


def kill_job(world, _):
    world.trainings()[0].parent().kill()


def kill_snakemakes_group(world, _):
    os.killpg(world.snakemake().pid, signal.SIGKILL)


def kill_all(world, controller):
    for process in [psutil.Process(controller.pid), *world.processes()]:
        process.kill()


@pytest.mark.parametrize("event", ["begin", "epoch"])
@pytest.mark.parametrize(
    "kill", [kill_training, kill_job, kill_snakemake, kill_controller, kill_snakemakes_group, kill_all]
)
def test_after_any_kill_a_second_call_finishes(world, kill, event):
    study = world.study(folds="[0, 1]")
    process = world.start("batch", study, "--jobs", 2, FAKE_EPOCH_SECONDS="0.5")
    world.wait_for_events(event, 2)
    kill(world, process)
    _, err = process.communicate(timeout=300)
    assert "Traceback" not in err
    if kill is kill_controller:  # Snakemake and its trainings go on, and nobody gets between
        refused = world.batch(study)
        assert refused.returncode in (0, 2)
        if refused.returncode:
            assert "another call is at work on this study (process group" in refused.stderr
        world.check_nothing_left()
    elif kill is not kill_all:  # the controller is alive and leaves nothing behind
        assert process.returncode == 1
        assert not world.trainings()
    again = world.batch(study, "--jobs", 2)
    assert again.returncode == 0, again.stderr
    world.check_trained_once(folds=2)
    world.check_nothing_left()


def test_one_training_on_a_gpu_and_all_gpus_used(world):
    study = world.study("device: cuda\n", folds="[0, 1, 2, 3, 4]")
    assert world.batch(study, "--gpus", "0,1").returncode == 0
    world.check_trained_once(folds=5)
    assert {entry["gpu"] for entry in world.events("begin")} == {"0", "1"}


def test_two_studies_share_folds_and_gpus(world):
    studies = [world.study("device: cuda\n", name, folds="[0, 1, 2]") for name in ("one", "two")]
    processes = [world.start("batch", study, "--gpus", "0,1") for study in studies]
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    world.check_trained_once(folds=3)


def test_jobs(world):
    """With --jobs 2 two trainings overlap, without it none."""
    overlaps = []
    for name, arguments in (("SGD_3epochs", []), ("SGD_3epochs_seed1", ["--jobs", "2"])):
        study = world.study(name=name, trainers=f"[nnUNetTrainer{name}]", folds="[0, 1, 2]")
        assert world.batch(study, *arguments).returncode == 0
        running, most = set(), 0
        for entry in world.events():
            if f"nnUNetTrainer{name}__" in entry["fold"]:
                (running.discard if entry["event"] == "done" else running.add)(entry["fold"])
                most = max(most, len(running))
        overlaps.append(most)
    assert overlaps == [1, 2]


def test_two_calls_at_once(world):
    study = world.study()
    first = world.start("batch", study)
    world.wait_for_events("begin")
    second = world.batch(study)
    assert second.returncode == 2
    assert f"another call is at work on this study (process group {world.snakemake().pid})" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert first.wait(timeout=300) == 0
    world.check_trained_once(folds=2)


def test_results_removed_by_hand_are_trained_again(world):
    study = world.study(folds="[0]")
    assert world.batch(study).returncode == 0
    summary = next(world.results.glob("*/fold_0/validation/summary.json"))
    summary.unlink()
    before = len(world.events("done"))
    assert world.batch(study).returncode == 0
    assert len(world.events("done")) == before + 1  # validated again, not trained again
    world.check_trained_once(folds=1)


def test_output_that_cannot_be_written(world):
    blocked = world.folder / "file"
    blocked.touch()
    done = world.batch(world.study(f"output: {blocked.name}/inside\n"))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "file" in done.stderr


def test_status_while_it_runs(world):
    study = world.study()
    process = world.start("batch", study, FAKE_EPOCH_SECONDS="2")
    world.wait_for_events("begin")
    table = world.run("status", study).stdout
    assert "running" in table
    assert "2 trainings: 1 running, 1 missing" in table
    process.terminate()
    assert process.wait(timeout=300) == 130
