"""Figures are the same whatever a user's matplotlib is set to."""

import os
import subprocess
import sys

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from nnunet_cpr import plotting
from nnunet_cpr.evaluation.figures.drawing import save_figure, short
from nnunet_cpr.plotting import default_style
from nnunet_cpr.training.trace import FIGURE_FILE, Row, Trace, draw

USERS = {
    "text.usetex": True, "font.size": 30, "axes.prop_cycle": matplotlib.cycler("color", ["k"]), "savefig.dpi": 20,
    "savefig.bbox": "tight", "axes.facecolor": "red", "savefig.facecolor": "blue", "lines.linewidth": 9,
    "mathtext.fontset": "stix", "axes.grid": True, "font.family": "monospace", "svg.fonttype": "path",
}  # fmt: skip
"""Settings as in somebody's matplotlibrc; usetex needs a LaTeX that is not there."""


@default_style()
def figure():
    made = Figure()
    ax = made.subplots()
    ax.plot([0, 1e-7], label="a")
    ax.set_title(r"$\lambda$")
    return made


def test_the_users_style_is_put_aside_and_comes_back(tmp_path):
    save_figure(figure(), tmp_path / "default.png")
    with matplotlib.rc_context(USERS):
        before = dict(matplotlib.rcParams)
        save_figure(figure(), tmp_path / "users.png")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "users.png").read_bytes() == (tmp_path / "default.png").read_bytes()


def test_the_figure_of_a_training_is_the_same_under_a_users_style(tmp_path):
    rows = [Row(epoch, 10 * epoch, tensor, 2.0, 1.5, 0.1 * epoch) for epoch in range(3) for tensor in "ab"]
    for name, style in (("default", {}), ("users", USERS)):
        (tmp_path / name).mkdir()
        trace = Trace(tmp_path / name, 0)
        trace.rows = rows
        with matplotlib.rc_context(style):
            assert len(draw(rows).axes) == 4
            trace.save()
    first, second = ((tmp_path / name / FIGURE_FILE).read_bytes() for name in ("default", "users"))
    assert first == second


@pytest.mark.filterwarnings("error")  # matplotlib's, of characters that it has no glyph for
@pytest.mark.parametrize(
    ("names", "installed", "shown"),
    [
        (("肝臓", "간", "Å λ"), ["DejaVu Sans"], (r"\u809d\u81d3", r"\uac04", "Å λ")),
        (("肝臓", "\U0001f9e0"), ["DejaVu Sans", "Noto Sans CJK JP"], ("肝臓", r"\U0001f9e0")),
    ],
)
def test_characters_that_the_font_lacks(names, installed, shown, tmp_path, monkeypatch):
    if not {font.name for font in fontManager.ttflist}.issuperset(installed):
        pytest.skip(f"{installed[-1]} is not installed")
    monkeypatch.setattr(plotting, "fonts", lambda: installed)
    assert tuple(map(short, names)) == shown
    assert all(len(line) <= 40 for line in short("\U0001f9e0" * 50).splitlines())
    with default_style():
        made = Figure()
        ax = made.subplots()
        ax.set_yticks(range(len(names)), list(map(short, names)))
        ax.set_title("".join(map(short, names)))
    save_figure(made, tmp_path / "figure.png")


PROGRAM = """
from nnunet_cpr.plotting import ignore_user_settings
ignore_user_settings()
import matplotlib.pyplot as plt  # as nnU-Net does
plt.plot([1, 2]); plt.savefig("figure.png")
import subprocess, sys
subprocess.run([sys.executable, "-c", "import matplotlib.pyplot; matplotlib.pyplot.figure()"], check=True)
"""


@pytest.mark.parametrize(
    "environment",
    [
        {"MPLBACKEND": "module://not_installed.backend_inline"},
        {"MPLBACKEND": "nonsense"},
        {"MPLBACKEND": "tkagg", "DISPLAY": ""},
        {"MATPLOTLIBRC": "broken"},
        {"MPLCONFIGDIR": "a_file/mpl"},
    ],
)
def test_commands_and_their_children_draw_in_any_environment(tmp_path, environment):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "matplotlibrc").write_bytes(b"text.usetex: True\nno colon\nfont.family: \xff\n")
    (tmp_path / "a_file").touch()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True
    )
    lines = [line for line in done.stderr.splitlines() if "MPLCONFIGDIR" not in line]  # of the child, which is not ours
    assert (done.returncode, lines if "MPLCONFIGDIR" in environment else done.stderr.splitlines()) == (0, [])
    assert (tmp_path / "figure.png").stat().st_size > 1000
