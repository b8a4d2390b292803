"""YAML as users write it: what is there twice, and what grows, is refused in one line."""

import sys

import pytest
import yaml
from damaging import DEEP

from nnunet_cpr.batch.study_file import read_study_file
from nnunet_cpr.yaml_files import read_yaml


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "study.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    "text", ["a: 027\nb: [on, 2.5]\n", "", "x: &x {p: 1}\ny: {<<: *x, p: 2}\nz: [*x, *x]\n", "- 1"]
)
def test_good_files_are_read_as_pyyaml_reads_them(file, text):
    assert read_yaml(file(text)) == yaml.safe_load(text)
    assert read_yaml(file(text), texts=True) == yaml.load(text, yaml.BaseLoader)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n\na: 2\n", "the key a is there twice, in line 1 and in line 3"),
        ("trainers:\n  A: x\n  B: y\n  'A': z\n", "the key A is there twice, in line 2 and in line 4"),
        ("1: x\n'1': y\n", "the key 1 is there twice"),
        ("- {b: 1, b: 1}\n", "the key b is there twice"),
        ("a: &a [*a]\n", "more than 100000 values"),
        ("a: &a {b: {c: *a}}\n", "more than 100000 values"),
        ("[" * 600, "nested too deeply"),
        ("[" * 101 + "]" * 101, "nested too deeply"),
        ("a: [\n", "cannot be read"),
    ],
)
def test_mistakes_are_one_line(file, text, message):
    for texts in (False, True):
        with pytest.raises(ValueError, match=message) as error:
            read_yaml(file(text), texts)
        assert "study.yaml" in str(error.value) and "\n" not in str(error.value)


def test_nesting_is_limited_the_same_whatever_python_allows(file):
    limit = sys.getrecursionlimit()
    for allowed in (limit, 50_000):
        sys.setrecursionlimit(allowed)
        try:
            read_yaml(file("[" * 100 + "]" * 100))
            for text in ("[" * 101 + "]" * 101, "[" * 5000, "{a: " * 101 + "1" + "}" * 101):
                with pytest.raises(ValueError, match="nested too deeply"):
                    read_yaml(file(text))
                with pytest.raises(ValueError, match="1: nested too deeply"):
                    read_study_file(file(text))
        finally:
            sys.setrecursionlimit(limit)


def test_aliases_that_hold_each_other_are_refused_before_anything_is_built(file, monkeypatch):
    levels = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 60)]
    path = file("\n".join(["a0: &a0 [x, x]", *levels]))  # 9 ** 59 values
    monkeypatch.setattr(yaml.SafeLoader, "construct_document", lambda *_: pytest.fail("built"))
    with pytest.raises(ValueError, match=r"study\.yaml cannot be read: with its aliases .* more than 100000 values"):
        read_yaml(path)


@pytest.mark.parametrize(
    "content", [b"a: [", b"\xff", DEEP.encode(), b"a: 2020-13-45", b"a: !!python/name:os.system", b"\0"]
)
def test_damaged_yaml_is_one_line(tmp_path, content):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.yaml(:1: it)? cannot be read[^\n]+$"):
        read_yaml(path)


def test_yaml_as_it_is_written(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: [027, 1e-3]")
    assert (read_yaml(path), read_yaml(path, texts=True)) == ({"a": [23, "1e-3"]}, {"a": ["027", "1e-3"]})
