"""The page is made of whatever was measured, and names what was not."""

from __future__ import annotations

import json

from tests.bench import report

CHECK = {
    key: {"min": 0.1, "median": 0.3, "max": 0.4, "cpu": 0.1, "mib": 20, "manifests": 5000, "bytes": 1_000_000}
    for key in ("help", "features", "check", "check_large")
}
GKE = {"added_s": {"min": 1.0, "median": 1.2, "max": 1.5}}


TRACE = {kind: {key: {"min": 1.0, "median": 2.5, "max": 4.0} for key in ("first_s", "gone_s")} for kind in ("drops", "connect")} | {
    "loading_s": 9
}


def page(**documents):
    return list(report.render(documents))


def test_a_part_that_was_not_measured_is_named_and_has_no_section():
    lines = page(gke=GKE)
    assert "- `check` was not measured in this run." in lines
    assert "- `gke` was not measured in this run." not in lines
    assert "## create-cluster on gke" in lines
    assert "## The gates" not in lines


def test_a_figure_that_misses_its_goal_stands_first_and_in_the_table():
    lines = page(check=CHECK)
    assert "- `provisioner features` (median): 300 ms, wanted 250." in lines[: lines.index("## Goals")]
    assert "| `provisioner features` (median) | 300 ms | ≤ 250 ms | **no** |" in lines


def test_the_tracer_has_its_goal_and_its_section():
    lines = page(trace=TRACE)
    assert "| `trace drops`: from the command to its first line (median) | 2.5 s | ≤ 3 s | yes |" in lines
    assert "| `trace connect`, killed by SIGKILL, to nothing left | 1.0 s | 2.5 s | 4.0 s |" in lines


def test_the_documents_are_read_from_a_directory_by_their_parts_names(tmp_path, capsys):
    (tmp_path / "bench-gke.json").write_text(json.dumps(GKE))
    (tmp_path / "bench-unheard-of.json").write_text("not JSON")
    report.main([str(tmp_path)])
    assert "| create-cluster on gke, beyond the API's own time (median) | 1.2 s | ≤ 2 s | yes |" in capsys.readouterr().out.splitlines()
