"""`python -m benchmarks`: its subcommands are the settings of the experiments."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pkgutil import resolve_name

import pytest

from benchmarks.__main__ import COMMANDS, main
from benchmarks.engine.trials import Store
from benchmarks.truth.domains import Domain
from benchmarks.truth.settings import DOMAINS
from csd_nerf import priors

SHOW_HELP = f"""
import sys
from benchmarks.__main__ import main
for words in {[[], *([name] for name in COMMANDS)]}:
    try:
        main([*words, "--help"])
    except SystemExit as end:
        assert not end.code
    print("\\nloaded:", *sys.modules)
"""


def test_the_help_loads_nothing_heavy():
    """One process for all, since each takes a while to start."""
    run = subprocess.run([sys.executable, "-c", SHOW_HELP], capture_output=True, text=True)
    texts = re.split(r"^loaded:(.*)$", run.stdout, flags=re.MULTILINE)
    assert len(texts) == 2 * (1 + len(COMMANDS)) + 1, run.stderr
    for name, text, loaded in zip([None, *COMMANDS], texts[::2], texts[1::2], strict=False):
        heavy = {"torch", "numpy", "nerfstudio", "diffusers", "transformers"}
        assert not heavy & {*loaded.split()}
        for known in ["PATH" if name == "tables" else "--output"] if name else COMMANDS:
            assert known in text


@pytest.mark.parametrize("kind", COMMANDS.values())
def test_each_command_is_its_own_settings(kind):
    assert dataclasses.is_dataclass(kind)
    assert kind.__doc__
    assert callable(kind.run)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_is_found_by_its_entry(name, tmp_path):
    kind = resolve_name(DOMAINS[name])
    assert isinstance(kind(priors.load("tiny"), {}, Store(tmp_path)), Domain)
    assert kind.consistency in {column.key for column in kind.columns}
    assert {kind.baseline, "source"} <= {arm.name for arm in kind.arms}


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
