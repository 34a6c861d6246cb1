from __future__ import annotations

import dataclasses
import json
import os
import re
import resource
import signal
from types import SimpleNamespace

import pytest
import torch
from edit_runs import checkpoint_of, differences, start
from nerfstudio.engine.trainer import Trainer
from tint_prior import TintPrior

from csd_nerf.core.settings import EditSettings
from csd_nerf.methods.common.terminal import writer
from csd_nerf.scene import stage


def test_a_run_has_both_stages_and_leaves_its_rounds(make_config, train):
    trainer = train(make_config())
    base = trainer.base_dir
    assert trainer.step == 11
    assert [p.name for p in (base / "nerfstudio_models").iterdir()] == ["step-000000011.ckpt"]
    assert [p.name for p in (base / "source_models").iterdir()] == ["step-000000003.ckpt"]
    records = [json.loads(p.read_text()) for p in sorted((base / "rounds").glob("*.json"))]
    assert [record["step"] for record in records] == [4, 7, 10]
    assert all((base / "rounds" / f"round_{i:03d}.png").is_file() for i in range(3))
    views = [view for record in records for view in record["views"]]
    assert len(views) == 12
    assert sorted(set(views)) == list(range(11))
    assert records[0]["prompt"] == "swap red and blue"
    assert records[0]["settings"]["text_scale"] == 1.0
    edits = checkpoint_of(trainer)["pipeline"]["_extra_state"]["scene"]["edits"]
    assert [*edits] == trainer.pipeline.datamanager.names


def records_of(trainer) -> list[dict]:
    paths = sorted((trainer.base_dir / "rounds").glob("*.json"))
    return [json.loads(path.read_text()) for path in paths]


def stage_of(trainer) -> dict:
    return checkpoint_of(trainer)["pipeline"]["_extra_state"]["stage"]


def test_evaluations_are_counted_over_all_rounds(make_config, train):
    config = make_config()
    config.pipeline.edit = EditSettings(iterations=2, text_scale=1.0, image_scale=1.0)
    trainer = train(config)
    counted = [record["metrics"] for record in records_of(trainer)]
    # With these scales two of the five estimates of Eq. 9 have weight zero, a third one too.
    assert [metrics["evaluations"] for metrics in counted] == [4 * 2 * 2] * 3
    assert [metrics["evaluations_so_far"] for metrics in counted] == [16, 32, 48]
    assert stage_of(trainer)["evaluations"] == 48


@pytest.mark.parametrize("update", ["in2n", "ip2p"])
def test_other_updates_train_on_what_they_sampled(make_config, train, update):
    # From a level sigma_t the last step leaves sigma_0 / sigma_t of what a render was wrong by.
    config = make_config()
    config.pipeline.noise_range = (0.9, 0.98)
    config.pipeline.update, config.pipeline.denoising_steps = update, 4
    config.pipeline.edit = EditSettings(text_scale=1.0, image_scale=1.0)
    trainer = train(config)
    done = stage_of(trainer)
    # At these scales Eq. 3 is one estimate: three rounds of four views and steps.
    assert (done["rounds"], done["evaluations"]) == (3, 3 * 4 * 4)
    manager = trainer.pipeline.datamanager
    assert len(manager.edited) == 11
    for view, image in manager.edited.items():
        swapped = manager.photograph01(view).flip(-1)
        # The prior works at 32 pixels squared.
        assert (image / 255 - swapped).abs().mean() < 0.02
        assert (manager.photograph01(view) - swapped).abs().mean() > 0.2
    first = records_of(trainer)[0]
    assert (first["update"], first["metrics"]["evaluations"]) == (update, 16)


def test_rounds_of_one_view_leave_a_report_now_and_then(make_config, train, monkeypatch):
    monkeypatch.setattr(stage, "PICTURE_EVERY", 4)
    config = make_config()
    config.pipeline.update, config.pipeline.denoising_steps = "in2n", 2
    config.pipeline.edit_views = config.pipeline.edit_every = 1
    trainer = train(config)
    assert stage_of(trainer)["rounds"] == 8
    records = records_of(trainer)
    assert [record["step"] for record in records] == [4, 8]
    assert [record["metrics"]["evaluations_so_far"] for record in records] == [6, 30]
    assert [p.name for p in sorted((trainer.base_dir / "rounds").glob("*.png"))] == [
        "round_000.png",
        "round_004.png",
    ]


def test_a_resumed_run_of_in2n_goes_on_to_the_last_bit(make_config, train):
    def config_of(name):
        config = make_config(name)
        config.pipeline.update, config.pipeline.denoising_steps = "in2n", 2
        config.pipeline.edit_views, config.pipeline.edit_every = 1, 2
        return config

    whole = train(config_of("whole"))
    config = config_of("stopped")
    config.max_num_iterations = 7
    stopped = train(config)
    config = config_of("resumed")
    config.load_dir = stopped.checkpoint_dir
    resumed = train(config, seed=99)
    assert stage_of(resumed)["evaluations"] == 4 * 2 * 3
    assert differences(checkpoint_of(whole), checkpoint_of(resumed)) == []


