from __future__ import annotations

import pytest
import torch

from benchmarks.truth.residuals import Guidance, residuals_at_truth
from csd_nerf.core.schedules import DiscreteSchedule


class BiasedPrior:
    """Its estimates are the noise and a constant that depends on what it is asked."""

    name = "biased"
    schedule = DiscreteSchedule.scaled_linear()
    device = torch.device("cpu")
    latent_channels, cell_size, preferred_size, size_multiple = 3, 2, 32, 2
    source_rows = ("condition",)

    def encode(self, image01):
        return image01[:, :, ::2, ::2]

    def encode_source(self, image01):
        return self.encode(image01), {"condition": self.encode(image01)}

    decode = encoding_tiles = decoding_tiles = free_text_encoder = encode

    def encode_text(self, prompts, image_rows=None):
        return {"text": torch.tensor([float(prompt == "night") for prompt in prompts])}

    def predict(self, branches, timestep, *, max_batch=None):
        return torch.stack([self.estimate(branch, timestep) for branch in branches])

    def estimate(self, branch, timestep):
        at_truth = branch.noisy.mean() > 0
        clean = 1.0 if at_truth else -1.0
        alpha, sigma = self.schedule.alpha(timestep[:1]), self.schedule.sigma(timestep[:1])
        noise = (branch.noisy - alpha * clean) / sigma
        if not at_truth:
            return noise + 0.5
        # Twice the noise with the text, so that a deviation is left.
        return 2 * noise + 0.1 if bool(branch.rows["text"].any()) else noise + 0.3


@pytest.mark.parametrize(("text_scale", "sds_scale"), [(1.0, 1.0), (2.0, 1.0), (1.0, 2.0)])
def test_bias_and_deviation_are_those_of_a_prior_whose_errors_are_known(text_scale, sds_scale):
    truth, source = torch.ones(3, 32, 32), -torch.ones(3, 32, 32)
    rows = residuals_at_truth(
        BiasedPrior(),
        source,
        truth,
        "night",
        {"csd": Guidance(1.0, text_scale), "sds": Guidance(1.0, sds_scale)},
        draws=200,
        levels=(0.2,),
    )
    # What is left of the noise: 1 + w (2 - 1) - 1 = w in both; its mean over 200 draws is 0.07 w.
    for residual, scale, baseline in (("csd", text_scale, 0.5), ("sds", sds_scale, 0.0)):
        bias = 0.3 + scale * (0.1 - 0.3) - baseline
        expected = (bias**2 + scale**2 / 200) ** 0.5
        assert rows[residual]["bias_0.2"] == pytest.approx(expected, rel=0.1)
        assert rows[residual]["deviation_0.2"] == pytest.approx(scale, rel=0.02)
