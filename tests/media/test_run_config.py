from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.optimizers import AdamOptimizerConfig

from csd_nerf.media.run_config import read_run_config

OURS = [
    *("csd-edit", "csd-edit-small", "csd-edit-tiny", "csd-dreamfusion", "csd-dreamfusion-tiny"),
    *("csd-edit-splat", "csd-edit-splat-big", "csd-edit-splat-tiny"),
]
KNOWN = [*OURS, "nerfacto", "nerfacto-big", "instant-ngp", "splatfacto", "depth-nerfacto"]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", KNOWN)
def test_a_config_is_read_as_pyyaml_reads_it(tmp_path, name):
    config = all_methods[name]
    assert read_run_config(written(tmp_path, yaml.dump(config))) == config


RUN = {
    "!!python/object/apply:os.system ['touch RAN']": "os.system",
    "!!python/object/apply:subprocess.run [['touch', 'RAN']]": "subprocess.run",
    "!!python/object/apply:nerfstudio.utils.scripts.run_command ['touch RAN']": "run_command",
    "!!python/object/apply:builtins.exec ['open(1)']": "builtins.exec",
    "!!python/object/new:os.system ['touch RAN']": "new:os.system",
    "!!python/object:subprocess.Popen {args: x}": "subprocess.Popen",
    "!!python/name:os.system ''": "os.system",
    "!!python/name:nerfstudio.utils.scripts.subprocess ''": "scripts.subprocess",
    "!!python/name:nerfstudio.utils.scripts.run_command ''": "run_command",
    "!!python/module:antigravity ''": "module:antigravity",
    "!!python/object/apply:pathlib.Path.touch [RAN]": "pathlib.Path.touch",
    "!!python/object/apply:pathlib.os.system ['touch RAN']": "pathlib.os.system",
    "!!python/object/apply:torch.optim.Adam [[]]": "torch.optim.Adam",
}
"""Values of a field that would run code, or name what could be run later."""


@pytest.mark.parametrize("value", RUN)
def test_code_never_runs_from_a_config(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    text = yaml.dump(AdamOptimizerConfig()).replace("lr: 0.0005", f"lr: {value}")
    assert value in text
    with pytest.raises(ValueError, match=r"only options of nerfstudio and csd_nerf") as refused:
        read_run_config(written(tmp_path, text))
    assert RUN[value].rpartition(":")[2] in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not Path("RAN").exists()


@pytest.mark.parametrize(
    "text",
    [
        "!!python/tuple {a: 1}",
        "a: [",
        "\t",
        "!!python/object:nerfstudio.engine.trainer.Trainers {}",
        "a: &x [*y]",
        "\x00",
    ],
)
def test_a_damaged_config_is_one_line(tmp_path, text):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(f"{path} must be the config")) as refused:
        read_run_config(path)
    assert "\n" not in str(refused.value)


def test_a_config_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"needs its config.yml, got .*, which does not"):
        read_run_config(tmp_path / "config.yml")


def test_configs_of_windows_and_of_older_releases_load(tmp_path):
    config = all_methods["nerfacto"]
    text = yaml.dump(config)
    # A field that came later, at both depths; and one that is gone.
    text = re.sub(r"^mixed_precision: .*\n", "gone_since: 3\n", text, flags=re.M)
    text = re.sub(r"^    use_appearance_embedding: .*\n", "", text, flags=re.M)
    text = text.replace(
        "output_dir: !!python/object/apply:pathlib.PosixPath\n- outputs",
        'output_dir: !!python/object/apply:pathlib.WindowsPath\n- "D:\\\\scenes"\n- outputs',
    )
    found = read_run_config(written(tmp_path, text))
    assert found.output_dir.parts[-2:] == ("scenes", "outputs")
    assert found.mixed_precision is type(config)().mixed_precision
    assert found.pipeline.model.use_appearance_embedding is True


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("hidden_dim: 64", "hidden_dim: wide", r"pipeline\.model\.hidden_dim .* got 'wide'"),
        ("near_plane: 0.05", "near_plane: [1]", r"near_plane .* valid number, got \[1\]"),
        ("lr: 0.01", "lr: null", r"optimizers\.\w+\.optimizer\.lr .* got None"),
        ("load_dir: null", "load_dir: 7", r"load_dir is wrong: .* got 7"),
        ("vis: viewer", "vis: window", r"vis is wrong: Input should be 'viewer', .*'window'"),
        ("auto_scale_poses: true", "auto_scale_poses: 2", r"auto_scale_poses .* boolean, got 2"),
    ],
)
def test_a_field_of_another_type_is_one_line_that_names_it(tmp_path, before, after, told):
    text = yaml.dump(all_methods["nerfacto"])
    assert before in text
    with pytest.raises(ValueError, match=told) as caught:
        read_run_config(written(tmp_path, text.replace(before, after)))
    assert "\n" not in str(caught.value)
