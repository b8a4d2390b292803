"""A report replaces an earlier one as a whole or not at all, and leaves the user's files alone."""

import json
import os
import re
import subprocess
import sys
from contextlib import suppress

import pytest

from nnunet_cpr import output_folder
from nnunet_cpr.output_folder import INCOMPLETE, Layout, check_folder, replace_folder

LAYOUT = Layout(("page.html", "page.md", "table", "costs"), re.compile(r"bars-.*\.png"))


def write(folder, **files):
    (folder / "figures").mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", "/").replace("_html", ".html")).write_text(text)


def report(folder, **files):
    with replace_folder(folder, LAYOUT) as new:
        write(new, **files)


def contents(folder):
    """Every file but the manifest, hidden ones included."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


def test_an_earlier_report_is_replaced_and_what_only_it_had_is_removed(tmp_path):
    out = tmp_path / "a" / "out"
    report(out, page_html="1", costs="1", figures__a="1", figures__b="1")
    write(out, notes="mine", figures__mine="mine")
    report(out, page_html="2", figures__b="2", figures__c="2")
    ours = {"page.html": "2", "figures/b": "2", "figures/c": "2"}
    assert contents(out) == {**ours, "notes": "mine", "figures/mine": "mine"}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"] and manifest["sha256"].keys() == ours.keys()


@pytest.mark.parametrize("name", ["page.html", "costs", "figures/a", "figures/bars-x.png"])
@pytest.mark.parametrize("kind", ["file", "folder", "link", "link to nothing"])
def test_files_of_the_user_under_our_names_are_refused_before_anything_is_done(tmp_path, name, kind):
    out = tmp_path / "out"
    report(out, page_html="1", figures__a="1")
    mine = out / name
    mine.unlink(missing_ok=True)
    if kind == "file":
        mine.write_text("mine")
    elif kind == "folder":
        mine.mkdir()
        (mine / "inside").write_text("mine")
    else:
        (tmp_path / "mine").write_text("mine")
        mine.symlink_to(tmp_path / ("mine" if kind == "link" else "nowhere"))
    before = contents(out)
    with pytest.raises(ValueError, match=re.escape(str(mine))) as error, replace_folder(out, LAYOUT):
        pytest.fail("the work was begun")
    assert "\n" not in str(error.value) and contents(out) == before


def test_a_link_to_what_was_written_is_ours(tmp_path):
    """Data managers such as git-annex keep content elsewhere."""
    out = tmp_path / "out"
    report(out, table="1")
    (out / "table").rename(tmp_path / "elsewhere")
    (out / "table").symlink_to(tmp_path / "elsewhere")
    report(out, table="2")
    assert (tmp_path / "elsewhere").read_text() == "1"
    assert (out / "table").read_text() == "2" and not (out / "table").is_symlink()


@pytest.mark.parametrize(
    "manifest", [None, "", "[]", '{"sha256": 3}', '{"files": {}}', '{"sha256": {"page.html": "1"}}']
)
def test_a_folder_without_a_manifest_of_ours_is_not_ours(tmp_path, manifest):
    write(tmp_path, page_html="mine", costs="mine")
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} is not empty and holds no earlier report, but "):
        report(tmp_path, page_html="1")
    assert contents(tmp_path) == before


def test_hidden_files_do_not_matter(tmp_path):
    (tmp_path / ".DS_Store").write_text("mine")
    report(tmp_path, page_html="1")
    assert contents(tmp_path) == {".DS_Store": "mine", "page.html": "1"}


def test_nothing_outside_the_report_is_removed(tmp_path):
    out = tmp_path / "out"
    report(out, table="1")
    (tmp_path / "table").write_text("1")
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["sha256"]["../table"] = manifest["sha256"]["table"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    report(out, costs="2")
    assert (tmp_path / "table").is_file()


def test_the_manifest_of_version_0_1_is_known(tmp_path):
    report(tmp_path, table="1")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({"sha256": manifest["sha256"]}))
    report(tmp_path, costs="2")
    assert contents(tmp_path) == {"costs": "2"}


def test_a_failure_leaves_everything_as_it_was(tmp_path):
    out = tmp_path / "a" / "out"
    with pytest.raises(KeyboardInterrupt), replace_folder(out, LAYOUT):
        raise KeyboardInterrupt
    assert not (tmp_path / "a").exists()
    report(out, table="1")
    before = contents(out)
    with suppress(MemoryError), replace_folder(out, LAYOUT) as new:
        write(new, table="2")
        raise MemoryError
    assert contents(out) == before


def test_a_second_one_at_once_is_refused(tmp_path):
    with replace_folder(tmp_path, LAYOUT) as new:
        write(new, table="1")
        with pytest.raises(ValueError, match="is in use by another process"), replace_folder(tmp_path, LAYOUT):
            pytest.fail("two write at once")
    report(tmp_path, table="2")
    assert contents(tmp_path) == {"table": "2"}


@pytest.mark.parametrize("obstacle", ["file", "link"])
def test_what_cannot_be_a_folder_is_refused(tmp_path, obstacle):
    out = tmp_path / "out"
    out.write_text("mine") if obstacle == "file" else out.symlink_to("nowhere")
    with pytest.raises(ValueError, match="out is a file, or a link to nothing"):
        check_folder(out, LAYOUT)


EARLIER = {"page_html": "1", "table": "1", "costs": "1", "figures__a": "1"}
LATER = {"page_html": "2", "table": "2", "figures__b": "2"}


def steps(folder):
    """How many files are moved when LATER replaces EARLIER."""
    calls = []
    real = os.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_folder.os, "replace", lambda *paths: (calls.append(paths), real(*paths)))
        report(folder, **LATER)
    return len(calls)


def test_an_error_at_any_step_restores_the_earlier_report(tmp_path):
    report(tmp_path / "counted", **EARLIER)
    count = steps(tmp_path / "counted")
    for first in (EARLIER, {}):
        for failing in range(count):
            out = tmp_path / f"{len(first)}-{failing}"
            if first:
                report(out, **first)
            before = contents(out), (out / "manifest.json").exists()
            real, done = os.replace, []

            def replace(*paths, done=done, failing=failing, real=real):
                done.append(paths)
                if len(done) == failing + 1:
                    raise OSError("no space")
                real(*paths)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(output_folder.os, "replace", replace)
                with pytest.raises(OSError, match="no space"):
                    report(out, **LATER)
            assert (contents(out), (out / "manifest.json").exists()) == before, failing
            report(out, **LATER)
            assert contents(out) == {"page.html": "2", "table": "2", "figures/b": "2"}


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_output_folder as test
real, left = {call}, int(sys.argv[3])
def killed(*arguments, **settings):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return real(*arguments, **settings)
{call} = killed
test.report(Path(sys.argv[2]), **test.LATER)
"""


