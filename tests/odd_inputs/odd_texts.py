"""Odd names, numbers, paths and YAML texts, and oddities of environment and output that all commands share."""

import codecs
import re
from pathlib import Path
from typing import Any

from odd_worlds import (
    ACCEPTED,
    PLACE,
    REFUSED,
    TEXT,
    NotHereError,
    Stop,
    World,
    odd,
    pick,
)

NAMES = [
    "with space", " leading", "trailing ", "a=b", "a,b", "a;b", "ünï", "e\u0301 composed", "名前", "😀", "<b>x",
    "$x^2$",
    "$\\frac{", "\\alpha", "a\nb", "tab\there", "it's", 'say "x"', "%s %d", "{0}", "~", "~nobody", "=1+1", "@SUM(A1)",
    "+1", "nan", "None", "null", "true", "No", "1", "0", "1e3", "007", "0x10", "1_000", "2020-01-01", "foreground mean",
    "a\\b", "&amp;", "a|b", "# a", "\u202erev", "\u200b", "long" * 40, "\x1b[31mred", "mean", "*", "_x_", "[a](b)",
    "ignore me", "a: b", "- a", "!!int", "&a", "'", '"', "`ls`", "$(ls)", "a\rb", "\x7f",
]  # fmt: skip
"""None is empty, begins with a hyphen, or holds a slash or a null character."""
NUMBERS = ["-1", "0", "1.5", "nan", "inf", "-inf", "1e400", "1e-320", "1,5", "0x10", "1_0", " 3 ", "", "three", "١",
    "²",
           "9" * 30, "9" * 5000, "--", "1e3", "True", "None", "+2", "0.1.2", "-0"]  # fmt: skip


def for_files(names: list[str]) -> list[str]:
    """Return the names that a file can have, some of them in bytes that are no text."""
    return [*names, "b\udcffd"]


def yaml_text(value: Any) -> str:
    """Return a value as YAML, quoted so that it stays what it is."""
    import yaml

    text: str = yaml.safe_dump(value, allow_unicode=True, width=10**6, sort_keys=False)
    return text


def scalars(value: Any) -> list[str]:
    """Return all keys and values in nested mappings and lists as texts."""
    if isinstance(value, dict):
        return [text for pair in value.items() for one in pair for text in scalars(one)]
    if isinstance(value, (list, tuple)):
        return [text for one in value for text in scalars(one)]
    return [str(value)]


def lines_of(path: Path) -> list[str]:
    """Return the lines of a YAML text that exists."""
    if not path.is_file():
        raise NotHereError
    return path.read_text(encoding="utf-8").splitlines(keepends=True)


def needs_yaml(world: Any) -> Path:
    """Return the world's YAML file."""
    path: Path | None = getattr(world, "yaml", None)
    if path is None or not path.is_file():
        raise NotHereError
    return path


@odd(TEXT, ACCEPTED)
def windows_lines(world: World) -> str:
    path = needs_yaml(world)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    return "YAML with CRLF"


@odd(TEXT, ACCEPTED)
def byte_order_mark(world: World) -> str:
    path = needs_yaml(world)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    return "YAML with a byte order mark"


@odd(TEXT)
def other_encoding(world: World) -> str:
    path = needs_yaml(world)
    name = pick(world, ["utf-16", "utf-16-le", "utf-32", "latin-1", "cp037"])
    path.write_bytes((path.read_text(encoding="utf-8") + "# ü\n").encode(name, errors="replace"))
    return f"YAML in {name}"


@odd(TEXT, REFUSED)
def key_twice(world: World) -> str:
    path = needs_yaml(world)
    text = path.read_text(encoding="utf-8")
    keys = re.findall(r"^(\w+):", text, re.MULTILINE)
    key = pick(world, keys)
    start = text.index(f"{key}:")
    end = re.search(r"\n(?=\w)|\Z", text[start:])
    block = text[start : start + end.start()] if end else text[start:]  # the whole entry
    path.write_text(text.rstrip("\n") + "\n" + block.rstrip("\n") + "\n", encoding="utf-8")
    world.words.append(key)
    return f"YAML key {key} twice"


@odd(TEXT, REFUSED)
def unknown_key(world: World) -> str:
    path = needs_yaml(world)
    key = pick(world, ["dataset", "Trainers", "outputs", "x", "é", "null", "1", "? [a, b]", "<<", "''", "__class__"])
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{key}: 1\n" if not key.startswith("?") else f"{key}\n: 1\n")
    world.words += [key, "None", "('a', 'b')", "key", str(path.name)]
    return f"YAML with the key {key}"


