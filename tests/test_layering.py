"""Who may enter whom: the rooms of the package, and what importing them loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "csd_nerf"

LIGHT = ("bundled", "numbers", "hints", "json_files")
"""Single modules, which import nothing heavy."""

MAY_ENTER = {
    "bundled": {"synthetic"},
    "numbers": set(),
    "hints": set(),
    "json_files": set(),
    "core": {"core", "numbers"},
    "media": {"media", "json_files"},
    "synthetic": {"synthetic", "hints", "media"},
    "priors": {"priors", "json_files", "core"},
    "editor": {"editor", "core", "priors.base", "priors.banked", "priors.estimates"},
    "distill": {"distill", "core", "priors.base", "priors.estimates"},
    "adapters": {"adapters", *LIGHT, "editor", "priors", "media", "core"},
    "scene": {"scene", "bundled", "numbers", "editor", "priors", "media", "core"},
    "methods": {
        *("methods", *LIGHT, "scene", "editor", "distill", "priors", "media", "core"),
    },
    "evaluation": {
        "evaluation",
        *LIGHT,
        "adapters",
        "synthetic",
        "editor",
        "priors",
        "media",
        "core",
    },
    "__main__": {"cli"},
    "cli": {
        "cli",
        *LIGHT,
        "evaluation",
        "methods.csd_edit_splat.options",
        "methods.preview.options",
        "adapters",
        "synthetic",
        "editor",
        "priors",
        "media",
        "core",
    },
}
"""What each room may import of ours.

Nobody enters methods and cli but by the entry points of nerfstudio and the shell; the command line
knows the options of the door for splats and of the preview alone.
"""

HEAVY = {"nerfstudio", "diffusers", "transformers"}


def all_imports(source: str, package: list[str]) -> set[str]:
    """Dotted names that a module in `package` imports, wherever in its text."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            parent = ".".join([*above, *([node.module] if node.module else [])])
            names |= {f"{parent}.{alias.name}" for alias in node.names}
    return names


def imports_of_ours(source: str, package: list[str]) -> set[str]:
    """What it imports of csd_nerf, as names below it."""
    names = all_imports(source, package)
    return {name.removeprefix("csd_nerf.") for name in names if name.startswith("csd_nerf.")}


def trespasses(room: str, imports: set[str]) -> set[str]:
    allowed = MAY_ENTER[room]
    return {
        name
        for name in imports
        if not any(name == door or name.startswith(f"{door}.") for door in allowed)
    }


OUTSIDE = ("benchmarks", "training")
"""What is not in the wheel; it uses all rooms, and none uses it."""

MODULES = [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py"))]
MODULES.remove(Path("__init__.py"))


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_enters_only_the_rooms_that_it_may(path):
    room = path.with_suffix("").parts[0]
    package = ["csd_nerf", *path.parts[:-1]]
    assert room in MAY_ENTER, f"{path} belongs to no room of the design."
    assert not trespasses(room, imports_of_ours((PACKAGE / path).read_text(), package))


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_the_package_uses_nothing_outside_of_it(path):
    names = all_imports((PACKAGE / path).read_text(), ["csd_nerf"])
    assert not {name for name in names if name.split(".")[0] in OUTSIDE}


@pytest.mark.parametrize("folder", OUTSIDE)
def test_neither_of_the_two_outside_uses_the_other(folder):
    others = {*OUTSIDE} - {folder}
    for path in (PACKAGE.parent / folder).rglob("*.py"):
        names = all_imports(path.read_text(), [folder])
        assert not {name for name in names if name.split(".")[0] in others}, path


@pytest.mark.parametrize(
    ("room", "statement", "found"),
    [
        ("core", "import csd_nerf.priors.base", {"priors.base"}),
        ("core", "from csd_nerf import editor", {"editor"}),
        ("core", "from ..priors import base", {"priors.base"}),
        ("priors", "def late():\n    from csd_nerf.editor import edit", {"editor.edit"}),
        ("editor", "from csd_nerf.priors import load", {"priors.load"}),
        ("evaluation", "from csd_nerf.methods import csd_edit", {"methods.csd_edit"}),
        ("scene", "from csd_nerf.methods.csd_edit import model", {"methods.csd_edit.model"}),
        ("media", "from csd_nerf.adapters import layout", {"adapters.layout"}),
        ("editor", "from csd_nerf.priors.base import Prior", set()),
        ("core", "from .kernels import rbf", set()),
    ],
)
def test_the_check_of_rooms_finds_a_trespass(room, statement, found):
    assert trespasses(room, imports_of_ours(statement, ["csd_nerf", room])) == found


LOADS = {
    "import csd_nerf; dir(csd_nerf)": {"torch", "numpy", "csd_nerf.priors", "csd_nerf.editor"},
    "import csd_nerf.core, csd_nerf.priors.base, csd_nerf.editor": HEAVY,
    "import csd_nerf.priors": {"diffusers", "transformers", "huggingface_hub"},
    "import csd_nerf.scene.stage, csd_nerf.scene.rounds": HEAVY,
}
"""Modules that a fresh process hasn't loaded after each of these statements in turn."""


def modules_loaded_by(*statements: str) -> list[set[str]]:
    """All modules after each statement, in a fresh process, for this one has loaded everything."""
    script = "import sys\n" + "".join(f"{line}\nprint(*sys.modules)\n" for line in statements)
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return [{*line.split()} for line in result.stdout.splitlines()]


def test_importing_the_light_rooms_loads_no_heavy_library():
    """The last statement shows that the check can fail."""
    *found, last = modules_loaded_by(*LOADS, "import transformers")
    assert len(found) == len(LOADS)
    for (statement, absent), loaded in zip(LOADS.items(), found, strict=True):
        assert not absent & loaded, statement
    assert HEAVY & last == {"transformers"}
    # By then all that was to be absent at first is there.
    assert {"torch", "numpy", "csd_nerf.priors", "csd_nerf.editor", "huggingface_hub"} <= last


def test_the_root_of_the_package_exports_what_it_names():
    import csd_nerf
    from csd_nerf import editor, priors

    assert csd_nerf.edit_images is editor.edit_images
    assert csd_nerf.EditSettings is editor.EditSettings
    assert csd_nerf.load is priors.load
    for name in csd_nerf.__all__:
        assert getattr(csd_nerf, name).__module__.startswith("csd_nerf.")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = csd_nerf.nothing
