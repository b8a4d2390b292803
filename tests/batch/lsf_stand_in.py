"""Stands in for LSF's commands: bsub, bjobs, bkill, bhist, badmin and lsclusters, as Snakemake's LSF plugin calls them.

FAKE_LSF names a folder. `submissions.jsonl` there gets the arguments of every bsub, and `signals.jsonl` every signal
that a job was sent. Each job is a process of its own that runs the user's command as LSF's sbatchd does:

- in a shell that survives stop signals, while what it starts does not;
- with LSB_DJOB_NUMPROC, and with GPUs of its own if it asks for them;
- signals go to all of the job's processes, in whatever session they are;
- bkill sends SIGINT, SIGTERM and SIGKILL with 10 seconds between them;
- what a job leaves behind when its shell ends is killed, and noted in `left_behind.jsonl`.

While there is a file `closed`, no job starts; while there is a file `slow`, bjobs does not answer. Time limits do not
run here. A line in `jobs/NUMBER.requests` makes one come: `warning` does what the job's -wa and -wt ask for, and
nothing if it has none; `run limit` sends SIGUSR2, and ends the job ten minutes later. Needs psutil, which comes with
Snakemake.
"""

import fcntl
import fnmatch
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import psutil

STATE = Path(os.environ.get("FAKE_LSF", "."))
QUEUES = ("gpu",)
GPUS = 4
TERMINATE_INTERVAL = 10.0
AFTER_RUN_LIMIT = 600.0
WITH_VALUE = {"-J", "-o", "-e", "-env", "-P", "-q", "-W", "-n", "-R", "-gpu", "-wa", "-wt", "-cwd", "-M"}
JOB_FILE = """\
#!/bin/sh
trap '#' TERM USR1 USR2 INT HUP
{command}
code=$?
wait
exit $code
"""


def note(file: str, *content: object) -> None:
    with (STATE / file).open("a") as stream:
        stream.write(json.dumps(content) + "\n")


def job_file(number: str, ending: str = "json") -> Path:
    return STATE / "jobs" / f"{number}.{ending}"


def write_job(job: dict[str, Any]) -> None:
    path = job_file(job["number"])
    path.with_suffix(".new").write_text(json.dumps(job))
    path.with_suffix(".new").replace(path)


def read_jobs() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((STATE / "jobs").glob("*.json"))]


def bsub(words: list[str]) -> int:
    note("submissions.jsonl", *words)
    options: dict[str, list[str]] = {}
    while words and words[0].startswith("-"):
        if words[0] not in WITH_VALUE:
            print(f"bsub: Illegal option {words[0]}. Job not submitted.", file=sys.stderr)
            return 255
        options.setdefault(words[0], []).append(words[1])
        words = words[2:]
    queue = options["-q"][0]
    if queue not in QUEUES:
        print(f"{queue}: No such queue. Job not submitted.", file=sys.stderr)
        return 255
    if ("-wa" in options) != ("-wt" in options):
        print("-wa and -wt need each other. Job not submitted.", file=sys.stderr)
        return 255
    with (STATE / "number").open("a+") as counter:
        fcntl.flock(counter, fcntl.LOCK_EX)
        counter.write(".")
        number = str(100 + counter.tell())
    write_job({"number": number, "status": "PEND", "options": options, "command": " ".join(words), "cwd": os.getcwd()})
    job_file(number, "requests").touch()
    subprocess.Popen([sys.executable, __file__, "sbatchd", number], stdin=subprocess.DEVNULL,
                     stdout=subprocess.DEVNULL, stderr=job_file(number, "sbatchd").open("w"),
                     start_new_session=True)  # fmt: skip
    print(f"Job <{number}> is submitted to queue <{queue}>.")
    return 0


