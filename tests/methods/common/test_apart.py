"""Methods share what is in common/ and nothing else, so that each can change by itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import csd_nerf.methods

FOLDER = Path(csd_nerf.methods.__path__[0])
METHODS = sorted(path.name for path in FOLDER.glob("csd_*"))


def methods_in(text: str) -> set[str]:
    return set(re.findall(r"csd_nerf\.methods\.(csd_\w+)", text))


@pytest.mark.parametrize("room", ["common", *METHODS])
def test_a_method_does_not_use_another(room):
    text = "".join(path.read_text() for path in (FOLDER / room).glob("*.py"))
    assert methods_in(text) <= {room}


def test_the_search_finds_a_method():
    assert METHODS == ["csd_dreamfusion", "csd_edit", "csd_edit_splat"]
    assert methods_in("from csd_nerf.methods.csd_edit import model") == {"csd_edit"}
