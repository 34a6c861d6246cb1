"""The camera optimizer: nerfacto's in the source stage, none or Instruct-NeRF2NeRF's afterwards."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from edit_runs import checkpoint_of, differences, start

FIRST_EDIT = 4
POSES = "_model.camera_optimizer.pose_adjustment"


@pytest.fixture
def config_of(make_config):
    def make(editing_poses: str, name: str = "run", *, steps: int = 10**9):
        config = make_config(name)
        config.pipeline.model.camera_optimizer.mode = "SO3xR3"
        config.pipeline.model.editing_poses = editing_poses
        config.max_num_iterations = steps
        return config

    return make


def poses_by_step(config) -> list[torch.Tensor]:
    """The poses before every step and after the last one."""
    trainer = start(config)
    found = []
    poses = trainer.pipeline.model.camera_optimizer.pose_adjustment
    train_step = trainer.train_iteration

    def recorded(step):
        found.append(poses.detach().clone())
        return train_step(step)

    trainer.train_iteration = recorded
    trainer.train()
    return [*found, poses.detach().clone()]


def moved(poses: list[torch.Tensor]) -> list[float]:
    """The largest change of each step."""
    return [float((b - a).abs().max()) for a, b in pairwise(poses)]


@pytest.mark.usefixtures("tint_prior")
@pytest.mark.parametrize("editing_poses", ["off", "in2n"])
def test_poses_move_in_the_source_stage_and_then_as_the_option_says(config_of, editing_poses):
    steps = moved(poses_by_step(config_of(editing_poses)))
    assert len(steps) == 12
    # Adam's first step has the length of the rate.
    assert steps[0] == pytest.approx(1e-3, rel=0.01)
    assert min(steps[:FIRST_EDIT]) > 0
    if editing_poses == "off":
        assert max(steps[FIRST_EDIT:]) == 0
    else:
        # The weight decay of 0.01 adds to the gradient, so that Adam's first step stays the rate.
        assert steps[FIRST_EDIT] == pytest.approx(6e-4, rel=0.02)
        assert min(steps[FIRST_EDIT:]) > 0


@pytest.mark.parametrize("editing_poses", ["off", "in2n"])
def test_the_editing_stage_has_an_optimizer_for_poses_only_if_asked(
    config_of, train, editing_poses
):
    trainer = train(config_of(editing_poses))
    group = trainer.optimizers.optimizers.get("camera_opt")
    poses = trainer.pipeline.model.camera_optimizer.pose_adjustment
    assert (group is None) == (editing_poses == "off")
    assert poses.requires_grad == (editing_poses == "in2n")
    if group is None:
        assert poses.grad is None
    else:
        (settings,) = group.param_groups
        assert (settings["weight_decay"], settings["eps"]) == (1e-2, 1e-8)
        # Eight steps on the way from 6e-4 to 6e-6 in 5,000.
        assert settings["lr"] == pytest.approx(6e-4 * (6e-6 / 6e-4) ** (8 / 5000))


@pytest.mark.parametrize("editing_poses", ["off", "in2n"])
@pytest.mark.parametrize("stop", [2, 7])
def test_a_resumed_run_goes_on_to_the_last_bit(config_of, train, editing_poses, stop):
    whole = train(config_of(editing_poses, "whole"))
    stopped = train(config_of(editing_poses, "stopped", steps=stop))
    config = config_of(editing_poses, "resumed")
    config.load_dir = stopped.checkpoint_dir
    resumed = train(config, seed=99)
    assert differences(checkpoint_of(whole), checkpoint_of(resumed)) == []
    assert float(checkpoint_of(whole)["pipeline"][POSES].abs().max()) > 0


@pytest.mark.parametrize(("before", "after"), [("off", "in2n"), ("in2n", "off")])
def test_a_resumed_run_may_choose_otherwise(config_of, train, before, after):
    stopped = train(config_of(before, "stopped", steps=7))
    config = config_of(after, "resumed")
    config.load_dir = stopped.checkpoint_dir
    poses = checkpoint_of(stopped)["pipeline"][POSES]
    later = checkpoint_of(train(config))["pipeline"][POSES]
    assert torch.equal(poses, later) == (after == "off")
