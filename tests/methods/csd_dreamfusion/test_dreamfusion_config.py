"""The presets: the paper's numbers, the command line, and what importing them loads."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import tyro
import yaml
from nerfstudio.plugins.types import MethodSpecification

import csd_nerf.methods.csd_dreamfusion as package
from csd_nerf.methods.csd_dreamfusion import config as entry
from csd_nerf.methods.csd_dreamfusion.trainer import CSDDreamFusionTrainerConfig

METHODS = {
    "csd-dreamfusion": entry.csd_dreamfusion,
    "csd-dreamfusion-tiny": entry.csd_dreamfusion_tiny,
}
HEAVY = {"diffusers", "transformers", "lpips", "open_clip", "pytorch_optimizer", "open3d", "av"}


@pytest.mark.parametrize("name", METHODS)
def test_methods_carry_their_names_and_survive_the_yaml_of_a_run(name):
    method = METHODS[name]
    assert isinstance(method, MethodSpecification)
    assert method.config.method_name == name
    assert yaml.load(yaml.dump(method.config), Loader=yaml.Loader) == method.config


def test_the_full_preset_is_the_papers():
    config = entry.csd_dreamfusion.config
    pipeline = config.pipeline
    assert config.max_num_iterations == 10_000
    assert pipeline.datamanager.train_resolution == 64
    assert pipeline.datamanager.train_images_per_batch == 4
    assert (pipeline.model.kind, pipeline.model.blocks) == ("mlp", 5)
    assert pipeline.prior == "deepfloyd-if"
    assert (pipeline.distill.text_scale, pipeline.distill.kernel) == (20, "lpips")
    optimizer = config.optimizers["fields"]
    assert optimizer["optimizer"].lr == 2e-3
    schedule = optimizer["scheduler"]
    assert (schedule.lr_start, schedule.lr_final, schedule.warmup_steps) == (1e-9, 1e-6, 2000)


def test_what_the_paper_takes_from_stable_dreamfusion_is_theirs():
    """The defaults of main.py of github.com/ashawkey/stable-dreamfusion at 5550b91."""
    config = entry.csd_dreamfusion.config
    pipeline, cameras = config.pipeline, config.pipeline.datamanager
    assert cameras.sampling == "angles"
    # theta_range is counted from the zenith.
    assert tuple(90 - theta for theta in cameras.elevation_range) == (105, 45)
    assert (cameras.radius_range, cameras.fov_range) == ((3.0, 3.5), (10, 30))
    assert (pipeline.shading, pipeline.ambient, pipeline.albedo_steps) == (
        (0, 0.8, 0.2),
        (0.1, 1),
        0,
    )
    # Our losses are sums over the pixels of a view of 64 x 64, theirs means.
    weights = (pipeline.opacity_weight, pipeline.orientation_weight, pipeline.entropy_weight)
    assert [4096 * weight for weight in weights] == pytest.approx([0, 1e-2, 1e-3])
    # min(1, 2 step / iters)
    assert pipeline.entropy_warmup == config.max_num_iterations / 2
    adan = config.optimizers["fields"]["optimizer"]
    assert (adan.eps, adan.weight_decay, adan.max_norm) == (1e-8, 2e-5, 5.0)
    assert adan.betas == (0.98, 0.92, 0.99)


def test_the_viewer_is_open_to_this_machine_alone():
    for method in (entry.csd_dreamfusion, entry.csd_dreamfusion_tiny):
        assert method.config.viewer.websocket_host == "127.0.0.1"


def test_the_tiny_preset_needs_neither_gpu_nor_network_nor_a_person():
    config = entry.csd_dreamfusion_tiny.config
    assert config.machine.device_type == "cpu"
    assert not config.mixed_precision
    assert not config.is_viewer_enabled()
    assert config.pipeline.prior == "tiny-text"
    assert config.pipeline.distill.kernel == "l2"
    assert config.pipeline.model.implementation == "torch"


@pytest.mark.parametrize("name", METHODS)
def test_options_are_found_where_they_are_documented(name):
    arguments = [
        "--pipeline.prompt",
        "a red cube",
        "--pipeline.distillation",
        "sds",
        "--pipeline.num-particles",
        "2",
        "--pipeline.distill.repulsion",
        "500",
        "--optimizers.fields.optimizer.lr",
        "0.5",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = tyro.cli(CSDDreamFusionTrainerConfig, default=METHODS[name].config, args=arguments)
    pipeline = config.pipeline
    assert (pipeline.prompt, pipeline.distillation) == ("a red cube", "sds")
    assert (pipeline.num_particles, pipeline.distill.repulsion) == (2, 500)
    assert config.optimizers["fields"]["optimizer"].lr == 0.5


def test_the_entry_module_loads_nothing_heavy():
    """With what shows that the check can fail, in one process, since one takes a while to start."""
    program = "import sys; print(*sys.modules)".join(
        ("", f"\nimport {package.__name__}.config\n", "\nimport av\n", "")
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    lines = run.stdout.splitlines()
    assert [HEAVY & {*line.split()} for line in lines] == [set(), set(), {"av"}]