@pytest.mark.parametrize("call", ["os.replace", "os.mkdir", "Path.unlink"])
@pytest.mark.parametrize("first", [EARLIER, {}])
def test_after_a_kill_at_any_step_no_page_is_beside_tables_of_another(tmp_path, call, first):
    kills = 0
    for step in range(20):
        out = tmp_path / str(step)
        if first:
            report(out, **first)
        before = contents(out)
        command = [sys.executable, "-c", KILLED.replace("{call}", call), os.path.dirname(__file__), str(out), str(step)]
        code = subprocess.run(command, check=False).returncode
        found = {name: text for name, text in contents(out).items() if not name.startswith(".")} if out.exists() else {}
        if code == 0:
            break
        assert code == -9
        kills += 1
        page = found.get("page.html", INCOMPLETE)
        tables = {name: text for name, text in found.items() if name != "page.html"}
        if INCOMPLETE not in page:
            assert found == before or set(tables.values()) == {page} == {"2"}
        else:
            complete = out.joinpath("manifest.json").exists() and json.loads((out / "manifest.json").read_text())
            assert not complete or not complete["complete"]
        report(out, **LATER)  # the same command again completes it, and leaves nothing hidden
        assert contents(out) == {"page.html": "2", "table": "2", "figures/b": "2"}
    assert kills >= 1 and code == 0
