from __future__ import annotations

import json
from pathlib import Path

import pytest

from csd_nerf.media.files import folder_written_whole, write_json, write_text, written_whole


def test_a_file_is_there_whole_or_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "before")

    def fail():
        with written_whole(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_text() == "before\n"
    assert [*tmp_path.iterdir()] == [path]


def test_json_has_one_line_break_at_its_end_and_paths_as_texts(tmp_path):
    write_json(tmp_path / "a.json", {"folder": Path("a") / "b", "rows": [1, 2.5, None]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"folder": "a/b", "rows": [1, 2.5, None]}
    assert text.endswith("}\n")


def write(folder: Path, *names: str, replacing: str | None = None, fails: bool = False) -> None:
    with folder_written_whole(folder, replacing=replacing) as temporary:
        for name in names:
            (temporary / name).write_text("new")
        if fails:
            raise RuntimeError("stop")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_takes_the_place_of_an_earlier_one(tmp_path):
    folder = tmp_path / "deep" / "folder"
    write(folder, "1.png", "2.png")
    write(folder, "3.png")
    assert names(folder) == ["3.png"]
    assert names(folder.parent) == ["folder"]


def test_a_folder_keeps_files_that_are_not_to_be_replaced(tmp_path):
    folder = tmp_path / "folder"
    write(folder, "1.png", "notes.txt", replacing="*.png")
    write(folder, "2.png", replacing="*.png")
    assert names(folder) == ["2.png", "notes.txt"]


@pytest.mark.parametrize("replacing", [None, "*.png"])
def test_a_folder_that_fails_leaves_what_was_there(tmp_path, replacing):
    folder = tmp_path / "folder"
    write(folder, "1.png")
    with pytest.raises(RuntimeError, match="stop"):
        write(folder, "2.png", replacing=replacing, fails=True)
    assert names(folder) == ["1.png"]
    assert names(tmp_path) == ["folder"]


def test_what_a_killed_run_left_does_not_get_into_the_folder(tmp_path):
    left = tmp_path / ".folder.part"
    left.mkdir()
    (left / "old.png").touch()
    write(tmp_path / "folder", "1.png")
    assert names(tmp_path / "folder") == ["1.png"]
