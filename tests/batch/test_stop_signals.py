"""How a training's job hands stop signals on: once, with patience that ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

TRAINING = """#!/bin/sh
trap 'echo term >> terms' TERM
touch begun
while [ ! -e end ]; do sleep 0.05; done
exit 75
"""
JOB = """
from pathlib import Path
from nnunet_cpr.batch import stop_relay
stop_relay.STOP_SECONDS = {patience}
with stop_relay.StopRelay() as stop:
    print(stop_relay.run_command(["./training"], Path("log"), {{}}, [], stop))
"""


@pytest.fixture
def job(tmp_path, request):
    (tmp_path / "training").write_text(TRAINING)
    (tmp_path / "training").chmod(0o755)
    code = JOB.format(patience=request.param)
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: (tmp_path / "begun").exists())
    yield process
    (tmp_path / "end").touch()
    process.wait()


def wait_for(what) -> None:
    until = time.monotonic() + 300
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize("job", [300], indirect=True)
def test_a_training_is_told_once(job, tmp_path):
    """However often the job is; a second SIGTERM would make a training drop everything."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        job.send_signal(number)
        wait_for(lambda: (tmp_path / "terms").exists())
        time.sleep(0.2)
    (tmp_path / "end").touch()
    assert job.communicate()[0] == "75\n"
    assert (tmp_path / "terms").read_text() == "term\n"


@pytest.mark.parametrize("job", [1], indirect=True)
def test_a_training_that_does_not_stop_is_killed(job, tmp_path):
    job.send_signal(signal.SIGTERM)
    assert job.communicate()[0] == f"{128 + signal.SIGKILL}\n"
    assert (tmp_path / "terms").read_text() == "term\n"
    with pytest.raises(ProcessLookupError):
        os.kill(job.pid, 0)
