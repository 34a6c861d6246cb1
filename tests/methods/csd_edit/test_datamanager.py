from __future__ import annotations

import numpy as np
import pytest
import torch
from edit_runs import SIZE, write_dataset
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.pixel_samplers import PixelSamplerConfig
from PIL import Image

from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.csd_edit.datamanager import CSDEditDataManager, CSDEditDataManagerConfig


def open_images(folder, **options) -> CSDEditDataManager:
    """All images of a data set."""
    options = {
        "edit_patch_size": 4,
        "edit_num_rays_per_batch": 160,
        "train_num_rays_per_batch": 64,
        **options,
    }
    parser = NerfstudioDataParserConfig(eval_mode="all")
    config = CSDEditDataManagerConfig(data=folder, dataparser=parser, **options)
    return CSDEditDataManager(config)


def colour(value: int, height: int = SIZE, width: int = SIZE) -> torch.Tensor:
    return torch.full((height, width, 3), value, dtype=torch.uint8)


def test_views_are_those_of_their_cameras(dataset):
    manager = open_images(dataset)
    for view, path in enumerate(manager.train_dataset.image_filenames):
        truth = torch.from_numpy(np.array(Image.open(path))).float() / 255
        assert torch.equal(manager._cached["image"][view] / 255, truth)
        assert torch.equal(manager.photograph01(view), truth)


@pytest.mark.parametrize("editing", [False, True])
def test_edited_images_reach_the_rays_of_their_own_camera(dataset, editing):
    manager = open_images(dataset)
    manager.set_edited({2: colour(200), 7: colour(100)})
    if editing:
        manager.begin_editing()
    seen = set()
    for step in range(40):
        bundle, batch = manager.next_train(step)
        for view in range(manager.num_views):
            pixels = batch["image"][batch["indices"][:, 0] == view]
            seen.add(view) if len(pixels) else None
            if view in (2, 7):
                assert torch.equal(pixels, torch.full_like(pixels, {2: 200, 7: 100}[view] / 255))
            else:
                assert not any((pixel == pixel[0]).all() for pixel in pixels)
        assert torch.equal(bundle.camera_indices[:, 0], batch["indices"][:, 0])
    assert seen == set(range(12))


def test_rays_pass_through_the_pixels_of_their_patch(dataset):
    manager = open_images(dataset)
    manager.begin_editing()
    bundle, batch = manager.next_train(0)
    assert len(bundle) == manager.get_train_rays_per_batch() == 160
    view, y, x = batch["indices"][37]
    whole = manager.train_dataset.cameras.generate_rays(camera_indices=int(view))
    assert torch.allclose(bundle.directions[37], whole.directions[y, x], atol=1e-6)
    assert torch.equal(batch["image"][37], manager.photograph01(int(view))[y, x])


def test_photographs_come_back(dataset):
    manager = open_images(dataset)
    before = manager._cached["image"].clone()
    manager.set_edited({2: colour(200)})
    assert not torch.equal(manager._cached["image"], before)
    assert not torch.equal(manager.photograph01(2) * 255, colour(200).float())
    manager.reset_images()
    assert torch.equal(manager._cached["image"], before)
    assert manager.edited == {}


def test_only_edited_views_are_drawn_when_asked(dataset):
    manager = open_images(dataset, only_edited_views=True)
    manager.begin_editing()
    drawn = {int(v) for step in range(20) for v in manager.next_train(step)[1]["indices"][:, 0]}
    assert drawn == set(range(12))
    manager.set_edited({5: colour(9), 1: colour(8)})
    drawn = {int(v) for step in range(20) for v in manager.next_train(step)[1]["indices"][:, 0]}
    assert drawn == {1, 5}


@pytest.mark.parametrize("editing", [False, True])
def test_masked_pixels_are_never_drawn(tmp_path, editing):
    manager = open_images(write_dataset(tmp_path / "scene", masks=True))
    if editing:
        manager.begin_editing()
    for step in range(20):
        _, y, x = manager.next_train(step)[1]["indices"].unbind(1)
        assert ((y >= 8) & (y < 32) & (x >= 10) & (x < 40)).all()


