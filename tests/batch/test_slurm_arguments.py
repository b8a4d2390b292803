"""What sbatch is told for each kind of job: everything that was asked for, as it was written, and nothing else."""

import json
import os

import pytest
from batch_helpers import DATASET, prepared_dataset

from nnunet_cpr.batch.slurm import jobs_left, slurm_arguments
from nnunet_cpr.cli import main

NAME = "nnUNetTrainerSGD_3epochs__nnUNetPlans__3d_fullres"
SBATCH = """\
#!{python}
import json, os, sys
with open(os.environ["FAKE_NNUNET"] + "/sbatch.jsonl", "a") as stream:
    stream.write(json.dumps([sys.argv[1:], sys.stdin.read()]) + "\\n")
sys.exit("sbatch: error: Batch job submission failed: Invalid qos specification")
"""


@pytest.fixture
def commands(tmp_path, monkeypatch, shadow_python):
    """Stand-ins for SLURM's commands on PATH; sbatch records its arguments and refuses the job."""
    folder = tmp_path / "commands"
    folder.mkdir()
    scripts = dict.fromkeys(("squeue", "scancel", "scontrol", "sinfo"), "#!/bin/sh\nexit 0\n")
    # Whoever asks these is told something that must not reach sbatch.
    scripts |= {"sinfo": "#!/bin/sh\necho 'elsewhere*'\n", "sacct": "#!/bin/sh\necho another_account\nexit 1\n"}
    scripts["sbatch"] = SBATCH.format(python=os.path.realpath(shadow_python))
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))
    return folder


OURS = {
    "prepare": ["--requeue", "--cpus-per-task=8"],
    "train": ["--requeue", "--cpus-per-task=8", "--signal=USR1@120"],
    "surface": ["--requeue", "--cpus-per-task=8"],
    "predict": ["--requeue", "--cpus-per-task=8", "--signal=USR1@120"],
    "test_surface": ["--requeue", "--cpus-per-task=8"],
}


@pytest.mark.parametrize(
    ("text", "everywhere", "for_gpus"),
    [
        ("partition=gpu,time=24:00:00,gres=gpu:1", ["--partition=gpu", "--time=24:00:00"], ["--gres=gpu:1"]),
        ("mem=0", ["--mem=0"], []),
        ("mem=48G,account=a1", ["--mem=48G", "--account=a1"], []),
        ("mem-per-cpu=4G", ["--mem-per-cpu=4G"], []),
        ("mem_per_gpu=32G,gpus=a100:1", [], ["--mem-per-gpu=32G", "--gpus=a100:1"]),
        ("partition=all", ["--partition=all"], []),
        ("partition=open,qos=max", ["--partition=open", "--qos=max"], []),
        ("partition=1-2", ["--partition=1-2"], []),
        ("partition=None", ["--partition=None"], []),
        ("partition=long,gpu,short", ["--partition=long,gpu,short"], []),
        ("constraint=a100|h100&ib", ["--constraint=a100|h100&ib"], []),
        ("constraint=[rack1*2&rack2*4],mem=1", ["--constraint=[rack1*2&rack2*4]", "--mem=1"], []),
        ("gres=gpu:a100:1,shard:2,mem=2G", ["--mem=2G"], ["--gres=gpu:a100:1,shard:2"]),
        ("nodelist=gpu-J[01,3-5],exclude=node[1-3],n9", ["--nodelist=gpu-J[01,3-5]", "--exclude=node[1-3],n9"], []),
        ("time=90", ["--time=90"], []),
        ("time=90:30", ["--time=90:30"], []),
        ("time=2-0", ["--time=2-0"], []),
        ("time=1-2:03:04", ["--time=1-2:03:04"], []),
        ("time=UNLIMITED", ["--time=UNLIMITED"], []),
        ("comment=one two, three=3", ["--comment=one two, three=3"], []),
        ("""comment=it's "5 %" of `$HOME` \\ {x}""", ["""--comment=it's "5 %" of `$HOME` \\ {x}"""], []),
        ("export=ALL,A=b=c,mem=1", ["--export=ALL,A=b=c", "--mem=1"], []),
        ("licenses=matlab:1,foo:2", ["--licenses=matlab:1,foo:2"], []),
        ("exclusive,mem=0", ["--exclusive", "--mem=0"], []),
        ("mem=0, exclusive=user", ["--mem=0", "--exclusive=user"], []),
    ],
)
def test_what_was_asked_for_is_passed_on_as_it_was_written(commands, text, everywhere, for_gpus):
    _, sbatch = slurm_arguments(text)
    for kind in OURS:
        expected = [*everywhere, *for_gpus] if kind in ("train", "predict") else everywhere
        assert sorted(sbatch[kind]) == sorted([*OURS[kind], *expected])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mem=1", ["--gres=gpu:4", "--cpus-per-task=32"]),
        ("gres=gpu:a100:4", ["--gres=gpu:a100:4", "--cpus-per-task=32"]),
        ("gres=gpu:5", ["--gres=gpu:5", "--cpus-per-task=32"]),
        ("gpus-per-node=4,cpus=6", ["--gpus-per-node=4", "--cpus-per-task=6"]),
        ("gpus=h100:4,cpus-per-gpu=6", ["--gpus=h100:4", "--cpus-per-gpu=6"]),
        ("tres-per-task=gres/gpu:4", ["--tres-per-task=gres/gpu:4"]),
    ],
)
def test_a_training_on_several_gpus_asks_for_them(commands, text, expected):
    _, sbatch = slurm_arguments(text, gpus=4)
    asking = ("--gres", "--gpus", "--cpus", "--tres")
    assert sorted(word for word in sbatch["train"] if word.startswith(asking)) == sorted(expected)
    assert not any(word.startswith(("--gres", "--gpus", "--tres")) for word in sbatch["prepare"] + sbatch["surface"])


