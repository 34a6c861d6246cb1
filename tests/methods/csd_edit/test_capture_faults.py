"""Captures as they come: what is unambiguous is put right, the rest is one line at the start."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edit_runs import SIZE, VIEWS, message_of, start, write_dataset
from PIL import Image

from csd_nerf.media.transforms import read_transforms

Content = dict[str, Any]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "capture")


def change(folder: Path, by: Callable[[Content], None]) -> None:
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    by(content)
    path.write_text(json.dumps(content))


def set_in_frame(key: str, value: Any, *, frame: int = 3) -> Callable[[Path], None]:
    return lambda folder: change(folder, lambda c: c["frames"][frame].__setitem__(key, value))


def drop_in_frame(key: str) -> Callable[[Path], None]:
    return lambda folder: change(folder, lambda c: c["frames"][3].pop(key))


def set_in_file(key: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder, lambda c: c.__setitem__(key, value))


def pose_of(value: float) -> list[list[float]]:
    pose = np.eye(4).tolist()
    pose[1][3] = value
    return pose


def cut(folder: Path) -> None:
    path = folder / "transforms.json"
    path.write_text(path.read_text()[:300])


def not_text(folder: Path) -> None:
    (folder / "transforms.json").write_bytes(b"\xff\xfe\x00{")


def without_picture(folder: Path) -> None:
    (folder / "images/frame_00003.png").unlink()


def no_picture(folder: Path) -> None:
    (folder / "images/frame_00003.png").write_bytes(b"")


def cut_picture(folder: Path) -> None:
    path = folder / "images/frame_00003.png"
    path.write_bytes(path.read_bytes()[:-60])


def small_pictures(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        Image.open(path).resize((SIZE // 2, SIZE // 2)).save(path)


def a_mask_that_is_missing(folder: Path) -> None:
    def by(content: Content) -> None:
        for frame in content["frames"]:
            frame["mask_path"] = frame["file_path"]
        content["frames"][3]["mask_path"] = "none.png"

    change(folder, by)


def one_frame(folder: Path) -> None:
    change(folder, lambda content: content.__setitem__("frames", content["frames"][:1]))


def at_one_place(folder: Path) -> None:
    def by(content: Content) -> None:
        for frame in content["frames"]:
            for row in frame["transform_matrix"][:3]:
                row[3] = 0.0

    change(folder, by)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut, ["must be JSON", "cut off"]),
        (not_text, ["must be JSON"]),
        (set_in_file("frames", []), ["frames", "at least 1"]),
        (set_in_file("frames", "none"), ["frames", "valid list", "'none'"]),
        (lambda f: (f / "transforms.json").write_text("[1]"), ["the whole", "dictionary"]),
        (drop_in_frame("file_path"), ["frame 3.file_path", "required"]),
        (drop_in_frame("transform_matrix"), ["frame 3 (images/frame_00003.png)", "required"]),
        (set_in_frame("transform_matrix", pose_of(float("nan"))), ["_00003", "finite", "'nan'"]),
        (set_in_frame("transform_matrix", pose_of(float("inf"))), ["_00003", "finite"]),
        (set_in_frame("transform_matrix", [[1, 2], [3, 4]]), ["_00003", "at least 4"]),
        (set_in_frame("transform_matrix", None), ["_00003", "valid list"]),
        (drop_in_frame("fl_x"), ["got none as fl_x", "frame_00003.png", "blender-data"]),
        (drop_in_frame("cy"), ["got none as cy"]),
        (set_in_frame("fl_x", float("nan")), ["_00003", "fl_x"]),
        (set_in_frame("fl_y", 0), ["_00003", "fl_y", "greater than 0"]),
        (set_in_frame("h", -4), ["_00003", "h: ", "greater than 0"]),
        (set_in_frame("cx", "wide"), ["_00003", "cx", "'wide'"]),
        (set_in_file("camera_model", "PINHOLES"), ["camera_model", "OPENCV", "'PINHOLES'"]),
        (without_picture, ["images/frame_00003.png, which doesn't", "0 others of 12"]),
        (no_picture, ["frame_00003.png", "picture"]),
        (cut_picture, ["frame_00003.png", "breaks off"]),
        (small_pictures, ["24 x 24 for a camera of 48 x 48", "others", "w and h"]),
        (set_in_frame("w", SIZE + 9), ["48 x 48 for a camera of 57 x 48"]),
        (a_mask_that_is_missing, ["mask_path none.png", "0 others of 12"]),
        (set_in_frame("mask_path", "images/frame_00003.png"), ["1 of 12 frames", "mask_path"]),
        (set_in_file("train_filenames", ["images/moon.png"]), ["train_filenames", "moon.png"]),
        (at_one_place, ["different places", "--auto-scale-poses False"]),
        (one_frame, ["2 training views", "got 1", "csd-nerf panorama"]),
    ],
)
def test_a_fault_is_one_line_before_anything_trains(make_config, tint_prior, capture, spoil, words):
    spoil(capture)
    message = message_of(make_config(data=capture))
    for word in words:
        assert word in message, message


def with_mark(folder: Path) -> None:
    path = folder / "transforms.json"
    path.write_text(path.read_text(), "utf-8-sig")


def names(folder: Path, spell: Callable[[str], str]) -> None:
    def by(content: Content) -> None:
        for frame in content["frames"]:
            frame["file_path"] = spell(frame["file_path"])

    change(folder, by)


def without_last_rows(content: Content) -> None:
    for frame in content["frames"]:
        frame["transform_matrix"] = frame["transform_matrix"][:3]


def without_sizes(content: Content) -> None:
    for frame in content["frames"]:
        del frame["w"], frame["h"]


def with_common_lens(content: Content) -> None:
    first = content["frames"][0]
    content |= {key: first[key] for key in ("fl_x", "fl_y", "cx", "cy", "w", "h")}
    for key in ("fl_x", "fl_y", "cx", "cy"):
        content[key] = 2 * first[key]


@pytest.mark.parametrize(
    ("spoil", "notice"),
    [
        (with_mark, None),
        (lambda f: names(f, lambda n: n.replace("/", "\\")), "12 names of transforms.json read"),
        (lambda f: names(f, lambda n: n.removesuffix(".png")), "images/frame_00000 as images/fr"),
        (lambda f: change(f, without_last_rows), "12 poses of transforms.json completed"),
        (lambda f: change(f, without_sizes), "w and h, which transforms.json lacks"),
        (lambda f: change(f, with_common_lens), "12 frames of transforms.json have another fl_x"),
    ],
)
def test_what_can_be_read_in_one_way_is_put_right_with_a_notice(
    make_config, tint_prior, dataset, capture, capsys, spoil, notice
):
    right = start(make_config("right", data=dataset)).pipeline.datamanager
    spoil(capture)
    found = start(make_config("found", data=capture)).pipeline.datamanager
    assert found.train_dataset.cameras.camera_to_worlds.equal(
        right.train_dataset.cameras.camera_to_worlds
    )
    for key in ("fx", "fy", "cx", "cy", "width", "height"):
        ours, theirs = (getattr(d.train_dataset.cameras, key) for d in (found, right))
        assert torch.equal(ours, theirs), key
    assert len(found.eval_dataset) == len(right.eval_dataset)
    assert torch.equal(found.photograph01(2), right.photograph01(2))
    if notice is not None:
        assert any(notice in text for text in found.notices)
        assert notice[:20] in capsys.readouterr().out


def test_swapped_edges_are_put_right_where_the_principal_point_tells(
    make_config, tint_prior, tmp_path
):
    size = (SIZE, SIZE + 16)
    folder = write_dataset(tmp_path / "wide", sizes=[size] * VIEWS)

    def by(content: Content) -> None:
        for frame in content["frames"]:
            frame["w"], frame["h"] = frame["h"], frame["w"]

    change(folder, by)
    images = start(make_config(data=folder)).pipeline.datamanager
    assert any("swapped" in notice for notice in images.notices)
    assert int(images.train_dataset.cameras.width[0]) == SIZE + 16

    def off_centre(content: Content) -> None:
        for frame in content["frames"]:
            frame["cx"], frame["cy"] = frame["cy"], frame["cx"]

    change(folder, off_centre)
    assert "64 x 48 for a camera of 48 x 64" in message_of(make_config("again", data=folder))


def test_lists_of_splits_are_completed(make_config, tint_prior, capture):
    def by(content: Content) -> None:
        found = [frame["file_path"] for frame in content["frames"]]
        content["train_filenames"], content["val_filenames"] = found[:8], found[8:]

    change(capture, by)
    images = start(make_config(data=capture)).pipeline.datamanager
    assert (images.num_views, len(images.eval_dataset)) == (8, 4)
    assert any("test_filenames" in notice and "val" in notice for notice in images.notices)
    outputs = images.dataparser.get_dataparser_outputs(split="test")
    assert len(outputs.image_filenames) == 4


def test_without_held_out_views_training_views_take_their_place(
    make_config, tint_prior, capture, capsys
):
    def by(content: Content) -> None:
        content["train_filenames"] = [frame["file_path"] for frame in content["frames"]]

    change(capture, by)
    trainer = start(make_config(data=capture))
    images = trainer.pipeline.datamanager
    assert (images.num_views, len(images.eval_dataset)) == (VIEWS, VIEWS)
    assert "no view is held out" in capsys.readouterr().out
    trainer.train()
    records = [json.loads(p.read_text()) for p in (trainer.base_dir / "rounds").glob("*.json")]
    assert records
    assert all(any("no view is held out" in n for n in r["notices"]) for r in records)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_masks_of_every_kind_are_read_alike(make_config, tint_prior, tmp_path, mode):
    folder = write_dataset(tmp_path / "masked", masks=True)
    inside = np.zeros((SIZE, SIZE), bool)
    inside[8:32, 10:40] = True
    for path in (folder / "images").glob("mask_*.png"):
        picture = Image.fromarray(inside.astype(np.uint8) * 255)
        if mode == "I;16":
            picture = Image.fromarray(inside.astype(np.uint16))
        elif mode == "RGBA":
            # White everywhere: only its transparency says what is masked.
            picture = Image.new("RGBA", (SIZE, SIZE), "white")
            picture.putalpha(Image.fromarray(inside.astype(np.uint8) * 255))
        picture = picture if picture.mode == mode else picture.convert(mode)
        picture.save(path)
    images = start(make_config(data=folder)).pipeline.datamanager
    assert torch.equal(images.train_dataset[0]["mask"][..., 0], torch.from_numpy(inside))


def test_masks_without_room_for_a_patch_are_told_at_the_start(make_config, tint_prior, tmp_path):
    folder = write_dataset(tmp_path / "masked", masks=True)
    config = make_config(data=folder)
    config.pipeline.datamanager.edit_patch_size = 26  # The masks have 24 rows.
    config.pipeline.datamanager.edit_num_rays_per_batch = 26**2
    assert "No image has room for a patch of 26 pixels" in message_of(config)
    whole = np.full((SIZE, SIZE), 255, np.uint8)
    for view in range(0, VIEWS, 2):
        Image.fromarray(whole).save(folder / f"images/mask_{view:05d}.png")
    config = make_config("again", data=folder)
    config.pipeline.datamanager.edit_patch_size = 26
    config.pipeline.datamanager.edit_num_rays_per_batch = 26**2
    (notice,) = start(config).pipeline.datamanager.notices
    assert "frame_00001.png first, have no room for a patch of 26 pixels" in notice


def test_a_mask_of_another_size_is_named(make_config, tint_prior, tmp_path):
    folder = write_dataset(tmp_path / "masked", masks=True)
    Image.new("L", (SIZE, SIZE + 4), 255).save(folder / "images/mask_00002.png")
    message = message_of(make_config(data=folder))
    assert "mask_00002.png with 48 x 52" in message
    assert "its photograph, 48 x 48" in message


def test_names_in_lists_of_splits_are_paths(make_config, tint_prior, capture):
    def by(content: Content) -> None:
        found = [frame["file_path"] for frame in content["frames"]]
        content["val_filenames"] = [f"./{name}" for name in found[8:]]

    change(capture, by)
    images = start(make_config(data=capture)).pipeline.datamanager
    assert (images.num_views, len(images.eval_dataset)) == (8, 4)


def test_a_repaired_capture_is_repaired_for_rendering_too(make_config, tint_prior, train, capture):
    """As ns-render does: cameras without pictures first, then with them, by one config."""
    names(capture, lambda name: name.replace("/", "\\"))
    change(capture, without_sizes)
    trainer = train(make_config(data=capture))
    config = trainer.config.pipeline.datamanager
    for mode in ("inference", "test"):
        images = config.setup(device="cpu", test_mode=mode)
        assert int(images.train_dataset.cameras.width[0]) == SIZE
        assert images.train_dataset.image_filenames[1].name == "frame_00001.png"
        assert images.dataparser._pictures == (mode == "test")
    for path in (capture / "images").iterdir():
        path.rename(path.with_suffix(".moved"))
    change(capture, lambda c: [frame.update(w=SIZE, h=SIZE) for frame in c["frames"]])
    assert config.setup(device="cpu", test_mode="inference").num_views > 0


def turned(path: Path) -> None:
    """The same pixels, with an EXIF orientation that turns them by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)


