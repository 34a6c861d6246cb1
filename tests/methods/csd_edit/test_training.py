from __future__ import annotations

import json

import pytest
from edit_runs import checkpoint_of, differences, start

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
    assert set(checkpoint_of(trainer)["pipeline"]["_extra_state"]["scene"]["edited"]) == set(
        range(11)
    )


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


def test_a_button_pressed_in_the_source_stage_is_answered_when_editing_begins(
    make_config, tint_prior
):
    trainer = start(make_config())
    controls = trainer.pipeline.controls
    controls.pause.value = True
    controls.edit_button.cb_hook(controls.edit_button)
    trainer.train()
    (record,) = records_of(trainer)
    assert record["step"] == 4


def test_editing_waits_while_it_is_paused_and_comes_at_once_when_asked(
    make_config, train, tint_prior
):
    trainer = start(make_config())
    controls = trainer.pipeline.controls
    controls.pause.value = True
    before = trainer.pipeline._before_step

    def press_at_step_6(trainer, step):
        if step == 6:
            controls.edit_button.cb_hook(controls.edit_button)
        before(trainer, step)

    trainer.callbacks[-1].func = press_at_step_6
    trainer.train()
    (record,) = (trainer.base_dir / "rounds").glob("*.json")
    assert json.loads(record.read_text())["step"] == 6
