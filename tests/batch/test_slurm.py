"""Studies on a real SLURM with one node, started by `make test-slurm`; trainings are the stand-in's."""

import os
import signal
import subprocess

import pytest

pytestmark = pytest.mark.skipif("NNUNET_CPR_SLURM" not in os.environ, reason="make test-slurm starts a SLURM for these")
TWO = "[nnUNetTrainerSGD_3epochs, nnUNetTrainerCPR_ws100_3epochs]"
LONG = "[nnUNetTrainerSGD_80epochs]"
PLACE = "partition=main,gres=gpu:1,mem=500M,cpus=1,time="


def queue() -> list[str]:
    return subprocess.run(["squeue", "-h", "-o", "%i"], capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture
def world(tmp_path, shadow_python):
    """The plugin writes paths between double quotes into the job's command, so this one is plain."""
    pytest.importorskip("snakemake", reason="needs nnunet-cpr[batch], which needs Python 3.11")
    from batch_world import World

    world = World(tmp_path, shadow_python)
    yield world
    world.close()


@pytest.fixture(autouse=True)
def empty_queue(world):
    yield
    subprocess.run(["scancel", "-f", "--me"], check=True)
    world.wait_for(lambda: not queue())


def test_a_study_on_both_gpus_by_a_profile(world):
    profile = world.folder / "profile"
    profile.mkdir()
    (profile / "config.yaml").write_text(
        "executor: slurm\njobs: 10\nslurm-status-command: squeue\nslurm-no-account: true\n"
        "slurm-init-seconds-before-status-checks: 5\n"
        "default-resources: {slurm_partition: main, mem_mb: 500, runtime: 10, cpus_per_task: 1}\n"
        "set-resources: {train: {gres: \"'gpu:1'\"}}\n"
    )
    done = world.batch(world.study("device: cuda\n", trainers=TWO), "--profile", profile)
    assert done.returncode == 0, done.stderr
    assert (world.output() / "report" / "report.html").is_file()
    world.check_trained_once(folds=4)
    assert {entry["gpu"] for entry in world.events("begin")} == {"0", "1"}


def test_the_time_limit_requeue_and_scancel_are_resumed(world):
    """80 epochs of a second do not fit into a minute; on the way one job is requeued and one cancelled."""
    study = world.study("device: cuda\n", trainers=LONG)
    process = world.start("batch", study, "--slurm", f"{PLACE}1", FAKE_EPOCH_SECONDS="1")
    world.wait_for_events("epoch", 6)
    requeued, cancelled = queue()[:2]
    subprocess.run(["scontrol", "requeue", requeued], check=True)
    subprocess.run(["scancel", cancelled], check=True)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, out + err
    world.check_trained_once(folds=2, epochs=80)
    assert len(world.events("stopped")) >= 3
    assert not queue()


def test_the_warning_comes_before_the_time_limit(world):
    study = world.study("device: cuda\n", trainers="[nnUNetTrainerSGD_100epochs]", folds="[0]")
    process = world.start("batch", study, "--slurm", f"{PLACE}3", FAKE_EPOCH_SECONDS="1")
    world.wait_for_events("stopped")
    assert len(world.events("epoch")) < 90  # well before 180 seconds
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, out + err
    world.check_trained_once(folds=1, epochs=100)


def test_ctrl_c_cancels_the_jobs_which_save(world):
    study = world.study("device: cuda\n", trainers="[nnUNetTrainerSGD_30epochs]")
    process = world.start("batch", study, "--slurm", f"{PLACE}10", FAKE_EPOCH_SECONDS="1")
    world.wait_for_events("epoch", 4)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 130, out + err
    assert not queue() and not world.processes()
    assert len(world.events("stopped")) == 2
    assert world.batch(study, "--slurm", f"{PLACE}10").returncode == 0
    world.check_trained_once(folds=2, epochs=30)


def test_jobs_of_a_killed_controller_are_not_started_again(world):
    study = world.study("device: cuda\n", trainers="[nnUNetTrainerSGD_30epochs]")
    process = world.start("batch", study, "--slurm", f"{PLACE}10", FAKE_EPOCH_SECONDS="1")
    world.wait_for_events("epoch", 4)
    process.kill()
    world.snakemake().kill()
    jobs = queue()
    refused = world.batch(study, "--slurm", f"{PLACE}10")
    assert refused.returncode == 2
    assert all(job in refused.stderr for job in jobs) and "scancel" in refused.stderr
    world.wait_for(lambda: not queue())
    assert world.batch(study, "--slurm", f"{PLACE}10").returncode == 0
    world.check_trained_once(folds=2, epochs=30)
