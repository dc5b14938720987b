"""The benchmarks run, and what they time is right: they compare every score with that of a loop."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_benchmark_of_the_metrics_runs(tmp_path: Path) -> None:
    options = ["--batch", "2", "--size", "16", "--samples", "4", "--rounds", "1", "--threads", "1"]
    command = [sys.executable, ROOT / "benchmarks/metrics.py", *options, "--out", tmp_path / "out.json"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads((tmp_path / "out.json").read_text())["ms_per_image"]
    assert [row["maps"] for row in rows] == ["lesions", "noise", "street"]
    assert all(row["numpy"] > 0 and row["ged"] > 0 for row in rows)
    assert "street" in run.stdout
