from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance

from csd_nerf.evaluation.fid import frechet_distance, load_inception


def draw(count: int, width: int, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator)
    return torch.randn(count, width, generator=generator) @ mix + seed


@pytest.mark.parametrize(("counts", "width"), [((40, 30), 6), ((5, 9), 16)])
def test_distance_is_that_of_the_matrix_square_root(counts, width):
    first, second = draw(counts[0], width, seed=1), draw(counts[1], width, seed=2)
    a, b = np.cov(first.double().numpy().T), np.cov(second.double().numpy().T)
    shift = (first.double().mean(0) - second.double().mean(0)).square().sum().item()
    expected = shift + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-8)


class Pooled(torch.nn.Module):
    """Six features an image."""

    def forward(self, images):
        pixels = images.float() / 255
        return torch.cat([pixels.mean(dim=(2, 3)), pixels.std(dim=(2, 3))], dim=1)


def test_distance_is_that_of_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.randint(0, high, (20, 3, 12, 12), generator=generator, dtype=torch.uint8)
        for high in (256, 200)
    )
    reference = FrechetInceptionDistance(feature=Pooled(), input_img_size=(3, 12, 12))
    reference.update(first, real=True)
    reference.update(second, real=False)
    ours = frechet_distance(Pooled()(first), Pooled()(second))
    assert ours == pytest.approx(reference.compute().item(), rel=1e-3)
    assert ours > 1e-2


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="at least 2 images on either side, got 3 and 1"):
        frechet_distance(torch.zeros(3, 4), torch.zeros(1, 4))


def test_missing_weights_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"there is no .*nowhere.pth"):
        load_inception(tmp_path / "nowhere.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def no_network(*args, **kwargs):
        raise OSError("no route\nanywhere")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    with pytest.raises(FileNotFoundError, match="can't be fetched") as raised:
        load_inception()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_files_that_hold_no_weights_are_one_line(tmp_path, content):
    path = tmp_path / "weights.pth"
    if content is None:
        torch.save({"wrong": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="can't be read as such") as raised:
        load_inception(path)
    assert "\n" not in str(raised.value)


def test_features_are_those_of_torch_fidelity_with_the_given_weights(tmp_path, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    torch.manual_seed(0)
    empty = fidelity.FeatureExtractorInceptionV3.load_state_dict
    monkeypatch.setattr(fidelity.torch, "load", lambda *a, **k: {})
    monkeypatch.setattr(
        fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None
    )
    network = fidelity.FeatureExtractorInceptionV3("inception", ["2048"], "unused")
    monkeypatch.undo()
    assert fidelity.FeatureExtractorInceptionV3.load_state_dict is empty
    path = tmp_path / "weights.pth"
    torch.save(network.state_dict(), path)
    pixels = torch.randint(0, 256, (2, 3, 20, 24), dtype=torch.uint8)
    features = load_inception(path)(pixels.float() / 255)
    assert features.shape == (2, 2048)
    torch.testing.assert_close(features, network(pixels)[0])
