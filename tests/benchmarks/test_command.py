from __future__ import annotations

import dataclasses
import subprocess
import sys
from pkgutil import resolve_name

import pytest

from benchmarks import __main__ as command
from benchmarks.engine.trials import Store
from benchmarks.truth.domains import Domain
from benchmarks.truth.settings import DOMAINS
from csd_nerf import priors

SHOW_HELP = """
import sys
from benchmarks.__main__ import main
try:
    main([*sys.argv[1:], "--help"])
except SystemExit as end:
    assert end.code in (0, None), end.code
heavy = {"torch", "nerfstudio", "diffusers", "transformers"} & set(sys.modules)
print("HEAVY", sorted(heavy))
"""


@pytest.mark.parametrize("words", [[], ["truth"], ["text-to-3d"]])
def test_the_help_loads_nothing_heavy(words):
    run = subprocess.run(
        [sys.executable, "-c", SHOW_HELP, *words], capture_output=True, text=True, check=True
    )
    assert "HEAVY []" in run.stdout
    for name in command.COMMANDS if not words else ["--output", "--seeds"]:
        assert name in run.stdout


@pytest.mark.parametrize("kind", command.COMMANDS.values())
def test_each_command_is_its_own_settings(kind):
    assert dataclasses.is_dataclass(kind)
    assert kind.__doc__
    assert callable(kind.run)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_is_found_by_its_entry(name, tmp_path):
    kind = resolve_name(DOMAINS[name])
    assert isinstance(kind(priors.load("tiny"), {}, Store(tmp_path)), Domain)
    assert kind.consistency in {column.key for column in kind.columns}
    assert {"csd", "source"} <= {arm.name for arm in kind.arms}
