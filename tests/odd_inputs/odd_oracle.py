"""The numbers of a comparison, computed slowly and apart from the package: fractions, loops over borders, plain CSV.

A comparison is {(dataset, trainer, run, fold, case, label, metric): value}; values are fractions, floats, or None where
they are not defined. Names are compared without what may be put before them in a CSV file to disarm formulas, and with
Python's escapes for characters that nobody can see.
"""

import csv
import math
import unicodedata
from fractions import Fraction
from pathlib import Path

import numpy as np
from odd_worlds import OracleError
from scipy import ndimage, spatial, stats

MEAN = "foreground mean"
INVISIBLE = ("Cc", "Cs")
"""Unicode's categories of control characters, and of halves that are no character alone."""
TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
"""Unicode's directions of characters that show what follows in another order."""
LOWER = ("HD95", "MASD")
Key = tuple[str, str, str, str, str, str, str]
Value = Fraction | float | None


def dice(reference: np.ndarray, prediction: np.ndarray, ignored: np.ndarray | None = None) -> Fraction | None:
    """Return Dice of two masks, None where both are empty."""
    if ignored is not None:
        reference, prediction = reference & ~ignored, prediction & ~ignored
    both, total = int((reference & prediction).sum()), int(reference.sum()) + int(prediction.sum())
    return Fraction(2 * both, total) if total else None


def distances(reference: np.ndarray, prediction: np.ndarray, spacing: list[float]) -> dict[str, float | None]:
    """Return HD95 and MASD in mm; masks and spacing in the same order of axes, a single slice is plane."""
    flat = [axis for axis, size in enumerate(reference.shape) if size == 1][:1]
    if flat:
        reference, prediction = reference.squeeze(flat[0]), prediction.squeeze(flat[0])
        spacing = [length for axis, length in enumerate(spacing) if axis not in flat]
    if not (reference.any() and prediction.any()):
        return {"HD95": None, "MASD": None}
    borders = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing for mask in (reference, prediction)]
    ways = [spatial.cKDTree(borders[1 - i]).query(borders[i])[0] for i in (0, 1)]
    return {"HD95": max(np.percentile(way, 95) for way in ways), "MASD": float(np.mean([way.mean() for way in ways]))}


def surface_dice(reference: np.ndarray, prediction: np.ndarray, spacing: list[float], tolerance: float) -> float | None:
    """Return NSD as DeepMind's package has it."""
    from surface_distance import metrics

    flat = [axis for axis, size in enumerate(reference.shape) if size == 1][:1]
    if flat:
        reference, prediction = reference.squeeze(flat[0]), prediction.squeeze(flat[0])
        spacing = [length for axis, length in enumerate(spacing) if axis not in flat]
    if not (reference.any() or prediction.any()):
        return None
    if not (reference.any() and prediction.any()):
        return 0.0
    # Not touching the edge, where the package and its users differ.
    reference, prediction = np.pad(reference, 1), np.pad(prediction, 1)
    found = metrics.compute_surface_distances(reference, prediction, spacing)
    return float(metrics.compute_surface_dice_at_tolerance(found, tolerance * (1 + 1e-5)))


def plain(name: object) -> str:
    """Return a name as it is compared."""
    text = " ".join(str(name).split())
    text = text[1:] if text[:1] == "'" and text[1:2] in ("=", "+", "-", "@", "'") else text
    return "".join(_visible(one) for one in text)


def _visible(one: str) -> str:
    hidden = unicodedata.category(one) in INVISIBLE or unicodedata.bidirectional(one) in TURNING
    return one.encode("unicode_escape").decode() if hidden else one


def label_name(name: str, value: object) -> str:
    """Return what a label is called in tables: its value stands behind a name that would say nothing, or the mean."""
    text = " ".join(name.split())
    values = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    return name if text and text.casefold() != MEAN else f"{text} (label {values})".strip()


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    if not path.is_file():
        raise OracleError(f"{path.name} was not written")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_report(folder: Path, expected: dict[Key, Value], baseline: str, unknown: set[str]) -> None:
    """Compare the tables of a report with what is expected.

    Args:
        folder: of the report.
        expected: every value of every metric whose value is known.
        baseline: its name.
        unknown: metrics in the report that cannot be checked.
    """
    _check_cases(read_table(folder / "cases.csv"), expected, unknown)
    _check_summary(read_table(folder / "summary.csv"), expected)
    _check_comparisons(read_table(folder / "comparisons.csv"), expected, baseline)
    for name in ("report.html", "report.md", "table.tex"):
        if not (folder / name).is_file():
            raise OracleError(f"{name} was not written")