def sbatchd(number: str) -> int:
    """Run one job to its end."""
    job = next(job for job in read_jobs() if job["number"] == number)
    options, requests = job["options"], job_file(number, "requests")
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment |= {"LSB_JOBID": number, "LSB_DJOB_NUMPROC": options["-n"][0], "LSB_QUEUE": options["-q"][0]}
    wanted = 0
    if "-gpu" in options:
        asked = re.search(r"\bnum=(\d+)", options["-gpu"][0])
        assert asked
        wanted = int(asked[1])
    while (STATE / "closed").exists() or (gpus := free_gpus(wanted)) is None:
        if "terminate" in requests.read_text():
            write_job(job | {"status": "EXIT"})
            return 0
        time.sleep(0.05)
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    script = job_file(number, "sh")
    script.write_text(JOB_FILE.format(command=job["command"]))
    with open(options["-o"][0].replace("%J", number), "a") as output:
        process = subprocess.Popen(["/bin/sh", str(script)], cwd=options["-cwd"][0], env=environment, stdout=output,
                                   stderr=output, stdin=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    write_job(job | {"status": "RUN"})
    seen: dict[int, psutil.Process] = {}
    plan: list[tuple[float, signal.Signals]] = []
    done = 0
    while process.poll() is None:
        lines = requests.read_text().splitlines()
        for line in lines[done:]:
            plan += signals_for(line, options, time.monotonic())
        done = len(lines)
        while plan and plan[0][0] <= time.monotonic():
            send(number, process.pid, plan.pop(0)[1])
        seen |= {child.pid: child for child in psutil.Process(process.pid).children(recursive=True)}
        time.sleep(0.05)
    for child in seen.values():
        if child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            note("left_behind.jsonl", number, child.cmdline())
            child.kill()
    write_job(job | {"status": "DONE" if process.returncode == 0 else "EXIT", "code": process.returncode})
    return 0


def free_gpus(wanted: int) -> list[str] | None:
    """Return GPUs that no other job has, or None if they are too few now. They are taken until this process ends."""
    found: list[TextIO] = []
    for number in range(GPUS):
        if len(found) == wanted:
            break
        stream = (STATE / f"gpu-{number}").open("w")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            continue
        found.append(stream)
    if len(found) < wanted:
        for file in found:
            file.close()
        return None
    taken.extend(found)
    return [Path(file.name).name.removeprefix("gpu-") for file in found]


taken: list[object] = []


def signals_for(request: str, options: dict[str, list[str]], now: float) -> list[tuple[float, signal.Signals]]:
    if request == "warning":
        return [(now, signal.Signals[f"SIG{options['-wa'][0]}"])] if "-wa" in options else []
    if request == "run limit":
        return [(now, signal.SIGUSR2), *signals_for("terminate", options, now + AFTER_RUN_LIMIT)]
    assert request == "terminate"
    order = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    return [(now + number * TERMINATE_INTERVAL, which) for number, which in enumerate(order)]


def send(job: str, shell: int, which: signal.Signals) -> None:
    """Send a signal to all processes of the job."""
    note("signals.jsonl", job, which.name)
    top = psutil.Process(shell)
    for process in [top, *top.children(recursive=True)]:
        try:
            process.send_signal(which)
        except psutil.NoSuchProcess:
            continue


def bjobs(words: list[str]) -> int:
    assert words[:3] == ["-noheader", "-o", "jobid stat"] and words[3] == "-aJ", words
    note("questions.jsonl", *words)
    while (STATE / "slow").exists():
        time.sleep(0.05)
    found = [job for job in read_jobs() if fnmatch.fnmatch(job["options"]["-J"][0], words[4].replace("[", "[[]"))]
    for job in found:
        print(job["number"], job["status"])
    if not found:
        print(f"Job <{words[4]}> is not found", file=sys.stderr)
    return 0 if found else 255


def bkill(words: list[str]) -> int:
    code, status = 0, {job["number"]: job["status"] for job in read_jobs()}
    for number in words:
        if status[number] in ("DONE", "EXIT"):
            print(f"Job <{number}>: Job has already finished", file=sys.stderr)
            code = 255
            continue
        with job_file(number, "requests").open("a") as stream:
            stream.write("terminate\n")
        print(f"Job <{number}> is being terminated")
    return code


def bhist(words: list[str]) -> int:
    print("No matching job found", file=sys.stderr)
    return 255


def badmin(words: list[str]) -> int:
    assert words == ["showconf", "mbd"]
    print("MBD configuration at now:")
    for name, value in {"LSB_SHAREDIR": STATE / "work", "LSF_CONFDIR": STATE / "conf"}.items():
        print(f"\t{name} = {value}")
    return 0


def lsclusters(words: list[str]) -> int:
    print("CLUSTER_NAME STATUS MASTER_HOST ADMIN HOSTS SERVERS\nstand_in ok here lsfadmin 1 1")
    return 0


COMMANDS = {"bsub": bsub, "bjobs": bjobs, "bkill": bkill, "bhist": bhist, "badmin": badmin, "lsclusters": lsclusters}


def install(folder: Path, state: Path) -> None:
    """Make a folder of commands for PATH, and the folder for FAKE_LSF."""
    folder.mkdir()
    (state / "jobs").mkdir(parents=True)
    parameters = state / "conf" / "lsbatch" / "stand_in" / "configdir" / "lsb.params"
    parameters.parent.mkdir(parents=True)
    parameters.write_text("Begin Parameters\nDEFAULT_QUEUE = gpu\nEnd Parameters\n")
    for name in COMMANDS:
        words = shlex.join([sys.executable, str(Path(__file__).resolve()), name])
        (folder / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        (folder / name).chmod(0o755)


if __name__ == "__main__":
    name, *words = sys.argv[1:]
    sys.exit(sbatchd(*words) if name == "sbatchd" else COMMANDS[name](words))
