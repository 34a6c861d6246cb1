from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from csd_nerf.evaluation.similarity import Lpips, frame_lpips, load_lpips, psnr, ssim


def images(n: int, height: int = 40, width: int = 56, *, seed: int = 0) -> torch.Tensor:
    """Noise with some structure."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, height // 8, width // 8, generator=generator)
    fine = torch.rand(n, 3, height, width, generator=generator)
    return 0.7 * torch.nn.functional.interpolate(coarse, (height, width)) + 0.3 * fine


def random_lpips() -> Lpips:
    import lpips

    torch.manual_seed(0)
    network = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    return Lpips(network.eval(), torch.device("cpu"))


def test_psnr_averages_decibels_over_the_images():
    truth = torch.zeros(2, 3, 4, 4)
    image = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 0.01)])
    assert psnr(image, truth) == pytest.approx((20 + 40) / 2, abs=1e-4)


def test_images_that_equal_the_truth_leave_the_psnr_of_the_others():
    truth = torch.zeros(3, 3, 8, 8)
    image = truth.clone()
    image[1:] += 0.1
    assert psnr(image, truth) == pytest.approx(20)
    assert psnr(truth, truth) == math.inf
    image[0] = math.nan
    assert math.isnan(psnr(image, truth))


def test_ssim_is_that_of_torchmetrics_without_its_mirrored_edges():
    first, second = images(3), images(3, seed=1) * 0.5 + images(3) * 0.5
    _, places = structural_similarity_index_measure(
        first, second, data_range=1.0, return_full_image=True
    )
    assert ssim(first, second) == pytest.approx(places[..., 5:-5, 5:-5].mean().item(), abs=1e-4)
    assert ssim(first, first) == pytest.approx(1, abs=1e-6)


def test_ssim_of_a_wrapped_panorama_is_the_same_wherever_it_is_cut():
    first, second = images(2), images(2, seed=1)
    turned = (first.roll(17, dims=3), second.roll(17, dims=3))
    assert ssim(*turned, wrap=True) == pytest.approx(ssim(first, second, wrap=True), abs=1e-9)
    assert abs(ssim(*turned) - ssim(first, second)) > 1e-4
    _, places = structural_similarity_index_measure(
        *(torch.cat([image] * 3, 3) for image in (first, second)),
        data_range=1.0,
        return_full_image=True,
    )
    around = places[..., 5:-5, 56:-56].mean().item()
    assert ssim(first, second, wrap=True) == pytest.approx(around, abs=1e-4)


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(ValueError, match="at least 11x11 pixels, got 8x40"):
        ssim(images(1, 8, 40), images(1, 8, 40))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lpips_is_that_of_the_lpips_package():
    import lpips

    torch.manual_seed(0)
    reference = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False).eval()
    first, second = images(3), images(3, seed=1)

    def alone(a: torch.Tensor, b: torch.Tensor) -> float:
        """The package's own range is [-1, 1]."""
        return reference(2 * a[None] - 1, 2 * b[None] - 1).item()

    expected = [alone(a, b) for a, b in zip(first, second, strict=True)]
    ours = random_lpips()
    assert min(expected) > 1e-3
    assert ours(first, second).tolist() == pytest.approx(expected, rel=1e-4)
    assert ours(first, first).abs().max() < 1e-6
    between = [alone(first[i], first[i + 1]) for i in (0, 1)]
    assert frame_lpips(ours, first) == pytest.approx(np.mean(between), rel=1e-4)
    with pytest.raises(ValueError, match="at least 32x32 pixels, got 16x40"):
        ours(images(1, 16, 40), images(1, 16, 40))
    with pytest.raises(ValueError, match="needs at least 2, got 1"):
        frame_lpips(ours, first[:1])


def test_missing_weights_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def no_network(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    with pytest.raises(FileNotFoundError, match=r"weights .*alexnet.*can't be fetched") as raised:
        load_lpips()
    assert "\n" not in str(raised.value)