def test_optimizers_start_afresh_when_editing_begins(make_config, train):
    trainer = train(make_config())
    steps = [
        int(state["step"])
        for optimizer in trainer.optimizers.optimizers.values()
        for state in optimizer.state.values()
    ]
    assert steps
    # The proposal networks are not trained at every step.
    assert max(steps) == 8


@pytest.fixture(scope="module")
def uninterrupted() -> dict:
    """Filled with the state at the end of a run that was not stopped."""
    return {}


@pytest.mark.parametrize("steps", [2, 4, 5, 6])
def test_a_resumed_run_goes_on_to_the_last_bit(make_config, train, steps, uninterrupted):
    """Stopped in the source stage, at its end, right after a round, and between two rounds."""
    if not uninterrupted:
        uninterrupted.update(checkpoint_of(train(make_config("whole"))))

    config = make_config("stopped")
    config.max_num_iterations = steps
    stopped = train(config)
    assert stopped.step == steps - 1

    config = make_config("resumed")
    config.load_dir = stopped.checkpoint_dir
    resumed = train(config, seed=99)

    assert differences(uninterrupted, checkpoint_of(resumed)) == []


def signal_at(trainer, when: int, number: int, *, times: int = 1) -> None:
    """Send this process a signal before a step, in the midst of which it arrives."""
    before = trainer.callbacks[-1].func

    def send(trainer, step):
        before(trainer, step)
        for _ in range(times if step == when else 0):
            os.kill(os.getpid(), number)

    trainer.callbacks[-1].func = send


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_can_be_gone_on_with_to_the_last_bit(
    make_config, train, capsys, monkeypatch, number, uninterrupted
):
    if not uninterrupted:
        uninterrupted.update(checkpoint_of(train(make_config("whole"))))
    monkeypatch.setattr("sys.argv", ["ns-train", "csd-edit-tiny", "--data", "fox"])
    stopped = start(make_config("stopped"))
    signal_at(stopped, 5, number)
    with pytest.raises(SystemExit) as ended:
        stopped.train()
    assert ended.value.code == 130
    assert [p.name for p in stopped.checkpoint_dir.iterdir()] == ["step-000000005.ckpt"]
    command = f"ns-train csd-edit-tiny --load-dir {stopped.checkpoint_dir} --data fox"
    assert f"csd-edit: interrupted; go on with: {command}\n" in capsys.readouterr().err
    config = make_config("resumed")
    config.load_dir = stopped.checkpoint_dir
    assert differences(uninterrupted, checkpoint_of(train(config, seed=99))) == []


def test_a_second_ctrl_c_leaves_the_last_checkpoint_as_it_was(make_config, tint_prior, capsys):
    config = make_config()
    config.steps_per_save = 3
    trainer = start(config)
    signal_at(trainer, 5, signal.SIGINT, times=2)
    with pytest.raises(SystemExit) as ended:
        trainer.train()
    assert ended.value.code == 130
    assert [p.name for p in trainer.checkpoint_dir.iterdir()] == ["step-000000003.ckpt"]
    assert f"--load-dir {trainer.checkpoint_dir}" in capsys.readouterr().err


def test_a_full_disk_ends_in_one_line_and_the_last_checkpoint_is_whole(make_config, tint_prior):
    config = make_config()
    config.steps_per_save = 3
    trainer = start(config)
    before = trainer.callbacks[-1].func
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(trainer, step):
        before(trainer, step)
        if step == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))

    trainer.callbacks[-1].func = fill
    try:
        with pytest.raises(SystemExit) as ended:
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = str(ended.value.code)
    assert message.startswith("csd-edit: The checkpoint must be saved, got ")
    assert "\n" not in message
    assert not (trainer.base_dir / "unfinished_checkpoint").exists()
    (kept,) = trainer.checkpoint_dir.iterdir()
    assert kept.name == "step-000000003.ckpt"
    assert torch.load(kept, weights_only=True)["step"] == 3
    assert not [*trainer.base_dir.rglob("*.part*")]


def test_a_folder_that_cannot_be_written_ends_in_one_line(make_config, tmp_path):
    config = make_config()
    (tmp_path / "taken").write_text("a file")
    config.output_dir = tmp_path / "taken"
    with pytest.raises(SystemExit) as ended:
        config.save_config()
    assert re.fullmatch(
        r"csd-edit: Files must be .*taken.*Not a directory.*", str(ended.value.code)
    )


