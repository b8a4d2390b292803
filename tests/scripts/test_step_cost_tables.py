"""The pages show what the files of results hold."""

import json
from pathlib import Path

import pytest
from step_cost_tables import NOTHING, PAGES, PARTS, ROOT, renew, step_cost_processors, step_cost_ranges


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_up_to_date(page):
    """Run `python scripts/step_cost_tables.py` where this fails."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert renew(text, ROOT / "docs" / "results") == text


def test_every_part_stands_on_a_page():
    pages = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in PARTS if f"<!-- generated: {name} -->" not in pages] == []
    assert pages.count("<!-- generated: ") == pages.count("<!-- end -->")


def write_machine(results: Path, processor: str, ratio: float, threads: int = 2, device: str = "cpu") -> None:
    row = {"way": "C kernel", "n": 30, "median_ms": 10.0, "quartiles_ms": [9.0, 11.0], "ratio_quartiles": [0.5, 1.5]}
    rows = [{**row, "optimizer": "AdamW fused", "ratio": 1.0}, {**row, "optimizer": "AdamCPR", "ratio": ratio}]
    contest = {"model": "nnU-Net", "threads": threads, "opponent": "AdamW fused", "rows": rows}
    machine = {
        "processor": processor, "device": device, "processors": 4, "caches": {"L1": 2**15}, "compiler": "cc 12",
        "torch": "2.14", "code": "abc", "rounds": 30, "contests": [contest],
    }  # fmt: skip
    folder = results / "step_cost"
    folder.mkdir(exist_ok=True)
    (folder / f"{processor}-{threads}.json").write_text(json.dumps(machine))


def test_ranges_are_over_processors(tmp_path):
    for processor, ratio in (("A", 0.814), ("B", 1.021), ("C", 0.9)):
        write_machine(tmp_path, processor, ratio)
    table = step_cost_ranges(tmp_path)
    assert "| AdamCPR | 0.81 to 1.02 | AdamW fused |" in table
    assert "Processors: A; B; C; torch 2.14, code abc." in table
    assert "| AdamW fused |" not in table.replace("| AdamW fused |\n", "")  # no row of its own


def test_one_processor_is_no_range(tmp_path):
    write_machine(tmp_path, "A", 0.814)
    assert "| AdamCPR | 0.81 | AdamW fused |" in step_cost_ranges(tmp_path)


def test_threads_and_gpus_have_columns_of_their_own(tmp_path):
    write_machine(tmp_path, "A", 0.81, threads=1)
    write_machine(tmp_path, "A", 0.92, threads=2)
    write_machine(tmp_path, "G", 1.03, threads=1, device="cuda")
    table = step_cost_ranges(tmp_path)
    assert "| optimizer step | nnU-Net, 1 thread | nnU-Net, 2 threads | nnU-Net, GPU | ratio to |" in table
    assert "| AdamCPR | 0.81 | 0.92 | 1.03 | AdamW fused |" in table


def test_every_processor_has_a_section(tmp_path):
    write_machine(tmp_path, "A", 0.81)
    write_machine(tmp_path, "B", 0.92)
    text = step_cost_processors(tmp_path)
    assert [line for line in text.splitlines() if line.startswith("#")] == ["### A", "### B"]
    assert "caches: L1 32 KiB; cc 12; torch 2.14; code abc; 30 rounds." in text
    assert "| nnU-Net, 2 threads | AdamCPR | 10.0 (9.0 to 11.0) | 0.92 (0.50 to 1.50) | C kernel |" in text


def test_nothing_measured_is_said(tmp_path):
    assert step_cost_ranges(tmp_path) == step_cost_processors(tmp_path) == NOTHING


def test_only_generated_parts_are_replaced(tmp_path):
    before, after = "above\n<!-- generated: step-cost-ranges -->\n", "<!-- end -->\nbelow <!-- end -->\n"
    assert renew(f"{before}old\n{after}", tmp_path) == f"{before}\n{NOTHING}\n{after}"
