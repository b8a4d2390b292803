"""What the README and the documentation promise: examples run, links lead somewhere, no page is hidden."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef]

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NEED_FILES = {"load-models-from-others", "other-nnunet-ways", "share-a-model"}
"""Pages whose examples need a trained model; tests/training has what can be tried of them."""
EXAMPLES = [
    (page, code)
    for page in PAGES
    if page.stem not in NEED_FILES
    for code in FENCED.findall(page.read_text(encoding="utf-8"))
]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize(("page", "code"), EXAMPLES, ids=[f"{p.stem}-{i}" for i, (p, _) in enumerate(EXAMPLES)])
def test_fenced_examples_run_as_they_are_pasted(page, code, tmp_path):
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_there_are_examples_in_the_readme():
    assert [page.name for page, _ in EXAMPLES].count("README.md") >= 1


def test_the_readme_can_be_read_in_a_minute():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_of_the_site_is_in_its_menu_and_every_entry_is_a_page():
    def entries(nav):
        for entry in nav:
            for value in entry.values():
                yield from entries(value) if isinstance(value, list) else [value]

    config = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    listed = list(entries(config["project"]["nav"]))
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert len(listed) == len(set(listed))
    assert set(listed) == {page for page in pages if not page.endswith("table.md")}  # tables belong to their README
