import signal
import site
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from batch_world import World

STAND_INS = {
    "nnUNetv2_train": "fake_nnunet_train.py",
    "nnUNetv2_predict": "fake_nnunet_predict.py",
    "nnUNetv2_evaluate_folder": "fake_nnunet_evaluate.py",
}


@pytest.fixture(scope="session")
def shadow_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This environment's Python, but with stand-ins for nnU-Net's commands beside it."""
    folder: Path = tmp_path_factory.mktemp("shadow")
    venv.create(folder, symlinks=True)
    outside = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    inside = next(folder.glob("lib/python*/site-packages"))
    (inside / "outside.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in outside))
    for name, source in STAND_INS.items():
        script = folder / "bin" / name
        script.write_text(f"#!{Path(sys.executable).resolve()} -IS\n{Path(__file__).with_name(source).read_text()}")
        script.chmod(0o755)
    # `python -m nnunet_cpr.training.launch` imports nnU-Net's command and calls it.
    script = folder / "bin" / "nnUNetv2_train"
    stand_in = f"import runpy\ndef run_training_entry(): runpy.run_path({str(script)!r}, run_name='__main__')\n"
    (inside / "stand_in.py").write_text(stand_in)
    (inside / "stand_in.pth").write_text("import sys, stand_in; sys.modules['nnunetv2.run.run_training'] = stand_in\n")
    return folder / "bin" / "python"


@pytest.fixture
def world(tmp_path: Path, shadow_python: Path) -> Iterator["World"]:
    """nnU-Net's folders with a prepared dataset, in a place with an awkward name."""
    pytest.importorskip("snakemake", reason="needs nnunet-cpr[batch], which needs Python 3.11")
    from batch_world import World

    folder = tmp_path / "it's a “wörld” $HOME"
    folder.mkdir()
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    world = World(folder, shadow_python)
    yield world
    world.close()
    signal.signal(signal.SIGHUP, before)
