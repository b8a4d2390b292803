"""A small nnU-Net world on disk, and `nnunet-cpr batch` in it. Needs psutil, which comes with Snakemake."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from batch_helpers import DATASET, prepared_dataset

PATIENCE = 300.0  # seconds: never reached unless something hangs


@dataclass
class World:
    """nnU-Net's three folders and what is run in them; every process started here is stopped at the end."""

    folder: Path
    python: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        prepared_dataset(self.folder / "preprocessed")
        for name in ("raw", "results", "control", "tmp"):
            (self.folder / name).mkdir()

    @property
    def environment(self) -> dict[str, str]:
        folders = {f"nnUNet_{name}": str(self.folder / name) for name in ("raw", "preprocessed", "results")}
        own = {"FAKE_NNUNET": str(self.folder / "control"), "TMPDIR": str(self.folder / "tmp")}
        return os.environ | folders | own

    @property
    def results(self) -> Path:
        return self.folder / "results" / DATASET

    def study(
        self, text: str = "", name: str = "study", trainers: str = "[nnUNetTrainerSGD_3epochs]", folds: str = "[0, 1]"
    ) -> Path:
        path = self.folder / f"{name}.yaml"
        device = "" if "device:" in text else "device: cpu\n"
        path.write_text(f"datasets: [4]\ntrainers: {trainers}\nfolds: {folds}\n{device}{text}", encoding="utf-8")
        return path

    def output(self, name: str = "study") -> Path:
        return self.folder / "results" / "studies" / name

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start `nnunet-cpr ARGUMENTS` as a shell would: signals at their defaults, a process group of its own."""
        command = [str(self.python), "-m", "nnunet_cpr.cli", *map(str, arguments)]
        process = subprocess.Popen(
            command, env=self.environment | environment, cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def batch(self, study: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("batch", study, *arguments, **environment)

    def fail(self, trainer: str, fold: int) -> Path:
        """Make that training fail until the file is removed."""
        path = self.folder / "control" / f"fail-{trainer}-{fold}"
        path.touch()
        return path

    def hold(self, epoch: int) -> None:
        """Let no training end this epoch until :meth:`release`."""
        (self.folder / "control" / "hold").write_text(str(epoch))

    def release(self) -> None:
        (self.folder / "control" / "hold").unlink()

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        path = self.folder / "control" / "events.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        content = [json.loads(line) for line in lines]
        return [entry for entry in content if event in (None, entry["event"])]

    def processes(self, wanted: Callable[[list[str]], object] = lambda _: True) -> list[psutil.Process]:
        """Every living process that knows of this world and whose command line is `wanted`, apart from this one."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("FAKE_NNUNET") == str(self.folder / "control")
                if mine and process.status() != psutil.STATUS_ZOMBIE and wanted(process.cmdline()):
                    found.append(process)
            except psutil.Error:  # gone, or a zombie by now
                continue
        return found

    def snakemake(self) -> psutil.Process:
        return self.processes(lambda words: "--snakefile" in words and "snakemake" in words)[0]

    def trainings(self) -> list[psutil.Process]:
        return self.processes(lambda words: any(word.endswith("nnUNetv2_train") for word in words))

    def wait_for(self, what: Callable[[], object]) -> None:
        until = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.05)

    def wait_for_events(self, event: str, number: int = 1) -> None:
        self.wait_for(lambda: len(self.events(event)) >= number)

    def check_trained_once(self, folds: int, epochs: int = 3) -> None:
        """Every epoch of every fold was saved once and in order, and no two processes shared a fold or a GPU."""
        assert not self.events("clash")
        saved: dict[str, list[int]] = {}
        for entry in self.events("epoch"):
            saved.setdefault(entry["fold"], []).append(entry["epoch"])
        assert len(saved) == folds
        assert all(done == list(range(epochs)) for done in saved.values()), saved

    def check_nothing_left(self) -> None:
        self.wait_for(lambda: not self.processes())

    def close(self) -> None:
        for process in self.processes():
            process.kill()
        for process in self.started:
            process.communicate()
