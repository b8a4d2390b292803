"""A report leaves nothing of an earlier one behind, and the user's own files alone."""

import json

from nnunet_cpr.evaluation.report_manifest import settle


def write(folder, **files):
    (folder / "figures").mkdir(exist_ok=True)
    paths = [folder / name.replace("__", "/") for name in files]
    for path, text in zip(paths, files.values(), strict=True):
        path.write_text(text)
    return paths


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_what_only_the_earlier_report_had_is_removed(tmp_path):
    settle(tmp_path, write(tmp_path, page="1", costs="1", figures__a="1", figures__b="1"))
    write(tmp_path, notes="mine", figures__mine="mine")
    settle(tmp_path, write(tmp_path, page="2", figures__b="2", figures__c="2"))
    assert names(tmp_path) == ["figures/b", "figures/c", "figures/mine", "manifest.json", "notes", "page"]
    assert sorted(json.loads((tmp_path / "manifest.json").read_text())["sha256"]) == ["figures/b", "figures/c", "page"]


def test_a_file_that_was_changed_since_is_kept(tmp_path):
    settle(tmp_path, write(tmp_path, figures__a="1", figures__b="1"))
    write(tmp_path, figures__a="drawn over by hand")
    settle(tmp_path, write(tmp_path, page="2"))
    assert names(tmp_path) == ["figures/a", "manifest.json", "page"]


def test_a_manifest_that_is_no_manifest_removes_nothing(tmp_path):
    for text in ("", "[]", '{"sha256": 3}', '{"files": {}}'):
        write(tmp_path, figures__a="1")
        (tmp_path / "manifest.json").write_text(text)
        settle(tmp_path, write(tmp_path, page="2"))
        assert "figures/a" in names(tmp_path)


def test_nothing_outside_the_report_is_removed(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (file,) = write(out, page="1")
    settle(out, [file])
    (tmp_path / "page").write_text("1")
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["sha256"] = {"../page": manifest["sha256"]["page"]}
    (out / "manifest.json").write_text(json.dumps(manifest))
    settle(out, [])
    assert (tmp_path / "page").is_file()