@pytest.mark.parametrize("editing", [False, True])
def test_pixels_outside_of_a_fisheye_lens_are_never_drawn(dataset, editing):
    manager = open_images(dataset, pixel_sampler=PixelSamplerConfig(fisheye_crop_radius=14.0))
    manager.train_dataset.cameras.metadata = {"fisheye_crop_radius": 14.0}
    manager.setup_train()
    if editing:
        manager.begin_editing()
    far = 0.0
    for step in range(40):
        _, y, x = manager.next_train(step)[1]["indices"].unbind(1)
        far = max(far, float(torch.hypot(y + 0.5 - 24, x + 0.5 - 24).max()))
    assert 10 < far < 14.8


@pytest.mark.parametrize("editing", [False, True])
def test_equirectangular_views_are_drawn_evenly_over_the_sphere(dataset, editing):
    manager = open_images(dataset)
    manager.train_dataset.cameras.camera_type[:] = CameraType.EQUIRECTANGULAR.value
    manager.setup_train()
    if editing:
        manager.begin_editing()
    rows = [manager.next_train(step)[1]["indices"][:, 1] for step in range(200)]
    counts = torch.cat(rows).bincount(minlength=48).float()
    assert counts[20:28].mean() > 2.5 * counts[:8].mean()
    assert counts[20:28].mean() > 2.5 * counts[-8:].mean()


def test_masks_that_the_source_ignores_are_ignored_in_the_editing_stage(tmp_path):
    data = write_dataset(tmp_path / "scene", masks=True)
    manager = open_images(data, pixel_sampler=PixelSamplerConfig(ignore_mask=True))
    manager.begin_editing()
    drawn = torch.cat([manager.next_train(step)[1]["indices"][:, 1:] for step in range(20)])
    assert drawn.amin() == 0
    assert drawn.amax() == 47


def test_images_of_mixed_sizes(tmp_path):
    sizes = [(48, 48), (32, 64), (64, 32), (40, 40)]
    manager = open_images(write_dataset(tmp_path / "scene", sizes=sizes))
    assert isinstance(manager._cached["image"], list)
    for view, size in enumerate(sizes):
        assert tuple(manager._cached["image"][view].shape[:2]) == size
        assert torch.equal(manager._cached["image"][view] / 255, manager.photograph01(view))
    manager.set_edited({1: colour(50, 32, 64)})
    manager.begin_editing()
    drawn = set()
    for step in range(20):
        _, batch = manager.next_train(step)
        for index, pixel in zip(batch["indices"].tolist(), batch["image"], strict=True):
            view, y, x = index
            drawn.add(view)
            assert y < sizes[view][0]
            assert x < sizes[view][1]
            assert torch.equal(pixel, manager._cached["image"][view][y, x] / 255)
    assert drawn == {0, 1, 2, 3}


def test_an_edit_of_another_size_is_refused(dataset):
    manager = open_images(dataset)
    with pytest.raises(MethodError, match="edited image of view 3 has to be as large as its photo"):
        manager.set_edited({3: colour(0, 16, 16)})


@pytest.mark.parametrize("size", [(1920, 1080), (37, 91), (100, 75), (300, 1000)])
def test_large_photographs_and_their_cameras_shrink_alike(tmp_path, size):
    folder = write_dataset(tmp_path / "scene", sizes=[size, size])
    for limit in (32, 50, 90):
        if limit >= max(size):
            continue
        manager = open_images(folder, max_image_size=limit, edit_patch_size=1)
        cameras = manager.train_dataset.cameras
        height, width = manager.photograph01(0).shape[:2]
        assert max(height, width) == limit
        assert (int(cameras.height[0]), int(cameras.width[0])) == (height, width)
        assert manager.eval_dataset.scale_factor == manager.train_dataset.scale_factor


def test_small_photographs_stay_as_they_are(dataset):
    manager = open_images(dataset, max_image_size=64)
    assert manager.photograph01(0).shape == (SIZE, SIZE, 3)
