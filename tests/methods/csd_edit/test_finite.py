"""Numbers that are not finite stop a run, and are never saved."""

from __future__ import annotations

import pytest
import torch

from csd_nerf.methods.common.finite_training import LEAST_SCALE, FiniteTraining


def loss_of(value: float):
    def get_loss_dict(self, outputs, batch, metrics_dict=None):
        return {"rgb_loss": outputs["rgb"].mean() * value}

    return get_loss_dict


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    make_config, tint_prior, monkeypatch, train, value
):
    config = make_config()
    config.steps_per_save = 3
    kind = config.pipeline.model._target
    steps = []
    plain = kind.get_loss_dict

    def get_loss_dict(self, outputs, batch, metrics_dict=None):
        steps.append(None)
        spoilt = loss_of(value) if len(steps) == 6 else plain
        return spoilt(self, outputs, batch, metrics_dict)

    monkeypatch.setattr(kind, "get_loss_dict", get_loss_dict)
    with pytest.raises(SystemExit, match=r"csd-edit: The loss needs .* at step 5; go on from"):
        train(config)
    (checkpoint,) = config.get_checkpoint_dir().glob("*.ckpt")
    assert checkpoint.name == "step-000000003.ckpt"
    state = torch.load(checkpoint, weights_only=True)["pipeline"]
    assert all(v.isfinite().all() for v in state.values() if isinstance(v, torch.Tensor))


def test_a_parameter_that_is_not_finite_is_not_saved(make_config, tint_prior, train, monkeypatch):
    config = make_config()
    trainer_class = config._target
    plain = trainer_class.train_iteration

    def train_iteration(self, step):
        outcome = plain(self, step)
        if step == self._start_step + self.config.max_num_iterations - 1:
            with torch.no_grad():
                next(p for p in self.pipeline.model.parameters() if p.numel()).view(-1)[0] = (
                    torch.nan
                )
        return outcome

    monkeypatch.setattr(trainer_class, "train_iteration", train_iteration)
    with pytest.raises(SystemExit, match=r"Parameters need to be finite, got inf or nan in .*step"):
        train(config)
    assert not list(config.get_checkpoint_dir().glob("*.ckpt"))


class Scaler:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def is_enabled(self) -> bool:
        return True

    def get_scale(self) -> float:
        return self.scale


def test_gradients_that_overflow_at_every_scale_stop_the_run():
    watch = FiniteTraining()
    watch.after_step(6, torch.tensor(1.0), Scaler(2.0))
    with pytest.raises(FloatingPointError, match="overflow at every scale by step 7; add --mixed"):
        watch.after_step(7, torch.tensor(1.0), Scaler(LEAST_SCALE / 2))
