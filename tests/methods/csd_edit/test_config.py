from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
import yaml
from nerfstudio.plugins.types import MethodSpecification

import csd_nerf.methods.csd_edit as package
from csd_nerf.methods.csd_edit import config as entry
from csd_nerf.priors import precision
from csd_nerf.scene.plan import Rounds

METHODS = {
    "csd-edit": entry.csd_edit,
    "csd-edit-small": entry.csd_edit_small,
    "csd-edit-tiny": entry.csd_edit_tiny,
}
HEAVY = {"diffusers", "transformers", "lpips", "open_clip", "torchmetrics", "open3d"}


@pytest.mark.parametrize("name", METHODS)
def test_methods_carry_their_names(name):
    assert isinstance(METHODS[name], MethodSpecification)
    assert METHODS[name].config.method_name == name


@pytest.mark.parametrize("name", METHODS)
def test_configs_survive_the_yaml_of_a_run(name):
    config = METHODS[name].config
    assert yaml.load(yaml.dump(config), Loader=yaml.Loader) == config


def test_the_paper_preset_is_the_papers():
    pipeline = entry.csd_edit.config.pipeline
    assert (pipeline.source_steps, pipeline.edit_steps) == (30_000, 15_000)
    assert pipeline.rounds == Rounds(every=2_000, views=16)
    assert pipeline.datamanager.edit_patch_size == 32
    assert pipeline.model.lpips_weight > 0
    assert pipeline.prior == "instruct-pix2pix"


@pytest.mark.parametrize("name", ["csd-edit", "csd-edit-small"])
def test_the_source_stage_has_nerfacto_s_optimizers(name):
    from nerfstudio.configs.method_configs import all_methods

    assert METHODS[name].config.optimizers == all_methods["nerfacto"].optimizers


def test_the_small_preset_saves_memory():
    small, full = entry.csd_edit_small.config.pipeline, entry.csd_edit.config.pipeline
    # On its GPU it is half precision, of the kind that suits the model.
    for half, wanted in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        found = precision(small.prior_dtype, device=torch.device("cuda"), half=half)
        assert found == wanted
    assert small.edit.max_batch < full.edit.max_batch


def test_the_viewer_is_open_to_this_machine_alone():
    for method in (entry.csd_edit, entry.csd_edit_small, entry.csd_edit_tiny):
        assert method.config.viewer.websocket_host == "127.0.0.1"


def test_the_tiny_preset_needs_neither_gpu_nor_network_nor_a_person():
    config = entry.csd_edit_tiny.config
    assert config.machine.device_type == "cpu"
    assert not config.mixed_precision
    assert not config.is_viewer_enabled()
    assert config.pipeline.prior == "tiny"
    assert config.pipeline.model.lpips_weight == 0
    assert config.pipeline.model.implementation == "torch"


def test_only_the_tiny_preset_departs_from_the_paper_s_mixing():
    for method in (entry.csd_edit, entry.csd_edit_small, entry.csd_edit_tiny):
        edit = method.config.pipeline.edit
        is_tiny = method.config.method_name == "csd-edit-tiny"
        wanted = ("patch", "independent") if is_tiny else ("stein", "shared")
        assert (edit.mixing, edit.noise) == wanted
        assert edit.source_share == (0.25 if is_tiny else 1.0)


def parsed(name: str, *arguments: str):
    """The config that a command line of ns-train gives."""
    import tyro

    return tyro.cli(
        type(METHODS[name].config),
        default=METHODS[name].config,
        config=(tyro.conf.FlagConversionOff, tyro.conf.SuppressFixed),  # As ns-train has it.
        args=arguments,
    )


@pytest.mark.parametrize("name", METHODS)
def test_naming_in2n_alone_gives_the_published_schedule(name):
    """Haque et al. 2023: a view every 10 steps, 20 denoising steps from 0.02 to 0.98."""
    pipeline = parsed(name, "--pipeline.update", "in2n").pipeline
    assert pipeline.rounds == Rounds(every=10, views=1)
    assert (pipeline.denoising_steps, pipeline.noise_range) == (20, (0.02, 0.98))


@pytest.mark.parametrize("update", ["in2n", "csd", "ip2p"])
def test_a_schedule_that_is_given_wins(update):
    asked = ("--pipeline.edit-every", "7", "--pipeline.edit-views", "3")
    asked += ("--pipeline.noise-range", "0.7", "0.9")
    pipeline = parsed("csd-edit-tiny", "--pipeline.update", update, *asked).pipeline
    assert pipeline.rounds == Rounds(every=7, views=3)
    assert pipeline.noise_range == (0.7, 0.9)
    half = parsed("csd-edit-tiny", "--pipeline.update", update, *asked[:2]).pipeline.rounds
    assert half == Rounds(every=7, views=1 if update == "in2n" else 16)


def test_options_are_found_where_they_are_documented():
    config = parsed(
        "csd-edit-tiny",
        *("--data", "scene", "--pipeline.prompt", "make it snow"),
        *("--pipeline.source-steps", "7", "--pipeline.edit-steps", "9"),
        *("--pipeline.edit.text-scale", "5", "--pipeline.edit.t-range", "0.1", "0.4"),
        *("--pipeline.edit.mixing", "none", "--pipeline.prior-device", "cuda:1"),
        *("--pipeline.edit.source-share", "0.5", "--pipeline.edit.t-order", "falling"),
        *("--pipeline.datamanager.only-edited-views", "True"),
        *("--pipeline.start", "original", "--pipeline.keep-detail", "True"),
        *("--pipeline.update", "in2n", "--pipeline.denoising-steps", "5"),
    )
    pipeline = config.pipeline
    assert (pipeline.prompt, pipeline.source_steps, pipeline.edit_steps) == ("make it snow", 7, 9)
    assert (pipeline.edit.text_scale, pipeline.edit.t_range) == (5.0, (0.1, 0.4))
    assert (pipeline.edit.mixing, pipeline.prior_device) == ("none", "cuda:1")
    assert (pipeline.edit.source_share, pipeline.edit.t_order) == (0.5, "falling")
    assert pipeline.datamanager.only_edited_views
    assert (pipeline.start, pipeline.keep_detail) == ("original", True)
    assert (pipeline.update, pipeline.denoising_steps) == ("in2n", 5)
    assert config.data == Path("scene")


def top_level_imports(source: str) -> set[str]:
    """Packages that a module imports when it is imported itself."""
    imported = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    return imported


def test_importing_the_methods_loads_no_heavy_library():
    """Every ns command imports them, and ends if that fails."""
    for path in Path(package.__path__[0]).glob("*.py"):
        assert not top_level_imports(path.read_text()) & HEAVY, path


def test_the_search_for_imports_can_fail():
    assert top_level_imports("import diffusers.models\nfrom lpips import LPIPS") & HEAVY
