from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from csd_nerf.synthetic import dataset
from csd_nerf.synthetic.dataset import SceneSettings, view_cameras, write_dataset
from csd_nerf.synthetic.edits import find_edit
from csd_nerf.synthetic.render import FLOOR, SKY
from csd_nerf.synthetic.scenes import SPLIT_SEEDS, draw_scenes

SPHERE = 0
SIZE, VIEWS = 48, 16


def number_of_scene(*, spheres: bool) -> int:
    """The first benchmark scene that shows nothing but a sphere, or that has no sphere."""
    present = draw_scenes(SPLIT_SEEDS["benchmark"][:60]).present
    alone = present[:, SPHERE] & (present.sum(dim=1) == 1)
    return int((alone if spheres else ~present[:, SPHERE]).nonzero()[0])


SCENE = number_of_scene(spheres=True)
SETTINGS = SceneSettings(scene=SCENE, views=VIEWS, size=SIZE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("data") / "made" / "scene"
    return write_dataset(output, SETTINGS, edit="make the floor lava")


def parse(folder, split):
    """What nerfstudio reads, in the file's own frame and scale."""
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    config = NerfstudioDataParserConfig(
        data=folder,
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
        load_3D_points=False,
    )
    return config.setup().get_dataparser_outputs(split)


def read(path):
    return np.asarray(Image.open(path))


def test_nerfstudio_reads_the_split(folder):
    train, held_out = parse(folder, "train"), parse(folder, "val")
    assert len(train.image_filenames) == 14
    assert [path.name for path in held_out.image_filenames] == ["00004.png", "00012.png"]
    assert not {*train.image_filenames} & {*held_out.image_filenames}
    assert [*parse(folder, "test").image_filenames] == [*held_out.image_filenames]
    assert all(path.is_file() for path in train.image_filenames)
    image = read(train.image_filenames[0])
    assert image.shape == (SIZE, SIZE, 3)
    assert (int(train.cameras.height[0]), int(train.cameras.width[0])) == (SIZE, SIZE)


@pytest.mark.parametrize("split", ["train", "val"])
def test_nerfstudio_s_ray_through_the_sphere_s_pixel_goes_through_the_sphere(folder, split):
    scene = draw_scenes([SPLIT_SEEDS["benchmark"][SCENE]])
    size = float(scene.size[0, SPHERE])
    centre = np.array([*scene.position[0, SPHERE].double().numpy(), size])
    parsed = parse(folder, split)
    for index, path in enumerate(parsed.image_filenames):
        matrix = parsed.cameras.camera_to_worlds[index].double().numpy()
        x, y, z = matrix[:, :3].T @ (centre - matrix[:, 3])
        assert z < 0, "A camera looks along -z."
        column, row = SIZE / 2 + SIZE * x / -z, SIZE / 2 - SIZE * y / -z
        label = read(folder / "labels" / path.name)
        assert label[int(row), int(column)] == SPHERE
        coords = torch.tensor([[row, column]], dtype=torch.float32)
        ray = parsed.cameras.generate_rays(camera_indices=index, coords=coords)
        direction = ray.directions[0].double().numpy()
        offset = centre - ray.origins[0].double().numpy()
        assert np.linalg.norm(np.cross(direction, offset)) < 1e-4
        assert direction @ offset > 0


def test_depth_along_nerfstudio_s_rays_ends_on_the_floor_and_on_the_sphere(folder):
    scene = draw_scenes([SPLIT_SEEDS["benchmark"][SCENE]])
    size = float(scene.size[0, SPHERE])
    centre = torch.tensor([*scene.position[0, SPHERE].tolist(), size])
    parsed = parse(folder, "train")
    # Two rays along each edge: depth belongs to the one right of and below the centre.
    coords = torch.stack(torch.meshgrid(*2 * [torch.arange(SIZE) + 0.75], indexing="ij"), dim=-1)
    for index, path in enumerate(parsed.image_filenames[:3]):
        depth = torch.from_numpy(np.load(folder / "depth" / path.with_suffix(".npy").name))
        label = torch.from_numpy(read(folder / "labels" / path.name).copy())
        ray = parsed.cameras.generate_rays(camera_indices=index, coords=coords)
        point = ray.origins + depth[..., None] * ray.directions
        assert depth.dtype == torch.float32
        assert depth[label == SKY].isinf().all()
        near = (label == FLOOR) & (depth < 20)
        assert near.sum() > 100
        assert point[near][:, 2].abs().max() < 1e-3
        on_sphere = (point[label == SPHERE] - centre).norm(dim=-1)
        torch.testing.assert_close(on_sphere, torch.full_like(on_sphere, size), atol=2e-3, rtol=0)


def test_the_true_edit_has_the_same_names_and_changes_only_the_floor(folder):
    names = sorted(path.name for path in (folder / "images").iterdir())
    assert names == sorted(path.name for path in (folder / "edited").iterdir())
    assert len(names) == VIEWS
    changed = []
    for name in names:
        difference = read(folder / "images" / name) != read(folder / "edited" / name)
        label = read(folder / "labels" / name)
        # A pixel of four rays may see the floor with one and something else with the others.
        elsewhere = label != FLOOR
        inner = elsewhere.copy()
        for axis in (0, 1):
            for step in (-1, 1):
                inner &= np.roll(elsewhere, step, axis)
        assert not difference[inner].any()
        changed.append(difference[~elsewhere].any(axis=-1).mean())
    assert min(changed) > 0.9


def test_the_record_says_what_was_made(folder):
    assert json.loads((folder / "edit.json").read_text()) == {
        "scene": SCENE,
        "split": "benchmark",
        "views": VIEWS,
        "size": SIZE,
        "edit": "floor lava",
        "kind": "floor",
        "instruction": "make the floor lava",
    }


def test_without_an_edit_there_is_only_the_source(tmp_path):
    settings = SceneSettings(views=8, size=16)
    made = write_dataset(tmp_path / "plain", settings)
    assert not (made / "edited").exists()
    assert json.loads((made / "edit.json").read_text())["edit"] is None


def test_a_look_is_recorded_in_words_and_applied(tmp_path):
    made = write_dataset(tmp_path / "look", SceneSettings(views=8, size=16), edit="Negative")
    record = json.loads((made / "edit.json").read_text())
    assert record["instruction"] == find_edit("negative").instructions[0]
    for path in (made / "images").iterdir():
        total = read(path).astype(int) + read(made / "edited" / path.name)
        assert np.abs(total - 255).max() <= 1


def test_the_same_settings_write_the_same_files(tmp_path):
    settings = SceneSettings(views=8, size=16)
    first, second = (write_dataset(tmp_path / n, settings, edit="sepia") for n in "ab")
    for path in sorted(p for p in first.rglob("*") if p.is_file()):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()


def test_cameras_go_round_and_stay_between_the_elevations():
    eye = view_cameras(40).camera_to_world[:, :, 3]
    elevation = torch.rad2deg(torch.asin(eye[:, 2] / eye.norm(dim=-1)))
    assert 10 - 1e-3 < elevation.min() < 12
    assert 40 < elevation.max() < 42 + 1e-3
    azimuth = torch.rad2deg(torch.atan2(eye[:, 1], eye[:, 0])) % 360
    torch.testing.assert_close(azimuth.sort().values, 9.0 * torch.arange(40), atol=1e-3, rtol=0)


SMALL = SceneSettings(views=8, size=16)


def test_an_existing_folder_is_refused_and_kept(tmp_path):
    made = write_dataset(tmp_path / "scene", SMALL)
    with pytest.raises(FileExistsError, match=r"must be a new one, .*/scene exists; .*--overwrite"):
        write_dataset(made, SMALL)
    assert (made / "transforms.json").is_file()
    write_dataset(made, SMALL, edit="night", overwrite=True)
    assert (made / "edited").is_dir()


def test_a_folder_of_somebody_else_is_never_overwritten(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"Only a folder that this command made"):
        write_dataset(tmp_path / "home", SMALL, overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


def test_an_unknown_edit_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="got 'make it a cat'"):
        write_dataset(tmp_path / "scene", SMALL, edit="make it a cat")
    assert not [*tmp_path.iterdir()]


def test_an_edit_of_what_is_not_there_is_refused(tmp_path):
    scene = number_of_scene(spheres=False)
    settings = SceneSettings(scene=scene, views=8, size=16)
    with pytest.raises(ValueError, match=rf"'sphere red' changes nothing in scene {scene} of"):
        write_dataset(tmp_path / "scene", settings, edit="sphere red")
    assert not [*tmp_path.iterdir()]


def test_a_failure_on_the_way_leaves_nothing_new_and_nothing_lost(tmp_path, monkeypatch):
    made = write_dataset(tmp_path / "scene", SMALL)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(dataset, "write_json", full)
    for folder in (made, tmp_path / "other"):
        with pytest.raises(OSError, match="No space"):
            write_dataset(folder, SMALL, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["scene"]
    assert (made / "transforms.json").is_file()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scene": -1}, r"scene must be from 0 to 999999, got -1\."),
        ({"scene": 1_000_000}, r"scene must be from 0 to 999999, got 1000000\."),
        ({"views": 7}, r"views must be at least 8, .*got 7\."),
        ({"size": 8}, r"size must be at least 16 pixels, got 8\."),
    ],
)
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        SceneSettings(**values)
