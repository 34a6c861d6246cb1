"""What the wheel holds, and that what its metadata and the lock file say is so."""

from __future__ import annotations

import configparser
import importlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
METADATA = "csd_nerf-0.1.0.dist-info"


def tracked_files() -> list[Path]:
    """Files under version control; where there is none (a source archive), nothing to check."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    result = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in result.stdout.split("\0") if name]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel of a copy of the tree, built by the build backend that pyproject.toml names."""
    importlib.import_module("hatchling")
    copy = tmp_path_factory.mktemp("build") / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, copy)
    for name in ("csd_nerf", "benchmarks", "tests", "training"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=copy, check=True
    )
    (path,) = (copy / "dist").iterdir()
    assert path.name == "csd_nerf-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path) as archive:
        yield archive


def entry_points(text: str) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment]
    parser.read_string(text)
    return {section: dict(parser[section]) for section in parser.sections()}


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
    held = {name for name in wheel.namelist() if not name.startswith(METADATA)}
    files = [path for path in (ROOT / "csd_nerf").rglob("*") if path.is_file()]
    wanted = {p.relative_to(ROOT).as_posix() for p in files if "__pycache__" not in p.parts}
    assert held == wanted


def test_the_wheel_holds_the_bundled_prior_and_stays_small(wheel):
    folder = "csd_nerf/assets/tiny"
    sizes = {info.filename: info.file_size for info in wheel.infolist()}
    for name in ("model_index.json", "README.md", "vae/config.json", "tokenizer"):
        assert any(file.startswith(f"{folder}/{name}") for file in sizes), name
    for part in ("unet", "vae", "text_encoder"):
        assert any(re.match(rf"{folder}/{part}/.*\.safetensors", file) for file in sizes), part
    assert sum(size for file, size in sizes.items() if file.startswith(f"{folder}/")) <= 20e6


def test_the_wheel_has_a_licence_and_a_description(wheel):
    assert wheel.read(f"{METADATA}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    text = wheel.read(f"{METADATA}/METADATA").decode()
    python = "Requires-Python: <3.13,>=3.10"
    for line in ("Name: csd_nerf", "License-Expression: Apache-2.0", python):
        assert f"\n{line}\n" in text
    assert (ROOT / "README.md").read_text() in text


def test_every_entry_point_of_the_wheel_leads_somewhere(wheel):
    points = entry_points(wheel.read(f"{METADATA}/entry_points.txt").decode())
    assert set(points["console_scripts"]) == {"csd-nerf"}
    methods = points["nerfstudio.method_configs"]
    assert {"csd-edit", "csd-edit-small", "csd-edit-tiny"} <= set(methods)
    for group in points.values():
        for target in group.values():
            module, attribute = target.split(":")
            assert hasattr(importlib.import_module(module), attribute), target
    for name, target in methods.items():
        module, attribute = target.split(":")
        specification = getattr(importlib.import_module(module), attribute)
        assert specification.config.method_name == name
        assert specification.description


def test_the_installed_package_has_the_entry_points_of_the_source(wheel):
    """An environment that was set up before an entry point was added lacks it."""
    source = entry_points(wheel.read(f"{METADATA}/entry_points.txt").decode())
    installed = importlib.metadata.distribution("csd_nerf").entry_points
    assert {(p.group, p.name, p.value) for p in installed} == {
        (group, name, value) for group, names in source.items() for name, value in names.items()
    }


def locked() -> dict[str, list[str]]:
    """Requirement lines of the lock file by normalised name."""
    lines: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line and not line.startswith("#"):
            lines.setdefault(normalised(Requirement(line).name), []).append(line)
    return lines


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def direct_dependencies() -> list[Requirement]:
    text = (ROOT / "pyproject.toml").read_text()
    lists = re.findall(r"^(?:dependencies|dev) = \[(.*?)\]$", text, re.DOTALL | re.MULTILINE)
    assert len(lists) == 2
    return [Requirement(word) for part in lists for word in re.findall(r'"([^"]+)"', part)]


def test_the_lock_file_pins_exactly_and_names_no_index():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert "--" not in text
    for lines in locked().values():
        for line in lines:
            (pin,) = Requirement(line).specifier
            assert pin.operator == "==", line


def test_the_lock_file_pins_every_direct_dependency_within_its_range():
    pins = locked()
    for dependency in direct_dependencies():
        lines = pins.get(normalised(dependency.name))
        assert lines, f"{dependency} is not locked; run: make lock"
        for line in lines:
            (pin,) = Requirement(line).specifier
            assert dependency.specifier.contains(pin.version), line


MACHINE_PATH = re.compile(rb"(?<![\w.~$}/-])/(?:home|root|Users|work|tmp|mnt|opt)/[\w.-]+")
"""An absolute path into somebody's own folders."""


def test_no_tracked_file_names_a_path_of_somebody_s_machine():
    suspects = {}
    for path in tracked_files():
        if path.is_file() and (found := MACHINE_PATH.findall(path.read_bytes())):
            suspects[path.relative_to(ROOT).as_posix()] = found
    assert suspects == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b'"/home/' + b'ann/data"', True),
        (b"cd /ro" + b"ot/x", True),
        (b"outputs/tmp/x ~/home/x https://a.b/home/x $HOME/work/x", False),
    ],
)
def test_the_check_of_paths_finds_them(text, found):
    assert bool(MACHINE_PATH.search(text)) == found


@pytest.mark.parametrize("name", ["torch", "diffusers", "transformers"])
def test_lower_bounds_are_the_oldest_releases_that_the_lock_file_names(name):
    """Older ones are not tested; some load text encoders without their weights."""
    lines = [Requirement(line) for line in locked()[name]]
    oldest = min(Version(next(iter(line.specifier)).version) for line in lines)
    text = (ROOT / "pyproject.toml").read_text()
    (bound,) = re.findall(rf'"{name}>=([\d.]+)"', text)
    assert bound == f"{oldest.major}.{oldest.minor}"
