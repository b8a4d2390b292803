"""Labels of a dataset.json: every one is kept, under a name of its own, whatever it is called."""

import json

import pytest

from nnunet_cpr.labels import (
    FOREGROUND,
    check_case_name,
    foreground_labels,
    ignore_label,
    name_of_value,
    printable,
    read_dataset_json,
    value_of_name,
)


def named(labels: dict) -> dict:
    return foreground_labels({"labels": labels})


def test_ordinary_names_stay_as_they_are():
    labels = {"left": 1, "right lung": 2, "2": 3, "nan": 4, "None": 5, "a, b": 6, "$x$": 7, " spaced ": 8}
    assert named({"background": 0} | labels) == labels


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"foreground mean": 1, "b": 2}, {"foreground mean (label 1)": 1, "b": 2}),
        ({"Foreground  Mean ": [1, 2], "b": 2}, {"Foreground Mean (label 1, 2)": (1, 2), "b": 2}),
        ({"liver": 1, "liver ": 2, "": 3, "  ": 4},
         {"liver (label 1)": 1, "liver (label 2)": 2, "(label 3)": 3, "(label 4)": 4}),
        ({"": 1, "(label 1)": 2}, {"(label 1) (label 1)": 1, "(label 1)": 2}),
        ({"a\nb": 1, "\x1b[31mred": 2, "\ud800": 3}, {"a b": 1, "\\x1b[31mred": 2, "\\ud800": 3}),
        ({"\u202erev": 1, "\\u202erev": 2}, {"\\u202erev (label 1)": 1, "\\u202erev (label 2)": 2}),
        ({"Background": 0, "bg": "0", "none": [0, 0], "x": "1", "y": 2.0}, {"x": 1, "y": 2}),
    ],
)  # fmt: skip
def test_names_that_could_be_taken_for_another_have_their_value_behind_them(labels, expected):
    found = named(labels)
    assert found == expected
    assert len({printable(name).casefold() for name in found} | {FOREGROUND}) == len(found) + 1
    "".join(found).encode()  # UTF-8 can hold them


def test_the_decathlon_writes_values_before_names():
    content = {"labels": {"0": "background", "1": "Edema", "2": "lesion", "3": "lesion", "4": "ignore"}}
    assert foreground_labels(content) == {"Edema": 1, "lesion (label 2)": 2, "lesion (label 3)": 3}
    assert ignore_label(content) == 4
    assert ignore_label({"labels": {"0": "background", "1": "a"}}) is None
    # nnU-Net's, though every name is a number and every value a text
    assert named({"background": "0", "1": "2", "2": "1"}) == {"1": 2, "2": 1}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"a": 1, "b": 2, "c": "1"}, "the labels 'a' and 'c' have the same value 1"),
        ({"a": [1, 2], "b": [1, 2]}, "the labels 'a' and 'b' have the same value 1, 2"),
        ({"a": 1, "b": [1]}, "the labels 'a' and 'b' have the same value 1"),
        ({"a": 1, "ignore": 1}, "the labels 'a' and 'ignore' have the same value 1"),
        ({"a": True}, "True is no label"),
        ({"a": []}, "a region without values"),
        ({"a": -1}, "-1 is no label"),
        ({"a": 1.5}, "1.5 is no label"),
        ({"a": 10**400}, "is no label; labels are whole numbers from 0 to 65535"),
        ({"a": "tumor"}, "'tumor' is no label"),
        ({"a": None}, "None is no label"),
        (["a", "b"], "not a mapping"),
    ],
)
def test_labels_that_are_none(labels, message):
    with pytest.raises(ValueError, match=message) as error:
        foreground_labels({"labels": labels})
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_values_without_a_name_beside_names_that_look_like_values():
    labels = {"3": 1, "4 ": 2}
    for value in (3, 4, 5):
        name = name_of_value(value, labels)
        assert printable(name) not in {"3", "4"}
        assert value_of_name(name, labels) == value
    assert name_of_value(5, labels) == "5"
    assert value_of_name("3", labels) == 1


@pytest.mark.parametrize(
    "text",
    ['{"labels": {"background": 0, "a": 1, "a": 2}}', '{"labels": {"0": "background", "1": "x", "1": "y"}}',
     '{"labels": {"b": 1}, "labels": {"a": 1}}'],
)  # fmt: skip
def test_a_key_that_is_there_twice(tmp_path, text):
    path = tmp_path / "dataset.json"
    path.write_text(text)
    assert json.loads(text)  # JSON keeps the last one without a word
    with pytest.raises(ValueError, match=r"dataset\.json: '.*' is there twice"):
        read_dataset_json(path)


def test_case_names(tmp_path):
    check_case_name("Ω 日本 a$b", tmp_path)
    for name in ("c\udce9", "a\nb", "\x1b[2J"):
        with pytest.raises(ValueError, match="has no UTF-8 name that can be shown") as error:
            check_case_name(name, tmp_path)
        assert str(error.value).isprintable()
