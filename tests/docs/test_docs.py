"""The code in README and docs runs as it is printed, block after block."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from csd_nerf.priors.families import FAMILIES

ROOT = Path(__file__).parent.parent.parent


def python_blocks(page: Path) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL))


def run_blocks(page: Path, **names) -> dict:
    """In a module of their own, whose name a family's entry can give."""
    module = types.ModuleType("code_of_a_page")
    module.__dict__.update(names)
    sys.modules[module.__name__] = module
    try:
        exec(compile(python_blocks(page), str(page), "exec"), module.__dict__)
    finally:
        del sys.modules[module.__name__]
    return module.__dict__


@pytest.fixture(autouse=True)
def _table_of_families_as_it_was():
    before = dict(FAMILIES)
    yield
    FAMILIES.clear()
    FAMILIES.update(before)


def test_the_page_on_extending_runs(tmp_path):
    names = run_blocks(ROOT / "docs" / "extending.md", folder=tmp_path)
    assert names["stage"].state.rounds == 3


def test_the_python_interface_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a.jpg", "b.jpg")):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(name)
    names = run_blocks(ROOT / "README.md")
    assert names["result"].image01.shape == (2, 3, 64, 64)
