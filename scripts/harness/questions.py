"""Questions with answers from a short list, to fine-tune a language model on. Needs no torch."""

import random
import warnings
from collections.abc import Iterable
from itertools import chain, islice, zip_longest
from typing import Any, NamedTuple

ONE_HELD_OUT_IN = 6
"""One in so many of a letter's categories is for validation, and one for the test; U has only two, for training."""
PUBMEDQA_LABELED = 1000
TASKS = {
    "icd": "the letter that the ICD-10-CM code of a diagnosis begins with, by the package simple-icd-10-cm",
    "pubmedqa": "yes, no or maybe to the question that a medical paper asks, downloaded from the Hugging Face hub",
}


class Question(NamedTuple):
    """What a model reads, and what it should go on with."""

    prompt: str
    answer: str


class Questions(NamedTuple):
    """Training and validation questions, and all answers that there are."""

    train: list[Question]
    val: list[Question]
    answers: list[str]


def load_questions(task: str, train_count: int, val_count: int, test: bool) -> Questions:
    """Return at most so many questions of a task, the same ones with every seed; if asked, test questions as `val`.

    Raises:
        ValueError: the package with the questions is missing, or they cannot be downloaded.
    """
    return {"icd": _icd, "pubmedqa": _pubmedqa}[task](train_count, val_count, test)


def _icd(train_count: int, val_count: int, test: bool) -> Questions:
    """Diagnoses of one category (three characters) are for training, validation or the test, as they are alike.

    Letters take turns as long as they have diagnoses: half of all codes are of injuries.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of how the package reads its files
            import simple_icd_10_cm as icd
    except ImportError:
        raise ValueError("the questions icd need a package: pip install simple-icd-10-cm") from None
    draws = random.Random(0)
    categories: dict[str, list[str]] = {}
    for code in dict.fromkeys(icd.get_all_codes()):  # a block of one category is listed by the same code
        if icd.is_category(code):
            categories.setdefault(code[0], []).append(code)
    train, validation, tested = list[list[Question]](), list[list[Question]](), list[list[Question]]()
    for letter, of_letter in sorted(categories.items()):
        draws.shuffle(of_letter)
        number = len(of_letter) // ONE_HELD_OUT_IN
        first, second, rest = of_letter[:number], of_letter[number : 2 * number], of_letter[2 * number :]
        for part, chosen in ((validation, first), (tested, second), (train, rest)):
            codes = [code for category in chosen for code in _most_precise(icd, category)]
            draws.shuffle(codes)
            part.append([_icd_question(icd.get_description(code), letter) for code in codes])
    answers = [f" {letter}" for letter in sorted(categories)]
    held_out = tested if test else validation
    return Questions(_in_turns(train, train_count), _in_turns(held_out, val_count), answers)


def _most_precise(icd: Any, category: str) -> list[str]:
    return [code for code in (category, *icd.get_descendants(category)) if icd.is_leaf(code)]


def _icd_question(diagnosis: str, letter: str) -> Question:
    return Question(f"Diagnosis: {diagnosis}\nThe ICD-10-CM code begins with the letter", f" {letter}")


def _in_turns(groups: Iterable[list[Question]], count: int) -> list[Question]:
    """Return the first `count` questions, one of each group at a time."""
    rounds = zip_longest(*groups)
    return list(islice((one for one in chain.from_iterable(rounds) if one is not None), count))


def _pubmedqa(train_count: int, val_count: int, test: bool) -> Questions:
    """Training has questions made from titles; of those that people answered, the second half is for the test.

    Jin et al. 2019, arXiv:1909.06146.
    """
    first = PUBMEDQA_LABELED // 2 if test else 0
    last = min(first + val_count, PUBMEDQA_LABELED if test else PUBMEDQA_LABELED // 2)
    try:
        from datasets import load_dataset

        parts = [
            load_dataset("qiaojin/PubMedQA", name, split=f"train[{part}]")
            for name, part in (("pqa_artificial", f":{train_count}"), ("pqa_labeled", f"{first}:{last}"))
        ]
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"PubMedQA can neither be found nor downloaded: {error}") from error
    train, val = ([_pubmedqa_question(row) for row in part] for part in parts)
    return Questions(train, val, [" yes", " no", " maybe"])


def _pubmedqa_question(row: dict[str, Any]) -> Question:
    abstract = " ".join(row["context"]["contexts"])
    return Question(f"Abstract: {abstract}\nQuestion: {row['question']}\nAnswer:", f" {row['final_decision']}")
