from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData

from csd_nerf.media.files import (
    check_results,
    check_writable,
    folder_written_whole,
    one_writer,
    remove_unfinished,
    unfinished,
    write_json,
    write_text,
    written_whole,
)
from csd_nerf.media.vertices import write_vertices


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


def write(
    folder: Path,
    *names: str,
    replacing: str | None = None,
    marker: str | None = None,
    fails: bool = False,
) -> None:
    with folder_written_whole(folder, replacing=replacing, marker=marker) as temporary:
        for name in names:
            (temporary / name).write_text("new")
        if fails:
            raise RuntimeError("stop")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_takes_the_place_of_an_earlier_one(tmp_path):
    folder = tmp_path / "deep" / "folder"
    write(folder, "1.png", "2.png")
    write(folder, "3.png", marker="1.png")
    assert names(folder) == ["3.png"]
    assert names(folder.parent) == ["folder"]


def test_a_folder_keeps_files_that_are_not_to_be_replaced(tmp_path):
    folder = tmp_path / "folder"
    write(folder, "1.png", "notes.txt", replacing="*.png")
    write(folder, "2.png", replacing="*.png")
    assert names(folder) == ["2.png", "notes.txt"]


@pytest.mark.parametrize("options", [{"marker": "1.png"}, {"replacing": "*.png"}])
def test_a_folder_that_fails_leaves_what_was_there(tmp_path, options):
    folder = tmp_path / "folder"
    write(folder, "1.png")
    with pytest.raises(RuntimeError, match="stop"):
        write(folder, "2.png", **options, fails=True)
    assert names(folder) == ["1.png"]
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("marker", [None, "edit.json"])
def test_a_folder_of_somebodys_is_never_replaced_as_a_whole(tmp_path, marker):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").touch()
    (tmp_path / "file").touch()
    for name in ("folder", "file"):
        with pytest.raises(FileExistsError, match=f"that this command made .* has no {marker}"):
            write(tmp_path / name, "1.png", marker=marker)
    assert names(tmp_path / "folder") == ["mine.txt"]
    assert names(tmp_path) == ["file", "folder"]


def test_what_a_killed_run_left_does_not_get_into_the_folder(tmp_path):
    left = unfinished(tmp_path / "folder")
    left.mkdir()
    (left / "old.png").touch()
    write(tmp_path / "folder", "1.png")
    assert names(tmp_path / "folder") == ["1.png"]


def test_the_unfinished_file_has_a_name_that_is_nobody_elses(tmp_path):
    mine = tmp_path / ".a.part.txt"
    mine.write_text("mine")
    with written_whole(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    with written_whole(tmp_path / "a.txt.txt") as other:
        assert other != temporary
        other.write_text("new")
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("name", ["out", "out.png"])
def test_what_a_killed_run_left_does_not_keep_the_next_from_writing(tmp_path, name):
    path = tmp_path / name
    unfinished(path).mkdir()
    (unfinished(path) / "00000.png").touch()
    check_writable(path)
    remove_unfinished(path)
    assert [*tmp_path.iterdir()] == []


_HOLDS = """
import os, sys
from pathlib import Path
from csd_nerf.media.files import one_writer
with one_writer(Path(sys.argv[1])):
    os._exit(9)
"""


def test_only_one_writes_to_an_output(tmp_path):
    path = tmp_path / "a.png"
    with one_writer(path):
        other = subprocess.run(
            [sys.executable, "-c", _HOLDS, path], capture_output=True, text=True, check=False
        )
        assert "BlockingIOError: Only one run at a time may write to an output, got" in other.stderr
        with one_writer(tmp_path / "b.png"):
            pass
    assert [*tmp_path.iterdir()] == []
    with one_writer(path):
        pass


def test_the_lock_of_a_killed_run_is_free(tmp_path):
    path = tmp_path / "a.png"
    killed = subprocess.run([sys.executable, "-c", _HOLDS, path], check=False)
    assert killed.returncode == 9
    assert len([*tmp_path.iterdir()]) == 1
    with one_writer(path):
        pass
    assert [*tmp_path.iterdir()] == []


def result(folder: Path, *written: str, record: str = '{"runs": 1}') -> None:
    for name in written:
        (folder / name).write_text(record if name == "r.json" else "mine")


def check(folder: Path, *, overwrite: bool, inputs: tuple[Path, ...] = ()) -> None:
    others = [folder / "r.png"]
    fields = {"runs"}
    check_results(folder / "r.json", others, fields=fields, overwrite=overwrite, inputs=inputs)


def test_a_result_is_replaced_only_when_asked_and_when_it_is_ours(tmp_path):
    for overwrite in (False, True):
        check(tmp_path, overwrite=overwrite)
    result(tmp_path, "r.json", "r.png")
    with pytest.raises(FileExistsError, match=r"got .*r.json; pass --overwrite to replace it"):
        check(tmp_path, overwrite=False)
    check(tmp_path, overwrite=True)


@pytest.mark.parametrize("record", [None, "text", "[]", '{"other": 1}'])
def test_files_of_somebody_are_not_replaced_even_when_asked(tmp_path, record):
    result(tmp_path, "r.png", *([] if record is None else ["r.json"]), record=record or "")
    with pytest.raises(FileExistsError, match="Only results of this command are replaced, got"):
        check(tmp_path, overwrite=True)


@pytest.mark.parametrize("name", ["r.json", "r.png"])
def test_an_input_is_never_written(tmp_path, name):
    result(tmp_path, "r.json", "r.png")
    with pytest.raises(ValueError, match=f"must not be a file that is written, got .*{name}"):
        check(tmp_path, overwrite=True, inputs=(tmp_path / "." / name,))


def test_vertices_are_written_in_the_types_that_their_values_have(tmp_path):
    columns = {"x": np.array([0.5, -2], np.float32), "red": np.array([7, 255], np.uint8)}
    write_vertices(tmp_path / "new" / "points.ply", columns)
    found = PlyData.read(str(tmp_path / "new" / "points.ply"))["vertex"]
    assert found.data.dtype.names == ("x", "red")
    for name, values in columns.items():
        assert found[name].dtype == values.dtype
        assert found[name].tolist() == values.tolist()
