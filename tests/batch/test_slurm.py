"""Studies on a real SLURM with one node, started by `make test-slurm`; trainings are the stand-in's."""

import json
import os
import signal
import subprocess

import pytest

pytestmark = pytest.mark.skipif("NNUNET_CPR_SLURM" not in os.environ, reason="make test-slurm starts a SLURM for these")
TWO = "[nnUNetTrainerSGD_3epochs, nnUNetTrainerCPR_ws100_3epochs]"
PLACE = "partition=main,gres=gpu:1,mem=500M,cpus=1,time="


def queue() -> list[str]:
    return subprocess.run(["squeue", "-h", "-o", "%i"], capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture
def world(tmp_path, shadow_python, monkeypatch):
    """With --profile Snakemake's plugin writes paths into a shell's command, so this one is plain."""
    pytest.importorskip("snakemake", reason="needs nnunet-cpr[batch], which needs Python 3.11")
    import batch_world
    from batch_world import World

    monkeypatch.setattr(batch_world, "PATIENCE", 600.0)  # a requeued job waits for two minutes
    world = World(tmp_path, shadow_python)
    yield world
    world.close()


@pytest.fixture(autouse=True)
def empty_queue(world):
    yield
    subprocess.run(["scancel", "-f", "--me"], check=True)
    world.wait_for(lambda: not queue())


def profile(world, minutes: int):
    folder = world.folder / "profile"
    folder.mkdir()
    (folder / "config.yaml").write_text(
        "executor: slurm\njobs: 10\nretries: 3\nslurm-status-command: squeue\nslurm-no-account: true\n"
        "slurm-init-seconds-before-status-checks: 5\nslurm-requeue: true\n"
        f"default-resources: {{slurm_partition: main, mem_mb: 500, runtime: {minutes}, cpus_per_task: 1}}\n"
        "set-resources: {train: {gres: \"'gpu:1'\"}}\n"
    )
    return folder


def test_a_study_on_both_gpus_by_a_profile(world):
    done = world.batch(world.study("device: cuda\n", trainers=TWO), "--profile", profile(world, minutes=10))
    assert done.returncode == 0, done.stderr
    assert (world.output() / "report" / "report.html").is_file()
    world.check_trained_once(folds=4)
    assert {entry["gpu"] for entry in world.events("begin")} == {"0", "1"}


def test_the_time_limit_requeue_and_scancel_are_resumed(world):
    """One job is requeued and one canceled; later both hit the limit of a minute, of which nothing warns them."""
    study = world.study("device: cuda\n", trainers="[nnUNetTrainerSGD_30epochs]")
    world.hold(1)
    process = world.start("batch", study, "--profile", profile(world, minutes=1))
    world.wait_for_events("epoch", 2)
    requeued, canceled = queue()
    subprocess.run(["scontrol", "requeue", requeued], check=True)
    subprocess.run(["scancel", canceled], check=True)
    world.wait_for_events("stopped", 4)
    world.release()
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, out + err
    assert {entry["signal"] for entry in world.events("stopped")} == {signal.SIGTERM}
    world.check_trained_once(folds=2, epochs=30)


def test_the_warning_comes_before_the_time_limit(world):
    study = world.study("device: cuda\n", trainers="[nnUNetTrainerSGD_10epochs]", folds="[0]")
    world.hold(1)
    process = world.start("batch", study, "--slurm", f"{PLACE}3")
    world.wait_for_events("stopped")
    world.release()
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, out + err
    assert world.events("stopped")[0]["signal"] == signal.SIGUSR1
    world.check_trained_once(folds=1, epochs=10)


def test_ctrl_c_cancels_the_jobs_which_save(world):
    study = world.study("device: cuda\n", trainers="[nnUNetTrainerSGD_10epochs]")
    world.hold(1)
    process = world.start("batch", study, "--slurm", f"{PLACE}10")
    world.wait_for_events("epoch", 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 130, out + err
    assert not queue() and not world.processes()
    assert len(world.events("stopped")) == 2
    world.release()
    assert world.batch(study, "--slurm", f"{PLACE}10").returncode == 0
    world.check_trained_once(folds=2, epochs=10)


def test_jobs_of_a_killed_controller_are_not_started_again(world):
    study = world.study("device: cuda\n", trainers="[nnUNetTrainerSGD_10epochs]")
    world.hold(1)
    process = world.start("batch", study, "--slurm", f"{PLACE}10")
    world.wait_for_events("epoch", 2)
    process.kill()
    world.snakemake().kill()
    jobs = queue()
    refused = world.batch(study, "--slurm", f"{PLACE}10")
    assert refused.returncode == 2
    assert all(job in refused.stderr for job in jobs) and "scancel" in refused.stderr
    world.release()
    world.wait_for(lambda: not queue())
    assert world.batch(study, "--slurm", f"{PLACE}10").returncode == 0
    world.check_trained_once(folds=2, epochs=10)


def test_a_study_in_a_folder_that_a_shell_would_take_apart(world):
    output = json.dumps('it\'s `touch EXECUTED` "$(touch EXECUTED)" %j {x} ö')
    study = world.study(f"device: cuda\noutput: {output}\n", trainers=TWO, folds="[0]")
    done = world.batch(study, "--slurm", f"{PLACE}10,comment=two words")
    assert done.returncode == 0, done.stdout + done.stderr
    world.check_trained_once(folds=2)
    assert not list(world.folder.rglob("EXECUTED"))
    assert {entry["gpu"] for entry in world.events("begin")} == {"0", "1"}


def test_a_job_that_sbatch_refuses(world):
    place = f"{PLACE}10".replace("main", "absent")
    done = world.batch(world.study("device: cuda\n", folds="[0]"), "--slurm", place)
    assert done.returncode == 1
    assert "sbatch refuses the job: sbatch: error: invalid partition specified: absent" in done.stderr


def test_a_profile_is_refused_where_a_shell_would_take_the_path_apart(world):
    study = world.study("device: cuda\noutput: a $(touch EXECUTED)\n")
    done = world.batch(study, "--profile", profile(world, minutes=10))
    assert done.returncode == 2
    assert "--profile: the study's output is in " in done.stderr
