"""Edits are files beside the run, which belong to their photographs by name."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from edit_runs import checkpoint_of, message_of, start
from PIL import Image

from csd_nerf.methods.common.edit_scene import rows_by_name
from csd_nerf.methods.common.edits import EditFolder


def extra_of(trainer) -> dict:
    return checkpoint_of(trainer)["pipeline"]["_extra_state"]


def pixels(path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path)))


def all_views(config):
    config.pipeline.datamanager.dataparser.eval_mode = "all"
    return config


@pytest.fixture
def edited(make_config, train):
    """A run that has edited 8 of 12 views, in two rounds."""
    config = all_views(make_config("first"))
    config.pipeline.edit_steps = 4
    config.pipeline.model.camera_optimizer.mode = "SO3xR3"
    return train(config)


@pytest.fixture
def make_second(make_config, edited):
    def make(name="second", **options):
        config = all_views(make_config(name, **options))
        config.pipeline.model.camera_optimizer.mode = "SO3xR3"
        config.load_dir = edited.checkpoint_dir
        return config

    return make


def test_a_checkpoint_names_the_files_and_holds_no_images(edited):
    manager, scene = edited.pipeline.datamanager, extra_of(edited)["scene"]
    folder = edited.base_dir / "edits"
    assert [manager.names[view] for view in sorted(manager.edited)] == [*scene["edits"]]
    assert len(scene["edits"]) == 8
    for view, image in manager.edited.items():
        record = scene["edits"][manager.names[view]]
        path = folder / record["file"]
        assert path.name.startswith(f"images_frame_{view:05d}-")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == record["sha256"]
        assert record["size"] == [48, 48]
        assert torch.equal(pixels(path), image)
    assert len([*folder.iterdir()]) == 8


def test_edits_follow_their_photographs_where_frames_come_and_go(
    tmp_path, dataset, edited, make_second
):
    """Without frame 2, and with a new one after frame 0, all numbers but the first change."""
    data = tmp_path / "changed"
    shutil.copytree(dataset, data)
    content = json.loads((data / "transforms.json").read_text())
    frames = {frame["file_path"]: frame for frame in content["frames"]}
    new = {**frames.pop("images/frame_00002.png"), "file_path": "images/frame_00000_new.png"}
    new["transform_matrix"] = (np.array(new["transform_matrix"]) + np.eye(4)[:, 3:] * 0.1).tolist()
    (data / "images/frame_00002.png").rename(data / new["file_path"])
    content["frames"] = [*frames.values(), new]
    (data / "transforms.json").write_text(json.dumps(content))

    first, before = edited.pipeline, extra_of(edited)["scene"]["edits"]
    pipeline = start(make_second(data=data)).pipeline
    was, now = first.datamanager, pipeline.datamanager
    assert now.names[:3] == [f"images/frame_{n}.png" for n in ("00000", "00000_new", "00001")]
    assert "images/frame_00002.png" in was.names
    for view, name in enumerate(now.names):
        if name in before:
            edit = pixels(edited.base_dir / "edits" / before[name]["file"])
            assert torch.equal(now.edited[view], edit)
        else:
            assert view not in now.edited
            assert torch.equal(now._cached["image"][view] / 255, now.photograph01(view))
    assert len(now.edited) >= 7

    old_of = [was.names.index(name) for name in now.names if name in was.names]
    new_of = [view for view, name in enumerate(now.names) if name in was.names]
    poses = [m.train_dataset.cameras.camera_to_worlds for m in (was, now)]
    assert torch.allclose(poses[0][old_of], poses[1][new_of], atol=1e-5)
    shifts = [p.model.camera_optimizer.pose_adjustment.detach() for p in (first, pipeline)]
    assert torch.equal(shifts[0][old_of], shifts[1][new_of])
    assert shifts[0][old_of].unique(dim=0).shape[0] == 11
    waited = {was.names[view] for view in first.stage.state.waiting} - {"images/frame_00002.png"}
    waits = {now.names[view] for view in pipeline.stage.state.waiting}
    assert waits == {*waited, "images/frame_00000_new.png"}
    told = "\n".join(pipeline.notices)
    assert "1 of the loaded run's photographs are gone, images/frame_00002.png first" in told
    assert "1 photographs are new since the loaded run, images/frame_00000_new.png first" in told
    assert "the optimizers start anew, since the photographs are not those" in told


def test_a_run_with_other_photographs_trains_on(tmp_path, dataset, make_second, train):
    data = tmp_path / "changed"
    shutil.copytree(dataset, data)
    content = json.loads((data / "transforms.json").read_text())
    del content["frames"][5]
    (data / "transforms.json").write_text(json.dumps(content))
    trainer = train(make_second(data=data))
    assert trainer.step == 11
    assert "images/frame_00005.png" not in extra_of(trainer)["scene"]["edits"]


def test_the_same_photographs_leave_no_notice_and_the_poses_as_they_were(edited, make_second):
    pipeline = start(make_second()).pipeline
    assert pipeline.notices == edited.pipeline.notices
    first, second = (p.datamanager.train_dataset.cameras for p in (edited.pipeline, pipeline))
    assert torch.equal(first.camera_to_worlds, second.camera_to_worlds)


def test_a_file_that_is_missing_or_another_ends_in_one_line(edited, make_second):
    path = sorted((edited.base_dir / "edits").iterdir())[0]
    name = f"images/{path.name.split('-')[0].removeprefix('images_')}.png"
    content = path.read_bytes()
    Image.new("RGB", (48, 48)).save(path)
    message = message_of(make_second("other"))
    assert f"The edit of {name} must be as the checkpoint's run wrote it" in message
    assert str(path) in message
    path.unlink()
    message = message_of(make_second("missing"))
    assert f"The checkpoint needs the edit of {name}, got no {path}" in message
    assert "--load-step" in message
    path.write_bytes(content)
    start(make_second("whole"))


def test_a_run_that_goes_on_has_all_its_edits_in_its_own_folder(edited, make_second, train):
    second = train(make_second())
    ours = second.base_dir / "edits"
    records = extra_of(second)["scene"]["edits"]
    assert {path.name for path in ours.iterdir()} == {r["file"] for r in records.values()}
    kept = {record["file"] for record in extra_of(edited)["scene"]["edits"].values()}
    linked = [path for path in ours.iterdir() if path.name in kept]
    assert linked
    assert all(path.samefile(edited.base_dir / "edits" / path.name) for path in linked)
    shutil.rmtree(edited.base_dir / "edits")
    third = make_second("third")
    third.load_dir, third.pipeline.edit_steps = second.checkpoint_dir, 9
    edits = start(third).pipeline.datamanager.edited
    for view, image in second.pipeline.datamanager.edited.items():
        assert torch.equal(edits[view], image)


def test_every_checkpoint_that_is_kept_has_its_edits(make_config, train):
    config = make_config()
    config.pipeline.edit_every, config.pipeline.edit_views = 2, 11
    config.steps_per_save, config.save_only_latest_checkpoint = 2, False
    base = train(config).base_dir
    named = []
    for path in sorted((base / "nerfstudio_models").iterdir()):
        scene = torch.load(path, weights_only=True)["pipeline"]["_extra_state"]["scene"]
        named.append(frozenset(record["file"] for record in scene["edits"].values()))
    assert len({*named}) >= 4
    assert {path.name for path in (base / "edits").iterdir()} == frozenset.union(*named)


def test_checkpoints_of_earlier_releases_hold_images_by_number(edited, make_second):
    (path,) = edited.checkpoint_dir.iterdir()
    state = torch.load(path, weights_only=True)
    extra = state["pipeline"]["_extra_state"]
    edits = {view: image.clone() for view, image in edited.pipeline.datamanager.edited.items()}
    extra["scene"]["edited"] = edits
    extra["stage"]["waiting"] = edited.pipeline.stage.state.waiting
    del extra["scene"]["edits"], extra["views"]
    torch.save(state, path)
    shutil.rmtree(edited.base_dir / "edits")
    pipeline = start(make_second()).pipeline
    assert pipeline.stage.state == edited.pipeline.stage.state
    assert pipeline.datamanager.edited.keys() == edits.keys()
    assert all(torch.equal(pipeline.datamanager.edited[view], edits[view]) for view in edits)


def test_files_of_photographs_differ_and_are_written_once(tmp_path):
    folder = EditFolder(tmp_path / "edits")
    images = [torch.full((4, 5, 3), value, dtype=torch.uint8) for value in (1, 2)]
    images.append(torch.arange(80, dtype=torch.uint8).view(4, 5, 4))
    named = ["left/../a b.jpg", "left/a_b.png", "x" * 300 + "/é.png"]
    records = [folder.write(n, image) for n, image in zip(named, images, strict=True)]
    assert len({record["file"] for record in records}) == 3
    for name, record, image in zip(named, records, images, strict=True):
        assert torch.equal(folder.read(name, record), image)
    assert folder.write(named[0], images[0]) == records[0]
    (tmp_path / "edits" / "mine.png").touch()
    folder.keep_only({records[1]["file"]})
    left = {path.name for path in (tmp_path / "edits").iterdir()}
    assert left == {records[1]["file"], "mine.png"}


def test_rows_go_with_their_names():
    table = torch.tensor([[1.0, 10], [2, 20], [6, 60]])
    rows = rows_by_name(table, ["a", "b", "c"], ["c", "new", "a"])
    assert rows.tolist() == [[6, 60], [3, 30], [1, 10]]
    with pytest.raises(ValueError, match="argument"):
        rows_by_name(table, ["a", "b"], ["a"])