def _check_cases(rows: list[dict[str, str]], expected: dict[Key, Value], unknown: set[str]) -> None:
    found: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row["metric"] not in unknown:
            key = tuple(plain(row[name]) for name in ("dataset", "trainer", "run", "fold", "case", "label", "metric"))
            found.setdefault(key, []).append(row["value"])
    wanted = {tuple(map(plain, key)): value for key, value in expected.items()}
    if len(wanted) < len(expected):
        return  # names that only differ in their spaces
    for key, value in wanted.items():
        if key not in found:
            raise OracleError(f"cases.csv lacks {key}; it has for instance {next(iter(found), None)}")
        if not any(_equal(text, value) for text in found[key]):
            raise OracleError(f"cases.csv: {key} is {found[key]}, not {_number(value)}")
    strange = [key for key in found if key not in wanted and key[5] != MEAN]
    if strange:
        raise OracleError(f"cases.csv has {strange[0]}, which is not expected")
    repeated = [key for key, texts in found.items() if len(texts) > 1 and key[5] != MEAN]
    if repeated:
        raise OracleError(f"cases.csv has {repeated[0]} twice")


def _check_summary(rows: list[dict[str, str]], expected: dict[Key, Value]) -> None:
    groups: dict[tuple[str, ...], dict[str, list[Value]]] = {}
    for (dataset, trainer, _run, _fold, _case, label, metric), value in expected.items():
        groups.setdefault((plain(dataset), plain(trainer), metric), {}).setdefault(plain(label), []).append(value)
    if any(MEAN in by_label for by_label in groups.values()):
        return  # one row of that name is a label's, the other the mean's
    found = {tuple(plain(row[n]) for n in ("dataset", "trainer", "metric", "label")): row for row in rows}
    for group, by_label in groups.items():
        means = {label: _mean(values) for label, values in by_label.items()}
        means[MEAN] = _mean(list(means.values()))
        for label, mean in means.items():
            row = found.get((*group, label))
            if row is None:
                raise OracleError(f"summary.csv lacks {(*group, label)}")
            if not _equal(row["mean"], mean):
                raise OracleError(f"summary.csv: the mean of {(*group, label)} is {row['mean']}, not {_number(mean)}")


def _check_comparisons(rows: list[dict[str, str]], expected: dict[Key, Value], baseline: str) -> None:
    values: dict[tuple[str, str], dict[str, dict[str, dict[str, list[Value]]]]] = {}
    for (dataset, trainer, _run, _fold, case, label, metric), value in expected.items():
        of_trainer = values.setdefault((plain(dataset), metric), {}).setdefault(plain(trainer), {})
        of_trainer.setdefault(plain(label), {}).setdefault(plain(case), []).append(value)
    if any(MEAN in labels for by_trainer in values.values() for labels in by_trainer.values()):
        return
    found = {tuple(plain(row[n]) for n in ("dataset", "metric", "trainer", "label")): row for row in rows}
    for (dataset, metric), by_trainer in values.items():
        base = by_trainer.get(plain(baseline))
        for trainer, labels in by_trainer.items():
            if trainer == plain(baseline) or base is None:
                continue
            by_case: dict[str, list[Value]] = {}
            for label, cases in labels.items():
                known: list[Value] = []
                for case, several in cases.items():
                    ours, theirs = _mean(several), _mean(base[label].get(case, []))
                    if ours is not None and theirs is not None:
                        known.append(ours - theirs)
                        by_case.setdefault(case, []).append(known[-1])
                _check_comparison(found, (dataset, metric, trainer, label), known)
            _check_comparison(found, (dataset, metric, trainer, MEAN), [_mean(several) for several in by_case.values()])


def _check_comparison(found: dict[tuple[str, ...], dict[str, str]], key: tuple[str, ...], known: list[Value]) -> None:
    row = found.get(key)
    if row is None:
        raise OracleError(f"comparisons.csv lacks {key}")
    fractions = [value for value in known if isinstance(value, Fraction)]
    exact = len(fractions) == len(known)
    sign = -1 if key[1] in LOWER else 1
    wanted = {"n": len(known), "difference": _mean(known)}
    if exact:
        wanted |= {"wins": sum(sign * value > 0 for value in fractions), "ties": sum(value == 0 for value in fractions)}
    for name, value in wanted.items():
        if not _equal(row[name], value):
            raise OracleError(f"comparisons.csv: {name} of {key} is {row[name]}, not {_number(value)}")
    if exact and known:
        p = _wilcoxon(fractions)
        if not _equal(row["p"], p, 1e-6):
            raise OracleError(f"comparisons.csv: p of {key} is {row['p']}, not {p}")


def _wilcoxon(known: list[Fraction]) -> float:
    """Return p by exact ranks: SciPy sees them instead of numbers that differ by rounding."""
    sizes = sorted({abs(value) for value in known if value})
    if not sizes:
        return 1.0
    ranks = [(1 + sizes.index(abs(value))) * (1 if value > 0 else -1) if value else 0 for value in known]
    return float(stats.wilcoxon(ranks).pvalue)


def _mean(values: list[Value]) -> Value:
    known = [value for value in values if value is not None and not (isinstance(value, float) and math.isnan(value))]
    return sum(known) / len(known) if known else None


def _number(value: Value) -> float | None:
    return None if value is None else float(value)


def _equal(text: str, value: Value, tolerance: float = 2e-5) -> bool:
    if value is None:
        return text.strip().lower() in ("", "nan")
    try:
        return math.isclose(float(text), float(value), rel_tol=tolerance, abs_tol=tolerance)
    except ValueError:
        return False