def out_of_memory(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


class Viewer(SimpleNamespace):
    """Stands for nerfstudio's, which shows the panel."""

    def __init__(self) -> None:
        super().__init__(viser_server=None, shown=[])

    def init_scene(self, **_: object) -> None:
        pass

    def update_scene(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("fault", ["memory", "prompt"])
def test_a_round_that_fails_pauses_editing_and_the_run_lives(
    make_config, tint_prior, monkeypatch, capsys, fault
):
    monkeypatch.setattr(Trainer, "_init_viewer_state", lambda _: None)
    monkeypatch.setattr(Trainer, "_update_viewer_state", lambda *_: None)
    trainer = start(make_config())
    trainer.viewer_state = Viewer()
    controls, shown = trainer.pipeline.controls, [""]
    monkeypatch.setattr(controls, "show_failure", shown.append)
    before = trainer.callbacks[-1].func
    usual = (TintPrior.predict, controls._request)

    def at_step(trainer, step):
        if step == 4 and fault == "memory":
            monkeypatch.setattr(TintPrior, "predict", out_of_memory)
        elif step == 4:
            controls._request = dataclasses.replace(usual[1], prompt=" ")
        if step == 8:
            monkeypatch.setattr(TintPrior, "predict", usual[0])
            controls._request, controls.paused = usual[1], False
        before(trainer, step)
        if step == 6:
            assert controls.paused
            assert shown[-1].startswith("A round failed, and editing is paused: ")
        if step == 9:
            assert shown[-1] == ""

    trainer.callbacks[-1].func = at_step
    trainer.train()
    assert trainer.step == 11
    # The round that failed is owed when editing goes on.
    assert [record["step"] for record in records_of(trainer)] == [8, 10]
    told = capsys.readouterr().out
    assert told.count("A round failed") == 1
    assert ("memory" if fault == "memory" else "needs a prompt") in told


def test_without_a_viewer_a_round_that_fails_ends_the_run_saved(
    make_config, tint_prior, monkeypatch
):
    trainer = start(make_config())
    before = trainer.callbacks[-1].func

    def at_step(trainer, step):
        if step == 7:
            monkeypatch.setattr(TintPrior, "predict", out_of_memory)
        before(trainer, step)

    trainer.callbacks[-1].func = at_step
    with pytest.raises(SystemExit) as ended:
        trainer.train()
    message = str(ended.value.code)
    assert message.startswith("csd-edit: The memory must hold one at a time of the model eval")
    assert "\n" not in message
    assert [p.name for p in trainer.checkpoint_dir.iterdir()] == ["step-000000006.ckpt"]


def test_rounds_halve_their_batch_when_memory_runs_out(make_config, train, monkeypatch):
    sizes, plain = [], TintPrior.predict

    def predict(self, branches, timestep, *, max_batch=None):
        if max_batch is None or max_batch > 3:
            out_of_memory()
        sizes.append(max_batch)
        return plain(self, branches, timestep, max_batch=max_batch)

    monkeypatch.setattr(TintPrior, "predict", predict)
    trainer = train(make_config())
    assert sizes
    assert max(sizes) <= 3
    assert trainer.step == 11
    assert any("The memory was not enough" in text for text in records_of(trainer)[1]["notices"])


def test_the_comparison_of_resumed_runs_can_fail(make_config, train):
    first, second = make_config("first"), make_config("second")
    second.pipeline.seed = 1
    found = differences(checkpoint_of(train(first)), checkpoint_of(train(second)))
    assert any("hash_table" in path for path in found)


def test_the_unedited_scene_is_kept_and_can_be_edited_again(make_config, train):
    first = train(make_config("first"))
    config = make_config("second")
    config.load_dir = first.base_dir / "source_models"
    config.pipeline.edit_steps = 5
    second = train(config)
    assert (second._start_step, second.step) == (4, 8)
    assert [p.name for p in sorted((second.base_dir / "rounds").glob("*.png"))] == [
        "round_000.png",
        "round_001.png",
    ]


def test_steps_asked_for_are_steps_trained_in_resumed_runs(make_config, train):
    config = make_config("first")
    config.pipeline.edit_steps = 2
    first = train(config)
    assert first.step == 5

    more = make_config("more")
    more.load_dir = first.checkpoint_dir
    more.pipeline.edit_steps = 5
    second = train(more)
    assert (second._start_step, second.step) == (6, 8)

    done = make_config("done")
    done.load_dir = second.checkpoint_dir
    done.pipeline.edit_steps = 5
    with pytest.raises(SystemExit, match=r"has done its 5 editing steps.*--pipeline.edit-steps"):
        train(done)


def test_steps_and_time_left_count_from_where_editing_began(make_config, train, capsys):
    config = make_config()
    config.pipeline.edit_steps = 17
    config.logging.local_writer.max_log_size = 0
    train(config)
    assert writer.GLOBAL_BUFFER["max_iter"] == 21
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("6 (35.29%)") for line in lines)
    assert any(line.startswith("16 (94.12%)") for line in lines)


def test_editing_waits_while_it_is_paused_and_comes_at_once_when_asked(
    make_config, train, tint_prior
):
    trainer = start(make_config())
    controls = trainer.pipeline.controls
    controls.paused = True
    before, read, steps = trainer.pipeline._before_step, controls.read, []

    def count(trainer, step):
        steps.append(step)
        before(trainer, step)

    def pressed_at_step_6(*, editing):
        return dataclasses.replace(read(editing=editing), edit_now=steps[-1] == 6)

    trainer.callbacks[-1].func, controls.read = count, pressed_at_step_6
    trainer.train()
    (record,) = (trainer.base_dir / "rounds").glob("*.json")
    assert json.loads(record.read_text())["step"] == 6
