"""Settings from a script's defaults, a YAML file and flags, each over the one before; checked. Imports no torch."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from reprlib import repr as _short  # a value may be a list of thousands
from typing import Any, TypeVar

from harness.command import run_script_command
from harness.settings import CPR, FREE_ON_RESUME, OPTIMIZERS, Settings, applicable_only
from nnunet_cpr.exclusive import exclusive
from nnunet_cpr.files import read_json, user_path
from nnunet_cpr.yaml_files import read_yaml

CONFIG_FILE = "config.json"
LARGEST = 2**63 - 1
S = TypeVar("S", bound=Settings)


def parse(cls: type[S], description: str, argv: list[str] | None = None) -> S:
    """Read flags and the file they name. Raises ValueError or OSError with one line about what is wrong."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for f in fields(cls):
        _add_flag(parser, f.name, f.metadata, cls.defaults.get(f.name, f.default))
    flags = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    flags = {name: _checked(cls, name, value, _flag(name)) for name, value in flags.items()}
    file = read_config(cls, Path(flags["config"])) if "config" in flags else {}
    if flags.get("resume"):
        return _resumed(cls, file, flags)
    return make(cls, file, flags)


def make(cls: type[S], *layers: Mapping[str, Any]) -> S:
    """Return checked settings: the script's defaults, overridden by each layer of already checked values in turn."""
    values: dict[str, Any] = {}
    for layer in (cls.defaults, *layers):
        # The parameter belongs to its rule: a new rule must not inherit the steps or the factor of another.
        if layer.get("kappa_init_method", values.get("kappa_init_method")) != values.get("kappa_init_method"):
            values.pop("kappa_init_param", None)
        values.update(layer)
    settings = cls(**values)
    for index, layer in enumerate(layers):
        overridden = any("optimizer" in later for later in layers[index + 1 :])
        useless = [name for name in applicable_only(OPTIMIZERS[settings.optimizer]) if name in layer]
        if useless and not overridden:  # a file may hold the settings of the optimizer that a flag put aside
            raise ValueError(f"{useless[0]} means nothing for the optimizer {settings.optimizer}")
    settings.check()
    return settings


def read_config(cls: type[Settings], path: Path) -> dict[str, Any]:
    """Return the settings in a YAML file, checked one by one. A relative `data` is relative to the working folder."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no settings; write lines such as  lr: 1e-3")
    if wrong := [name for name in content if name in ("config", "resume")]:
        raise ValueError(f"{path}: {wrong[0]} is for the command line only")
    return {str(name): _checked(cls, str(name), value, f"{path}: {name}") for name, value in content.items()}


def run_script(cls: type[S], train: Callable[[S], None], description: str, argv: list[str] | None = None) -> int:
    """Parse, train, and return the exit code. No other process can train in the same folder meanwhile."""

    def work() -> None:
        settings = parse(cls, description, argv)
        first = os.environ.get("RANK", "0") == "0"  # of the processes of torchrun; it alone writes
        with exclusive(settings.folder) if first else nullcontext():
            train(settings)

    return run_script_command(Path(sys.argv[0]).name, work, "interrupted; --resume continues from the last checkpoint")


def _resumed(cls: type[S], file: Mapping[str, Any], flags: Mapping[str, Any]) -> S:
    """Return the settings of the run in --out; what is asked for besides must be the same."""
    if "out" not in flags and "out" not in file:
        raise ValueError("--resume needs --out, the folder of the run to continue")
    free = {name: value for name, value in {**file, **flags}.items() if name in FREE_ON_RESUME}
    path = Path(free["out"]) / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{free['out']} holds no run to resume (there is no {CONFIG_FILE})")
    try:
        stored = dict(read_json(path)["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as the configuration of a run: {error!r}") from error
    names = {f.name for f in fields(cls)} - set(FREE_ON_RESUME)
    if set(stored) != names:
        odd = sorted(set(stored) ^ names)
        raise ValueError(f"{path} is of another script or version: it differs in having {odd[0]}")
    of_some_optimizers = {name for own in OPTIMIZERS.values() for name in own}
    for name, value in stored.items():
        if not (value is None and name in of_some_optimizers):
            _checked(cls, name, value, f"{path}: {name}")
    if stored["warmup_steps"] is None:  # None stands for a default that a started run has filled in
        raise ValueError(f"{path}: warmup_steps is None, but must be a whole number")
    asked = {name: value for name, value in {**file, **flags}.items() if name not in FREE_ON_RESUME}
    foreign = applicable_only(OPTIMIZERS[stored["optimizer"]])
    for name, value in asked.items():
        unused = stored[name] is None and (name in foreign or name in CPR) and name not in flags
        if json.loads(json.dumps(value)) != stored[name] and not unused:
            raise ValueError(
                f"{name} is {stored[name]} in the run in {free['out']}, but {value} is asked for; "
                "a resumed run keeps its settings: leave it out, or start another run"
            )
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
    }
    return cls(**values, **free)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_flag(parser: argparse.ArgumentParser, name: str, metadata: Mapping[str, Any], default: Any) -> None:
    text = metadata["help"] + ("" if default is None or default is False else f" (default: {_shown(default)})")
    if metadata["kind"] is bool:
        parser.add_argument(_flag(name), action=argparse.BooleanOptionalAction, default=None, help=text)
    else:
        options = (
            {"choices": metadata["choices"]} if metadata["choices"] else {"metavar": metadata["kind"].__name__.lower()}
        )
        parser.add_argument(_flag(name), nargs=metadata["count"], help=text, **options)


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _checked(cls: type[Settings], name: str, value: Any, where: str) -> Any:
    """Return the value in the type of its field, or raise ValueError."""
    known = {f.name: f for f in fields(cls)}
    if name not in known:
        raise ValueError(f"{where} is unknown; there are {', '.join(known)}")
    metadata = known[name].metadata
    if value is None and known[name].default is None:
        return None
    if metadata["count"]:
        if not isinstance(value, (list, tuple)) or len(value) != metadata["count"]:
            raise ValueError(f"{where} is {_short(value)}, but must be {metadata['count']} numbers")
        return tuple(_converted(metadata, single, where) for single in value)
    return _converted(metadata, value, where)


def _converted(metadata: Mapping[str, Any], value: Any, where: str) -> Any:
    kind = metadata["kind"]
    if (kind is bool) != isinstance(value, bool) or isinstance(value, (list, dict)):
        wanted = "true or false" if kind is bool else f"one {kind.__name__.lower()}"
        raise ValueError(f"{where} is {_short(value)}, but must be {wanted}")
    if kind is Path:
        try:
            return str(user_path(str(value)))
        except ValueError as error:
            raise ValueError(f"{where} is {error}") from None
    try:
        converted = kind(value)  # YAML takes 1e-3 for a text, flags are texts
        if kind is int and float(value) != converted:
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{where} is {_short(value)}, but must be {'a whole' if kind is int else 'a'} number"
        ) from error
    if metadata["choices"] and converted not in metadata["choices"]:
        raise ValueError(f"{where} is {_short(value)}, but must be one of {', '.join(metadata['choices'])}")
    if kind is float and not math.isfinite(converted):
        raise ValueError(f"{where} is {_short(value)}, but must be finite")
    if kind is int and abs(converted) > LARGEST:
        raise ValueError(f"{where} is too large; the largest number is {LARGEST}")
    if metadata["least"] is not None and converted < metadata["least"]:
        raise ValueError(f"{where} is {_short(value)}, but must be at least {metadata['least']}")
    return converted