@pytest.mark.parametrize("upright", [True, False])
def test_missing_sizes_of_turned_pictures_are_those_of_their_cameras(
    make_config, tint_prior, tmp_path, upright
):
    height, width = SIZE, SIZE + 16
    folder = write_dataset(tmp_path / "turned", sizes=[(height, width)] * VIEWS)
    for path in (folder / "images").iterdir():
        turned(path)

    def by(content: Content) -> None:
        without_sizes(content)
        for frame in content["frames"]:
            frame["cx"], frame["cy"] = (
                (height / 2, width / 2) if upright else (width / 2, height / 2)
            )

    change(folder, by)
    images = start(make_config("known", data=folder)).pipeline.datamanager
    expected = (width, height) if upright else (height, width)
    assert tuple(images.photograph01(0).shape[:2]) == expected

    def off(content: Content) -> None:
        for frame in content["frames"]:
            frame["cx"] = frame["cy"] = 3.0

    change(folder, off)
    assert "EXIF orientation need w and h" in message_of(make_config("unknown", data=folder))


def test_a_mask_that_lies_where_its_photograph_stands_is_named(make_config, tint_prior, tmp_path):
    height, width = SIZE, SIZE + 16
    folder = write_dataset(tmp_path / "turned", sizes=[(height, width)] * VIEWS)

    def by(content: Content) -> None:
        for frame in content["frames"]:
            frame |= {"w": height, "h": width, "cx": height / 2, "cy": width / 2}
            frame["mask_path"] = "mask.png"

    for path in (folder / "images").iterdir():
        turned(path)
    change(folder, by)
    Image.new("L", (width, height), 255).save(folder / "mask.png")
    assert "as large as its photograph, 48 x 64, got" in message_of(make_config(data=folder))
    Image.new("L", (height, width), 255).save(folder / "mask.png")
    start(make_config("right", data=folder))


def test_a_frame_s_own_distortion_leaves_the_rest_of_the_file_s(tmp_path):
    folder = write_dataset(tmp_path / "bent")

    def by(content: Content) -> None:
        content |= {"k1": 0.1, "k2": 0.2}
        content["frames"][3]["k1"] = 0.3

    change(folder, by)
    frames = read_transforms(folder / "transforms.json").content["frames"]
    assert (frames[3]["k1"], frames[3]["k2"]) == (0.3, 0.2)
    assert (frames[0]["k1"], frames[0]["k2"]) == (0.1, 0.2)