@odd(TEXT)
def odd_syntax(world: World) -> str:
    path = needs_yaml(world)
    text = path.read_text(encoding="utf-8")
    said, new = pick(
        world,
        [
            ("tabs", text.replace("  ", "\t")),
            ("two documents", text + "---\n" + text),
            ("document markers", "%YAML 1.1\n---\n" + text + "...\n"),
            ("an alias", "x: &a [1]\n" + text),
            ("an unknown alias", text + "folds: *nothing\n"),
            ("a tag", text + "seed: !!python/object/apply:os.system ['touch hacked']\n"),
            ("an unknown tag", text + "seed: !mine 3\n"),
            ("a list around", "\n".join("- " + line for line in text.splitlines() if not line.startswith(" "))),
            ("a merge", "<<: {seed: 3}\n" + text),
            ("a control character", text + "# \x07\n"),
            ("a null character", text + "\0"),
            ("unclosed quotes", text + "seed: 'x\n"),
            ("flow", "{" + ", ".join(text.splitlines()) + "}"),
            ("comments only", "# nothing\n"),
            ("nothing", ""),
            ("spaces", "   \n\n"),
            ("a number", "3\n"),
            ("wrong indentation", text.replace("\n", "\n ")),
            ("no newline at the end", text.rstrip("\n")),
            ("many blank lines", "\n" * 1000 + text),
            ("deep", text + "seed: " + "[" * 3000 + "]" * 3000 + "\n"),
        ],
    )
    path.write_text(new, encoding="utf-8")
    world.words += ["hacked"]
    return f"YAML: {said}"


@odd(TEXT, REFUSED)
def alias_bomb(world: World) -> str:
    path = needs_yaml(world)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 7)]
    path.write_text("\n".join(lines) + "\n" + path.read_text(encoding="utf-8") + "folds: *a6\n", encoding="utf-8")
    world.words += ["a0", "alias", "folds"]
    return "YAML with a nest of aliases"


@odd(TEXT)
def odd_value(world: World) -> str:
    path = needs_yaml(world)
    lines = lines_of(path)
    # Another output is a place that the oracle does not know.
    numbers = [n for n, line in enumerate(lines) if re.match(r"\s*(?!output:)[\w'\"].*: \S", line)]
    if not numbers:
        raise NotHereError
    number = pick(world, numbers)
    key, _, old = lines[number].partition(": ")
    new = pick(
        world,
        ["~", "null", "''", "[]", "{}", "[[]]", "true", "no", "0", "-1", "1.5", ".nan", ".inf", "1e400", "1e3", "0o10",
         "010", "0x1F", "1:30", "2020-01-01", "2020-13-45", "!!binary aGk=", "!!set {a}", "|\n  text\n", "{a: 1}",
         "[1, 1]", '"\\0"', '"\\ud800"', '" "', "é", "'../..'", "/dev/null", "1_000", "=", "<<", "[~]", "{~: ~}",
         "9" * 400],
    )  # fmt: skip
    lines[number] = f"{key}: {new}\n"
    path.write_text("".join(lines), encoding="utf-8")
    world.words += [new, key.strip(), "None"]
    world.loosen()
    return f"YAML: {key.strip()} is {new[:40]!r} instead of {old.strip()[:40]!r}"


@odd(TEXT, ACCEPTED)
def yaml_is_a_link(world: World) -> str:
    path = needs_yaml(world)
    target = path.with_name("the real file")
    path.rename(target)
    path.symlink_to(target)
    return "YAML file is a link"


@odd(TEXT, REFUSED)
def yaml_is_no_file(world: World) -> str:
    path = needs_yaml(world)
    said = pick(world, ["missing", "a folder", "a dangling link", "a loop of links"])
    path.unlink()
    if said == "a folder":
        path.mkdir()
    elif said == "a dangling link":
        path.symlink_to("nowhere")
    elif said == "a loop of links":
        path.symlink_to(path)
    return f"YAML file is {said}"


