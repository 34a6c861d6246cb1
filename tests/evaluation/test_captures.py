from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from csd_nerf.evaluation.captures import read_capture
from csd_nerf.evaluation.cross_view import cross_view_error
from csd_nerf.synthetic.dataset import SceneSettings, write_dataset

LENS = {"fl_x": 4.0, "fl_y": 2.0, "cx": 3.5, "cy": 0.5, "w": 8, "h": 4}


def write(folder, frames, **shared):
    """A capture whose view k looks from (k, 0, 0)."""
    poses = [torch.eye(4) for _ in frames]
    for k, pose in enumerate(poses):
        pose[0, 3] = k
    entries = [
        {"transform_matrix": pose.tolist()} | f for pose, f in zip(poses, frames, strict=True)
    ]
    (folder / "transforms.json").write_text(json.dumps(LENS | shared | {"frames": entries}))


def test_millimetres_along_the_axis_become_distances_along_the_rays(tmp_path):
    """The pixel at (0, 0) lies 3 to the left at a focal length of 4: its ray is 5/4 as long."""
    Image.fromarray(np.full((4, 8), 2000, np.uint16)).save(tmp_path / "0.png")
    np.save(tmp_path / "1.npy", np.full((4, 8, 1), 4000.0))
    files = [
        {"file_path": f"i/{k}", "depth_file_path": f"{k}{s}"} for k, s in ((0, ".png"), (1, ".npy"))
    ]
    write(tmp_path, files)
    views = read_capture(tmp_path).views
    assert views is not None
    for view, depth in ((0, 2.0), (1, 4.0)):
        distance = views.distance(view, (4, 8))
        assert distance[0, 3] == pytest.approx(depth)
        assert distance[0, 0] == pytest.approx(depth * 5 / 4)
        assert distance[2, 3] == pytest.approx(depth * math.sqrt(2))


def test_the_unit_of_depth_can_be_said(tmp_path):
    Image.fromarray(np.full((4, 8), 2000, np.uint16)).save(tmp_path / "0.png")
    write(tmp_path, [{"file_path": "a", "depth_file_path": "0.png"}])
    views = read_capture(tmp_path, depth_unit=0.01).views
    assert views is not None
    assert views.distance(0, (4, 8))[0, 3] == pytest.approx(20.0)


def test_the_lens_is_scaled_to_the_images_and_may_differ_by_frame(tmp_path):
    np.save(tmp_path / "0.npy", np.ones((4, 8)))
    files = [{"file_path": "b"}, {"file_path": "a", "fl_x": 6.0}]
    write(tmp_path, [file | {"depth_file_path": "0.npy"} for file in files])
    capture = read_capture(tmp_path)
    assert capture.views is not None
    assert [path.name for path in capture.images] == ["a", "b"]
    expected = [[12.0, 4.0, 7.0, 1.0], [8.0, 4.0, 7.0, 1.0]]
    assert capture.views.intrinsics((8, 16)).tolist() == expected
    assert capture.views.camera_to_world[:, 0, 3].tolist() == [1, 0]


def test_depth_of_another_size_is_taken_from_the_nearest_pixel(tmp_path):
    np.save(tmp_path / "0.npy", np.array([[1000, 3000]]).repeat(2, axis=0))
    write(tmp_path, [{"file_path": "a", "depth_file_path": "0.npy"}], fl_x=1e9, fl_y=1e9)
    views = read_capture(tmp_path).views
    assert views is not None
    expected = torch.tensor([[1.0, 1, 3, 3]] * 2)
    torch.testing.assert_close(views.distance(0, (2, 4)), expected)


def test_a_synthetic_data_set_agrees_with_itself(tmp_path):
    """Its distances are read as they are, of the right views, with the right poses."""
    folder = write_dataset(tmp_path / "scene", SceneSettings(scene=3, views=48, size=24))
    capture = read_capture(folder)
    assert capture.views is not None
    views = capture.views
    images = [torch.from_numpy(np.array(Image.open(path))) for path in capture.images[:3]]
    image01 = torch.stack(images).permute(0, 3, 1, 2) / 255
    distance = torch.stack([views.distance(k, (24, 24)) for k in range(3)])
    poses, lens = views.camera_to_world[:3], views.intrinsics((24, 24))[:3]
    right = cross_view_error(image01, distance, poses, lens)
    wrong = cross_view_error(image01, distance * 1.2, poses, lens)
    assert right.seen > 0.4
    assert right.error < 0.03
    assert wrong.seen < 0.5 * right.seen


@pytest.mark.parametrize(
    ("shared", "obstacle"),
    [
        ({"k1": 0.01, "p2": 1e-4}, "pinhole cameras, got OPENCV with k1, p2; undistort"),
        ({"camera_model": "OPENCV_FISHEYE"}, "pinhole cameras, got OPENCV_FISHEYE"),
        ({"depth": False}, "a depth_file_path for every frame"),
        ({"fl_y": None}, "it needs fl_y in the source's transforms.json"),
    ],
)
def test_why_views_cannot_be_compared_is_told(tmp_path, shared, obstacle):
    file = {"file_path": "a"} | ({} if "depth" in shared else {"depth_file_path": "0.npy"})
    write(tmp_path, [file], **shared)
    if "fl_y" in shared:
        text = (tmp_path / "transforms.json").read_text().replace('"fl_y": null, ', "")
        (tmp_path / "transforms.json").write_text(text)
    capture = read_capture(tmp_path)
    assert capture.views is None
    assert obstacle in capture.obstacle


@pytest.mark.parametrize("text", ["{", '{"frames": 3}', '{"frames": [{}]}', "[]"])
def test_a_damaged_file_is_told(tmp_path, text):
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(ValueError, match=r"must be a transforms\.json with frames"):
        read_capture(tmp_path)


def test_a_damaged_depth_file_is_told(tmp_path):
    files = [
        ("0.png", ValueError, "Depth must be a picture"),
        ("1.npy", ValueError, "one channel"),
        ("2.png", FileNotFoundError, "does not exist"),
    ]
    (tmp_path / "0.png").write_text("no picture")
    np.save(tmp_path / "1.npy", np.ones((4, 8, 3)))
    write(tmp_path, [{"file_path": name, "depth_file_path": name} for name, _, _ in files])
    views = read_capture(tmp_path).views
    assert views is not None
    for view, (_, kind, message) in enumerate(files):
        with pytest.raises(kind, match=message):
            views.distance(view, (4, 8))
