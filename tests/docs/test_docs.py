"""README and docs: their code runs, their commands parse, and what they name is there."""

from __future__ import annotations

import re
import shlex
import sys
import types
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image

from csd_nerf import cli
from csd_nerf.priors.families import FAMILIES

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


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


def test_the_page_on_extending_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a.jpg", "b.jpg")):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(name)
    names = run_blocks(ROOT / "docs" / "extending.md", folder=tmp_path)
    assert names["tinted"].image01.shape == (2, 3, 64, 64)
    # Of three rounds, the last two are undone.
    assert names["stage"].state.rounds == 1
    assert names["stage"].state.evaluations > 0


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) < 1000


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page):
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in headings(target)):
            missing.append(link)
    assert not missing


def commands(page: Path) -> list[list[str]]:
    """The commands in a page's shell blocks, as words, in their order."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def parse(words: list[str]) -> None:
    """Parse a command of ours by the real parser, without running it."""
    if words[0] == "csd-nerf":
        cli.call("csd-nerf", cli.COMMANDS, words[1:], run=lambda _: None)
        return
    (point,) = entry_points(group="nerfstudio.method_configs", name=words[1])
    config = point.load().config
    union = tyro.extras.subcommand_type_from_defaults({words[1]: config, "other": config})
    tyro.cli(
        tyro.conf.SuppressFixed[tyro.conf.FlagConversionOff[union]],
        args=words[1:],
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_parse(page):
    ours = [words for words in commands(page) if words[0] in ("csd-nerf", "ns-train")]
    if page.name == "README.md":
        assert len(ours) > 10
    wrong = []
    for words in ours:
        # An ellipsis stands for what the text around it names.
        try:
            parse([word for word in words if word != "..."])
        except SystemExit as stop:
            if stop.code:
                wrong.append(" ".join(words))
    assert not wrong


def test_a_command_with_a_wrong_option_does_not_parse():
    for line in ("csd-nerf video a.mp4 --outptu b.mp4", "ns-train csd-edit --promt x"):
        with pytest.raises(SystemExit) as stop:
            parse(line.split())
        assert stop.value.code


def test_what_the_readme_s_commands_read_was_made_by_those_before():
    """Or is the reader's own, written in capitals."""
    made: set[str] = set()
    for words in commands(ROOT / "README.md"):
        if words[:2] == ["csd-nerf", "sample"]:
            made.add(words[3])
            continue
        outputs = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--output"]
        for word in words:
            if word.startswith("data/") and word not in outputs:
                folders = {str(parent) for parent in (Path(word), *Path(word).parents)}
                assert folders & made, word
        made.update(outputs)


def test_every_command_and_method_has_a_place_in_the_docs():
    text = "\n".join(page.read_text() for page in PAGES)
    methods = {point.name for point in entry_points(group="nerfstudio.method_configs")}
    names = {f"csd-nerf {name}" for name in cli.COMMANDS}
    names |= {name for name in methods if name.startswith("csd-")}
    assert not {name for name in names if name not in text}