@odd(PLACE, ACCEPTED)
def no_home(world: World) -> str:
    said = pick(world, ["not set", "not there", "a file"])
    if said == "not set":
        del world.environment["HOME"]
    else:
        place = world.folder / "no home"
        if said == "a file":
            place.write_text("x")
        world.environment["HOME"] = str(place)
    if any("~" in argument for argument in world.argv):
        raise NotHereError
    return f"HOME is {said}"


@odd(PLACE, ACCEPTED)
def narrow_terminal(world: World) -> str:
    world.encoding = pick(world, ["ascii", "latin-1", "cp1252", "cp437"])
    world.environment["COLUMNS"] = pick(world, ["10", "1", "x", "1000"])
    return f"a terminal in {world.encoding}"


@odd(PLACE, ACCEPTED)
def odd_variables(world: World) -> str:
    name, value = pick(
        world,
        [
            ("SLURM_CPUS_PER_TASK", "0"), ("SLURM_CPUS_ON_NODE", "2(x3)"), ("NCPUS", "two"), ("NSLOTS", "-1"),
            ("OMP_NUM_THREADS", "0"), ("nnUNet_def_n_proc", "x"), ("nnUNet_n_proc_DA", ""), ("CUDA_VISIBLE_DEVICES",
             "7"),
            ("COLUMNS", "0"), ("LANG", "xx_YY"), ("LC_ALL", "C"), ("TZ", "Mars/X"), ("NO_COLOR", "1"), ("TERM", "dumb"),
            ("SOURCE_DATE_EPOCH", "x"), ("nnUNet_extTrainer", "/nowhere"), ("nnUNet_compile", "maybe"),
        ],
    )  # fmt: skip
    world.environment[name] = value
    return f"{name}={value}"


@odd(PLACE, ACCEPTED)
def stopped(world: World) -> str:
    if world.fresh:
        raise NotHereError
    how = pick(world, ["SIGINT", "SIGTERM", "SIGKILL", "SIGKILL"])
    world.stop = Stop(how, world.rng.choice([1, 2, 3, 5, 8, 13, 20, 30]))
    return f"{how} at change {world.stop.at}"


@odd(PLACE, ACCEPTED)
def python_anew(world: World) -> str:
    """What Python and matplotlib read when they start."""
    if world.program != "nnunet-cpr" or world.stop or not getattr(world, "may_be_fresh", True):
        raise NotHereError
    said, variables, settings = pick(
        world,
        [
            ("MPLBACKEND of a notebook", {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, ""),
            ("MPLBACKEND of a screen", {"MPLBACKEND": "qtagg"}, ""),
            ("MPLBACKEND unknown", {"MPLBACKEND": "nosuch"}, ""),
            ("usetex", {}, "text.usetex: True\n"),
            ("a style of the user's", {}, "font.size: 40\nfigure.dpi: 900\naxes.prop_cycle: cycler(color=['r'])\n"),
            ("ASCII", {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}, ""),
            ("the C locale without UTF-8", {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}, ""),
            ("optimized", {"PYTHONOPTIMIZE": "2"}, ""),
            ("no bytecode", {"PYTHONDONTWRITEBYTECODE": "1"}, ""),
            ("development mode", {"PYTHONDEVMODE": "1"}, ""),
        ],
    )
    world.environment |= variables
    import matplotlib

    if settings:
        (world.cwd / "matplotlibrc").write_text(settings)
    world.environment["MPLCONFIGDIR"] = matplotlib.get_cachedir()
    world.fresh = True
    return f"Python anew with {said}"


@odd(PLACE, ACCEPTED)
def disk_fails(world: World) -> str:
    how = pick(world, ["ENOSPC", "EACCES", "EROFS", "EDQUOT", "EIO"])
    if world.output is None or world.fresh:
        raise NotHereError
    world.stop = Stop(how, world.rng.choice([1, 1, 2, 3, 5, 8, 13]), world.output)
    return f"{how} from change {world.stop.at} of the output on"


@odd(PLACE, ACCEPTED)
def repeated(world: World) -> str:
    if not getattr(world, "repeatable", True):
        raise NotHereError
    world.again = True
    return "run twice"


FOR_ALL = [no_home, narrow_terminal, odd_variables, python_anew, *[stopped] * 3]
FOR_YAML = [windows_lines, byte_order_mark, other_encoding, key_twice, unknown_key, odd_syntax, alias_bomb, odd_value,
            yaml_is_a_link, yaml_is_no_file]  # fmt: skip
FOR_OUTPUT = [repeated, *[disk_fails] * 3]
