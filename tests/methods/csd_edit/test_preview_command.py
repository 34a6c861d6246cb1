"""What `csd-nerf preview` writes, keeps, resumes and refuses."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edit_runs import write_dataset
from PIL import Image

from csd_nerf import cli, priors
from csd_nerf.methods.preview import sweep
from csd_nerf.methods.preview.cells import plan_cells
from csd_nerf.methods.preview.options import PreviewSettings
from csd_nerf.methods.preview.photographs import choose_views
from csd_nerf.scene.stage import RoundError

QUICK = ("--method", "csd-edit-tiny", "--iterations", "1", "--edit-size", "32", "--views", "2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "scene")


@pytest.fixture
def run(data, tmp_path, capsys):
    def run(*words: object, output: str = "out") -> tuple[int, str]:
        """Exit code and what went to stderr."""
        code = 0
        usual = [] if "--data" in words else ["--data", data]
        given = ["preview", *usual, "--output", tmp_path / output, *QUICK, *words]
        try:
            cli.main([str(word) for word in given])
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().err

    return run


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "preview.json").read_text())


def in_page(folder: Path) -> dict[str, Any]:
    """The record that the page holds."""
    page = (folder / "preview.html").read_text()
    (found,) = re.findall(r'<script type="application/json" id="preview">(.*)</script>', page)
    return json.loads(found)


def test_a_preview_has_a_record_a_page_and_a_sheet(run, tmp_path):
    code, told = run("--prompt", "make it </script> night", "--text-scale", 1, 3)
    assert code == 0
    folder = tmp_path / "out"
    found = record(folder)
    assert in_page(folder) == found
    assert {path.name for path in folder.iterdir()} == {
        *("preview.json", "preview.html", "sheet.png", "cells")
    }
    assert (found["state"], found["total"], len(found["cells"])) == ("finished", 2, 2)
    assert (found["method"], found["prior"]) == ("csd-edit-tiny", "tiny")
    # The bundled prior doesn't know this one, which both are told.
    assert "note: " in told
    assert len(found["notices"]) == 1
    for cell in found["cells"]:
        assert cell["seconds"] > 0
        assert cell["evaluations"] > 0
        assert cell["change_from_source"] == pytest.approx(np.mean(cell["changes"]), abs=1e-4)
        assert all((folder / name).is_file() for name in cell["pictures"])
    # The source and two columns, two rows.
    sheet = Image.open(folder / "sheet.png")
    assert sheet.width > 3 * 224 > sheet.width - 224
    assert sheet.height > 2 * 224 > sheet.height - 224


def test_the_sheet_shows_each_picture_in_its_place(run, tmp_path, monkeypatch):
    """Pictures of one colour each: by seed, prompt, scale and view."""

    def flat(folder: Path, name: str, image: Any) -> str:
        place = folder / "cells" / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        colours[f"cells/{name}.png"] = tuple(
            np.random.default_rng(len(colours)).integers(0, 250, 3)
        )
        Image.new("RGB", image.shape[1::-1], colours[f"cells/{name}.png"]).save(place)
        return f"cells/{name}.png"

    colours: dict[str, Any] = {}
    monkeypatch.setattr(sweep, "save_picture", flat)
    scales = ("--text-scale", 3, 1, "--image-scale", 1, 1.5)
    run("--prompt", "make it night", "--prompt", "swap red and blue", *scales, "--seeds", 2)
    found = record(tmp_path / "out")
    sheet = np.asarray(Image.open(tmp_path / "out/sheet.png"))

    def centre(name: str) -> tuple[float, float]:
        y, x = np.nonzero((sheet == colours[name]).all(-1))
        assert len(y) == 224 * 224
        return y.mean(), x.mean()

    def at(**wanted: Any) -> dict[str, Any]:
        (cell,) = [c for c in found["cells"] if all(c[k] == v for k, v in wanted.items())]
        return cell

    one = {"prompt": "make it night", "text_scale": 1, "image_scale": 1, "seed": 0}
    y, x = centre(at(**one)["pictures"][0])
    for changes, down, across in (
        ({"image_scale": 1.5}, 0, 1),
        ({"text_scale": 3}, 0, 2),
        ({"seed": 1}, 2, 0),
    ):
        other_y, other_x = centre(at(**{**one, **changes})["pictures"][0])
        assert (other_y - y, other_x - x) == (down * 230, across * 230)
    below, same = centre(at(**one)["pictures"][1])
    assert (below - y, same - x) == (230, 0)
    # The tables of prompts are alike, here side by side: each row is high.
    beside_y, beside_x = centre(at(**{**one, "prompt": "swap red and blue"})["pictures"][0])
    assert beside_y == y
    assert beside_x - x > 5 * 230


def test_cells_appear_as_they_are_done(run, tmp_path, monkeypatch):
    folder, seen = tmp_path / "out", []
    plain = sweep.first_round

    def watched(*arguments: Any, **options: Any) -> Any:
        found = in_page(folder)
        seen.append((found["state"], len(found["cells"]), found["seconds_left"] is not None))
        return plain(*arguments, **options)

    monkeypatch.setattr(sweep, "first_round", watched)
    assert run("--prompt", "make it night", "--seeds", 3)[0] == 0
    assert seen == [("running", 0, False), ("running", 1, True), ("running", 2, True)]


def test_an_interrupted_preview_keeps_what_is_done_and_goes_on(run, tmp_path, monkeypatch):
    folder, plain = tmp_path / "out", sweep.first_round
    rounds: list[Any] = []

    def stopping(scene: Any, options: Any, **others: Any) -> Any:
        if len(rounds) == 2:
            raise KeyboardInterrupt
        rounds.append(options)
        return plain(scene, options, **others)

    monkeypatch.setattr(sweep, "first_round", stopping)
    words = ("--prompt", "make it night", "--text-scale", 1, 2, "--seeds", 2)
    code, told = run(*words)
    assert (code, "--resume goes on" in told) == (130, True)
    assert (record(folder)["state"], len(record(folder)["cells"])) == ("interrupted", 2)
    assert (folder / "sheet.png").is_file()
    rounds.clear()
    done = {path: path.stat().st_mtime_ns for path in (folder / "cells").glob("make*")}
    assert len(done) == 4
    monkeypatch.setattr(
        sweep, "first_round", lambda s, o, **k: (rounds.append(o), plain(s, o, **k))[1]
    )
    assert run(*words, "--resume")[0] == 0
    assert [o.seed for o in rounds] == [1, 1]
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    whole, again = record(folder), run(*words, output="other")
    assert again[0] == 0
    for one, other in zip(whole["cells"], record(tmp_path / "other")["cells"], strict=True):
        assert one["changes"] == other["changes"]
    # More may be asked for, less may not, and nothing is done twice.
    rounds.clear()
    assert run(*words, "--prompt", "swap red and blue", "--resume")[0] == 0
    assert [o.prompt for o in rounds] == ["swap red and blue"] * 4
    code, told = run("--prompt", "make it night", "--resume")
    assert (code, "--resume needs at least the cells of" in told) == (1, True)
    code, told = run(*words, "--resume", "--view", "frame_00003.png")
    assert (code, "got other photographs, views" in told) == (1, True)


def test_a_cell_that_fails_is_told_and_tried_again(run, tmp_path, monkeypatch):
    plain = sweep.first_round

    def failing(scene: Any, options: Any, **others: Any) -> Any:
        if options.edit.text_scale == 2:
            raise RoundError("Images need to be finite, got nan.")
        return plain(scene, options, **others)

    words = ("--prompt", "make it night", "--text-scale", 1, 2, 3)
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "first_round", failing)
        code, told = run(*words)
    assert code == 1
    assert "Images need to be finite" in told
    assert told.endswith("preview: 1 of 3 cells failed.\n")
    found = record(tmp_path / "out")["cells"]
    assert [cell.get("error") for cell in found] == [
        None,
        "Images need to be finite, got nan.",
        None,
    ]
    assert run(*words, "--resume")[0] == 0
    assert all("pictures" in cell for cell in record(tmp_path / "out")["cells"])


def test_only_a_preview_is_replaced(run, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    code, told = run("--prompt", "make it night", "--overwrite")
    assert (code, "or that of a preview" in told) == (1, True)
    (folder / "mine.txt").unlink()
    assert run("--prompt", "make it night")[0] == 0
    (folder / "mine.txt").write_text("mine")
    code, told = run("--prompt", "make it night")
    assert (code, "pass --resume to go on with it, --overwrite" in told) == (1, True)
    before = {path.name for path in (folder / "cells").iterdir()}
    assert run("--prompt", "swap red and blue", "--overwrite")[0] == 0
    assert (folder / "mine.txt").read_text() == "mine"
    assert not before & {p.name for p in (folder / "cells").iterdir() if "source" not in p.name}


def test_the_prior_is_loaded_once(run, monkeypatch):
    names, plain = [], priors.load

    def load(name: str, **options: Any) -> Any:
        names.append(name)
        return plain(name, **options)

    monkeypatch.setattr(priors, "load", load)
    assert run("--prompt", "make it night", "--text-scale", 1, 2, "--seeds", 2)[0] == 0
    assert names == ["tiny"]


MISTAKES = {
    "--prompt": '--prompt needs an instruction, got " "',
    "--prompt a --prompt a": "--prompt needs each value once, got a twice.",
    "--prompt a --text-scale 1 2 1": "--text-scale needs each value once, got 1.0 twice.",
    "--prompt a --seeds 0": "--seeds must be at least 1, got 0.",
    "--prompt a --resume --overwrite": "A preview is resumed or replaced, got both",
    "--prompt a --view frame_00099.png": "--view must name one photograph, got frame_00099.png",
    "--prompt a --residual dds": "needs a description of the photographs",
    "--prompt a --text-scale nan": "--text-scale must be finite, got (nan,).",
    "--prompt a --prior nowhere/at-all": "The option is --prior.",
    "--prompt a -- --pipeline.seed 4": "--seed of a cell must be what ns-train takes, got 0",
    "--prompt a --text-scale 2 -- --pipeline.edit.text-scale 4": "got 2.0, for which it takes 4.0",
    "--prompt a -- --load-dir x": "A preview edits photographs, not a run",
    "--prompt a -- --pipeline.region 0,0,0,1,1,1": "--pipeline.region can't be a box in a preview",
    "--prompt a --method csd-edit": "--machine.device-type is cuda",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_end_in_one_line(run, words, tmp_path):
    given = [*words.split(" "), " "] if words == "--prompt" else words.split(" ")
    code, told = run(*given)
    if words == "--prompt":
        assert "--prompt needs an instruction, got ' '" in told
    else:
        assert MISTAKES[words] in told
    assert code == 1
    assert told.count("\n") == 1, told
    assert not (tmp_path / "out/preview.json").exists()


def test_data_that_are_not_there_are_told_of(run, tmp_path):
    (tmp_path / "empty").mkdir()
    code, told = run("--data", tmp_path / "empty", "--prompt", "a")
    assert (code, "A folder of pictures needs some (.png" in told) == (1, True)
    code, told = run("--data", tmp_path / "absent", "--prompt", "a")
    assert (code, "which does not exist" in told) == (1, True)


def test_a_cell_s_command_is_quoted_for_a_shell():
    settings = PreviewSettings(data=(Path("my data"),), prompt=('it\'s "snow"; rm',), seeds=1)
    (cell,) = plan_cells(settings, None)
    assert tuple(shlex.split(cell.command)) == ("ns-train", *cell.words)
    assert cell.options.prompt == 'it\'s "snow"; rm'


def test_another_prior_brings_its_numbers_and_is_labelled_with_them():
    settings = PreviewSettings(
        data=(Path("x"),), prompt=("a",), method="csd-edit-tiny", prior="instruct-pix2pix"
    )
    (cell,) = plan_cells(settings, None)
    assert (cell.text_scale, cell.image_scale) == (
        cell.options.edit.text_scale,
        cell.options.edit.image_scale,
    )
    assert cell.options.prior == "instruct-pix2pix"
    assert cell.text_scale > 1


@pytest.mark.parametrize(
    ("count", "total", "views"),
    [(3, 9, [0, 3, 6]), (1, 5, [0]), (4, 4, [0, 1, 2, 3]), (9, 3, [0, 1, 2]), (2, 5, [0, 2])],
)
def test_views_are_evenly_spaced(count, total, views):
    assert choose_views([f"{n}" for n in range(total)], count=count, wanted=()) == views


def test_views_are_found_by_the_ends_of_their_names():
    names = ["a/1.png", "a/2.png", "b/2.png"]
    assert choose_views(names, count=1, wanted=("b/2.png", "1.png")) == [0, 2]
    with pytest.raises(ValueError, match=r"got 2\.png, 2 training views; give more of its path"):
        choose_views(names, count=1, wanted=("2.png",))
    with pytest.raises(ValueError, match=r"no training view; did you mean 2\.png\?"):
        choose_views(names, count=1, wanted=("2.jpg",))
