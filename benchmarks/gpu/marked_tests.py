"""The stage that runs the tests which need a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.bench import Bench, Record

ROOT = Path(__file__).parent.parent.parent
_MARK = "pytest.mark.gpu"
_COUNTED = re.compile(r"(\d+) (passed|failed|skipped|error)")


def marked_files(root: Path = ROOT) -> list[Path]:
    """The files of tests that need a GPU, those with the shortest text first."""
    found = [
        path for path in (root / "tests").rglob("test_*.py") if _MARK in path.read_text("utf8")
    ]
    return sorted(found, key=lambda path: path.stat().st_size)


def gpu_tests(bench: Bench) -> Record:
    """Run the marked tests in a process of their own.

    Raises:
        FileNotFoundError: If there are no tests here.
        RuntimeError: If one fails.
    """
    files = marked_files()[: bench.sizes.test_files]
    if not files:
        raise FileNotFoundError(f"The tests must be in {ROOT / 'tests'}, got none; use a checkout.")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        *map(str, files),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        # The stages after it are worth time, too.
        timeout=max(1.0, bench.seconds_left() / 2),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    (bench.folder / "tests.txt").write_text(done.stdout + done.stderr)
    counts = {kind: int(number) for number, kind in _COUNTED.findall(done.stdout[-500:])}
    if done.returncode not in (0, 5):
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise RuntimeError(f"pytest ended with {done.returncode}: {''.join(last)}; see tests.txt.")
    row = {"files": len(files), "passed": counts.get("passed", 0)}
    return {"rows": [{**row, "skipped": counts.get("skipped", 0)}]}