@pytest.mark.parametrize("text", ["gres=gpu:1", "gres=gpu:a100:3", "gpus=2", "gpus-per-node=h100:1", "gpus-per-task=1"])
def test_fewer_gpus_than_a_training_takes(commands, text):
    with pytest.raises(ValueError, match=rf"^--slurm: {text}, but the study's gpus_per_training is 4$"):
        slurm_arguments(text, gpus=4)


@pytest.mark.parametrize(
    ("text", "gone"),
    [("cpus=12", "--cpus-per-task=8"), ("cpus-per-task=0", "--cpus-per-task=8"), ("no-requeue", "--requeue"),
     ("signal=USR1@600", "--signal=USR1@120"), ("cpus-per-gpu=6", "--cpus-per-task=8")],
)  # fmt: skip
def test_own_wishes_replace_the_defaults(commands, text, gone):
    _, sbatch = slurm_arguments(text)
    assert gone not in sbatch["train"]
    asked = f"--{text}".replace("--cpus=", "--cpus-per-task=")
    assert asked in sbatch["train"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read ''"), ("gpu", "cannot read 'gpu'"), ("mem=", "cannot read 'mem='"),
        ("mem=1,,", ""), ("parition=gpu", "cannot read 'parition=gpu'"), ("mem=1,mem=2", "mem is there twice"),
        ("cpus=1,cpus_per_task=2", "cpus-per-task is there twice"), ("output=x", "cannot read 'output=x'"),
        ("wrap=x", "cannot read 'wrap=x'"), ("mem=1,chdir=/", "cannot read 'chdir=/'"), ("=3", "cannot read '=3'"),
        ("mem=1\n", "line break"), ("requeue=1", "cannot read 'requeue=1'"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(commands, text, message):
    if not message:  # sbatch's business
        assert "--mem=1,," in slurm_arguments(text)[1]["train"]
        return
    with pytest.raises(ValueError, match=r"^--slurm: ") as error:
        slurm_arguments(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_slurm_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="there is no sbatch here"):
        slurm_arguments("mem=1")


def test_a_queue_that_does_not_answer(commands):
    message = "slurm_load_jobs error: Unable to contact controller"
    (commands / "squeue").write_text(f"#!/bin/sh\necho '{message}' >&2\nexit 1\n")
    assert jobs_left(commands, must_know=False) == []
    with pytest.raises(ValueError, match=rf"^squeue fails.*: {message}$"):
        jobs_left(commands, must_know=True)


@pytest.mark.parametrize(
    ("output", "flags", "message"),
    [
        ("a\\b", ["--slurm", "mem=1"], "--slurm: the study's output is in "),
        ("a\nb", ["--slurm", "mem=1"], "--slurm: the study's output is in "),
        ("a $(touch b)", ["--profile", "{tmp}"], "--profile: the study's output is in "),
        ("it's", ["--profile", "{tmp}"], "--profile: the study's output is in "),
    ],
)
def test_folders_that_a_cluster_cannot_use(commands, tmp_path, monkeypatch, capsys, output, flags, message):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    prepared_dataset(tmp_path / "preprocessed")
    content = {"datasets": [4], "trainers": ["nnUNetTrainerSGD_3epochs"], "output": output}
    (tmp_path / "study.yaml").write_text(json.dumps(content))
    pytest.importorskip("snakemake", reason="needs nnunet-cpr[batch], which needs Python 3.11")
    assert main(["batch", str(tmp_path / "study.yaml"), *(flag.format(tmp=tmp_path) for flag in flags)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / output).exists()


def test_every_sbatch_of_a_study(world, commands):
    """One job of each kind, in a folder whose name a shell would take apart; sbatch's refusal reaches the terminal."""
    new = "Dataset005_$(touch EXECUTED)"
    (world.folder / "raw" / new).mkdir()
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}
    (world.folder / "raw" / new / "dataset.json").write_text(json.dumps(description))
    prepared_dataset(world.folder / "preprocessed", "Dataset006_Done")
    finished = world.folder / "results" / "Dataset006_Done" / NAME / "fold_0" / "validation" / "summary.json"
    finished.parent.mkdir(parents=True)
    finished.write_text(json.dumps({"metric_per_case": [{"prediction_file": f"case_{k}.nii.gz"} for k in (0, 5)]}))
    text = "surface: true\noutput: 'a `touch EXECUTED` \"$(touch EXECUTED)\" %j {x}'\ndevice: cuda\n"
    study = world.study(text, folds="[0]")
    study.write_text(study.read_text().replace("[4]", "[4, 5, 6]"))
    done = world.batch(study, "--slurm", "partition=all,gres=gpu:1,mem=0")
    assert done.returncode == 1
    reason = "sbatch refuses the job: sbatch: error: Batch job submission failed: Invalid qos specification"
    assert done.stderr.count(reason) == 3, done.stderr + done.stdout
    assert not list(world.folder.rglob("EXECUTED"))
    output = world.folder / 'a `touch EXECUTED` "$(touch EXECUTED)" %j {x}'
    recorded = [json.loads(line) for line in (world.folder / "control" / "sbatch.jsonl").read_text().splitlines()]
    calls = {}
    for arguments, script in recorded:
        options = dict(argument.partition("=")[::2] for argument in arguments)
        assert options.pop("--job-name") and options.pop("--parsable") == ""
        kind, name = options.pop("--comment").split(" ")
        escaped = str(output).replace("%", "%%")  # sbatch would put the job's number in the folder's name
        assert options.pop("--output") == f"{escaped}/.snakemake/slurm_logs/{kind}/{name}/%j.log"
        assert script.splitlines()[-1].endswith(f" -m nnunet_cpr.batch.job {kind} {name}")
        assert calls.setdefault((kind, name), options) == options  # the further attempts are the same
    common = {"--export": "ALL", "--chdir": str(output), "--requeue": "", "--cpus-per-task": "8", "--partition": "all",
              "--mem": "0"}  # fmt: skip
    of_name = {name.split("/")[0][:10]: (kind, options) for (kind, name), options in calls.items()}
    assert of_name == {
        "Dataset004": ("train", common | {"--gres": "gpu:1", "--signal": "USR1@120"}),
        "Dataset005": ("prepare", common),
        "Dataset006": ("surface", common),
    }
    assert DATASET.startswith("Dataset004")
