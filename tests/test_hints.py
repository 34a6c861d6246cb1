from __future__ import annotations

import os
from pathlib import Path

import pytest

from csd_nerf.hints import check_input, did_you_mean


@pytest.mark.parametrize(
    ("given", "end"),
    [
        ("panoramma", "; did you mean panorama?"),
        ("VIDEO", "; did you mean Video?"),
        ("cat", "."),
        ("", "."),
    ],
)
def test_what_was_probably_meant(given, end):
    assert did_you_mean(given, ["panorama", "Video", "evaluate"]) == end


def message(path: Path, **kinds: bool) -> str:
    with pytest.raises(FileNotFoundError) as failed:
        check_input(path, "The input must be", **kinds)
    return str(failed.value)


def test_a_mistyped_path_names_the_similar_one(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "River.JPG").touch()
    told = message(tmp_path / "pictures" / "rivr.jpg")
    assert told == (
        f"The input must be, got {tmp_path}/pictures/rivr.jpg, which does not exist; did you mean "
        f"{tmp_path}/pictures/River.JPG?"
    )
    # The folder is mistyped.
    told = message(tmp_path / "picturs" / "River.JPG")
    assert told.endswith(f"did you mean {tmp_path}/pictures?")
    assert message(tmp_path / "else").endswith("else, which does not exist.")


def test_a_link_to_nothing_does_not_exist(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    assert "which does not exist" in message(tmp_path / "link.png")


def test_only_files_and_folders_are_inputs(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert message(tmp_path / "pipe").endswith("pipe, which is a pipe or a device.")
    assert message(Path("/dev/zero")).endswith("/dev/zero, which is a pipe or a device.")


def test_files_and_folders_where_the_other_is_needed(tmp_path):
    (tmp_path / "file").touch()
    check_input(tmp_path / "file", "")
    check_input(tmp_path, "")
    assert message(tmp_path / "file", file=False).endswith("which is a file.")
    assert message(tmp_path, folder=False).endswith("which is a folder.")
