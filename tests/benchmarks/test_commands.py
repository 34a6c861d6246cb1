"""`python -m benchmarks`: its subcommands are the settings of the experiments."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.__main__ import COMMANDS, main

HEAVY = {"torch", "numpy", "nerfstudio", "diffusers", "transformers"}


@pytest.mark.parametrize("arguments", [["--help"], *([name, "-h"] for name in COMMANDS)], ids=str)
def test_help_loads_no_heavy_library(arguments):
    script = (
        "import sys\nfrom benchmarks.__main__ import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "print('loaded:', *sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert not {*result.stdout.partition("loaded:")[2].split()} & HEAVY


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("paper table1 --output DIR/p --tiny --data DIR", "--tiny makes its own inputs"),
        ("profile --output DIR/p.json --particles 0", "--particles must be at least 1 each"),
        ("user-study --output DIR/s.html --key k.json", "--key and --paper need --summarize"),
    ],
)
def test_a_mistake_ends_in_one_line_and_status_1(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(arguments.replace("DIR", str(tmp_path)).split())
    assert stop.value.code == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"benchmarks: {message}")
    assert told.err.count("\n") == 1
    assert not [*tmp_path.iterdir()]
