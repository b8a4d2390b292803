"""`nnunet-cpr demo`: arguments and folders that are wrong, or odd. Nothing is trained: stages are replaced."""

import json
import os

import numpy as np
import odd_convert
from conversion_helpers import image, label, write
from odd_texts import NAMES, NUMBERS, for_files
from odd_worlds import ACCEPTED, DISK, EITHER, PLACE, REFUSED, REQUEST, OracleError, World, odd, pick


class Demo(World):
    """A folder in the Decathlon's layout, and flags."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.source = self.folder / "Task09_Mine"
        self.output = self.folder / "out" / "demo"
        self.output.parent.mkdir()
        for number in range(5):
            write(self.source / "imagesTr" / f"a_{number}.nii.gz", image((9, 8, 7), number))
            write(self.source / "labelsTr" / f"a_{number}.nii.gz", label((14, 14, 7), (1,))[:9, :8])
        pairs = [{"image": f"./imagesTr/a_{n}.nii.gz", "label": f"./labelsTr/a_{n}.nii.gz"} for n in range(5)]
        content = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "x"}, "training": pairs}
        (self.source / "dataset.json").write_text(json.dumps(content))
        self.given = {
            "--data": str(self.source),
            "--out": str(self.output),
            "--steps": str(self.rng.choice([10, 100, 300])),
        }
        self.given["--device"] = "cpu"
        self.extra: list[str] = []
        self.may_be_fresh = False  # it would train

    def end_phase(self, phase: int) -> None:
        if phase == REQUEST:
            self.argv = ["demo", *(part for pair in self.given.items() for part in pair), *self.extra]

    def before_run(self) -> None:
        from nnunet_cpr.demo import device, pipeline
        from nnunet_cpr.demo.data import DemoData
        from nnunet_cpr.demo.settings import Settings
        from nnunet_cpr.demo.workspace import Workspace

        device.probe = lambda: device.Machine(cuda=None, mps=False, bf16_cpu=False)

        def check_only(workspace: Workspace, data: DemoData, settings: Settings) -> None:
            data.fingerprint()
            data.check()
            workspace.create()
            workspace.variables()
            print(f"would train {settings.trainers}, {settings.epochs} epochs", flush=True)
            raise SystemExit(0)

        pipeline.run_stages = check_only

    def check_success(self, out: str, err: str) -> None:
        steps = self.given.get("--steps", "300")
        if "would train" in out and int(steps) != _steps(out):
            raise OracleError(f"--steps {steps} are {_steps(out)} steps of the trainers")


def _steps(out: str) -> int:
    epochs, iterations = (out.split(word)[0].rsplit("_", 1)[1] for word in ("epochs_", "iters_seed"))
    return int(epochs) * int(iterations)


@odd(REQUEST)
def odd_numbers(world: Demo) -> str:
    flag = pick(world, ["--steps", "--seed", "--fold"])
    value = pick(world, [*NUMBERS, "7", "15", "10", "5"])
    world.given[flag] = value
    good = {"--steps": ("10",), "--seed": ("0", "7", "15", "10", "5"), "--fold": ("0",)}[flag]
    plain = value.strip().lstrip("+").replace("_", "").isdecimal() and value.isascii()
    if len(world.chosen) == 1:
        world.verdict = ACCEPTED if value in good else EITHER if plain or value in ("-0", "١") else REFUSED
    return f"{flag} {value[:30]!r}"


@odd(REQUEST, REFUSED)
def odd_device(world: Demo) -> str:
    world.given["--device"] = pick(world, ["cuda", "mps", "gpu", "CPU", "cuda:0", "", " cpu"])
    return f"--device {world.given['--device']!r}"


@odd(REQUEST, REFUSED)
def odd_flags(world: Demo) -> str:
    world.extra += pick(
        world, [["--x"], ["extra"], ["--data"], ["--steps"], ["-d", "4"], ["--fold", "5"], ["--fold", "-1"]]
    )
    return f"and {world.extra}"


@odd(REQUEST)
def odd_data(world: Demo) -> str:
    said = pick(world, ["relative", "~", "trailing slash", "empty", "missing", "a file", "a folder without anything",
        "a dangling link",
                        "odd name", "a space after", "parent", "device", "a link"])  # fmt: skip
    world.given["--data"] = {
        "relative": os.path.relpath(world.source, world.cwd), "~": "~/Task09_Mine",
        "trailing slash": f"{world.source}/", "empty": "",
        "missing": "nowhere", "a file": str(world.source / "dataset.json"),
        "a folder without anything": str(world.home),
        "a dangling link": str(world.folder / "l"), "a space after": f"{world.source} ", "parent": str(world.folder),
        "device": "/dev/null",
        "a link": str(world.folder / "l"),
    }.get(said, str(world.source))  # fmt: skip
    if said == "~":
        world.environment["HOME"] = str(world.folder)
    elif said == "a dangling link":
        (world.folder / "l").symlink_to("nowhere")
    elif said == "a link":
        (world.folder / "l").symlink_to(world.source)
    elif said == "odd name":
        name = pick(world, for_files([n for n in NAMES if len(n.encode(errors="replace")) < 200]))
        world.source = world.source.rename(world.folder / name)
        world.given["--data"] = str(world.source)
    fine = ("relative", "trailing slash", "a link")
    if len(world.chosen) == 1:
        world.verdict = ACCEPTED if said in fine else EITHER if said in ("~", "odd name") else REFUSED
    world.words += ["--data", "folder"]
    return f"--data {said}"


@odd(DISK)
def odd_files(world: Demo) -> str:
    said, wrong = pick(
        world,
        [("a case is lost", True), ("a label is lost", True), ("dataset.json is a list", True), ("no dataset.json",
         True),
         ("a dangling image", True), ("a sheared image", None), ("four cases", True), ("two modalities", True),
          ("a label of 7", True),
         ("one name for two values", True), ("strays", False)],
    )  # fmt: skip
    images, labels = world.source / "imagesTr", world.source / "labelsTr"
    if said in ("a case is lost", "a dangling image"):
        (images / "a_1.nii.gz").unlink()
        if said == "a dangling image":
            (images / "a_1.nii.gz").symlink_to("nowhere")
    elif said == "a label is lost":
        (labels / "a_1.nii.gz").unlink()
    elif said == "no dataset.json":
        (world.source / "dataset.json").unlink()
    elif said == "a sheared image":
        for path in (images / "a_1.nii.gz", labels / "a_1.nii.gz"):
            odd_convert._rewrite(path, lambda array, affine, header: (array, affine + np.eye(4, k=2) / 2))
    elif said == "four cases":
        for folder in (images, labels):
            (folder / "a_4.nii.gz").unlink()
    elif said == "a label of 7":
        write(labels / "a_2.nii.gz", label((14, 14, 7), (7,))[:9, :8])
    elif said == "strays":
        (images / "._a_1.nii.gz").write_text("x")
        (images / ".DS_Store").write_text("x")
    else:
        path = world.source / "dataset.json"
        content = json.loads(path.read_text())
        if said == "two modalities":
            content["modality"] = {"0": "a", "1": "b"}
        elif said == "one name for two values":
            content["labels"] = {"0": "background", "1": "x", "2": "x"}
        path.write_text(json.dumps([] if said == "dataset.json is a list" else content))
    if len(world.chosen) == 1:
        world.verdict = EITHER if wrong is None else REFUSED if wrong else ACCEPTED
    return said


@odd(PLACE)
def odd_out(world: Demo) -> str:
    said = pick(world, ["a file", "below a file", "a dangling link", "empty", "device", "the data", "foreign files",
        "an earlier demo",
                        "a damaged record", "~", "odd name", "relative", "proc", "name too long",
                        "logs is a file"])  # fmt: skip
    output = world.output
    assert output is not None
    texts = {"below a file": str(world.folder / "afile" / "x"), "empty": "", "device": "/dev/null", "~": "~/demo",
        "relative": "../out/demo",
             "proc": "/proc/x", "name too long": str(world.folder / ("x" * 300)),
             "the data": str(world.source)}  # fmt: skip
    text = texts.get(said, str(output))
    (world.folder / "afile").write_text("x")
    if said == "a file":
        output.write_text("x")
    elif said == "a dangling link":
        output.symlink_to(world.folder / "target")
    elif said == "foreign files":
        output.mkdir()
        (output / "thesis.tex").write_text("the user's")
    elif said in ("an earlier demo", "a damaged record"):
        records = output / "stages" / "Dataset009_Mine"
        records.mkdir(parents=True)
        content = {"settings": {"data": "x"}, "seconds": 3.0, "finished": True, "commands": []}
        (records / "convert.json").write_text(json.dumps(content) if said == "an earlier demo" else "{")
    elif said == "odd name":
        world.output = (
            world.folder / "out" / pick(world, for_files([n for n in NAMES if len(n.encode(errors="replace")) < 200]))
        )
        text = str(world.output)
    elif said == "logs is a file":
        output.mkdir()
        (output / "logs").write_text("the user's")
    elif said == "~":
        world.output = world.home / "demo"
    elif said == "empty":
        world.output = world.cwd
    elif said == "the data":
        world.output = world.source
    world.argv[world.argv.index("--out") + 1] = text
    if len(world.chosen) == 1 and said in (
        "a file",
        "below a file",
        "device",
        "proc",
        "name too long",
        "logs is a file",
    ):
        world.verdict = REFUSED
    return f"--out {said}"
