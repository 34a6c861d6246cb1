"""The table of families: which model a folder is, and what is said of models that are not in it."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import diffusers
import pytest

from csd_nerf import priors
from csd_nerf.priors import WeightsNotFoundError
from csd_nerf.priors.families import FAMILIES, UnknownFamilyError, family_of
from csd_nerf.priors.family import DiffusersPrior
from csd_nerf.priors.names import BUNDLED_MODELS, HUB_MODELS


def folder_of(tmp_path: Path, index: str) -> Path:
    (tmp_path / "model_index.json").write_text(index)
    return tmp_path


@pytest.mark.parametrize("attempt", [priors.fetch, priors.load])
@pytest.mark.parametrize(
    ("index", "told"),
    [
        ('{"_class_name": "StableDiffusionXLPipeline"}', "got StableDiffusionXLPipeline from"),
        ('{"_class_name": ["IFPipeline"]}', r"valid string, got \['IFPipeline'\];"),
        ("{}", "_class_name: Field required;"),
        ("[1]", r"should be an object, got \[1\];"),
        ("no json", "can't be read"),
    ],
)
def test_an_unknown_class_is_refused_with_the_known_ones(tmp_path, attempt, index, told):
    folder = folder_of(tmp_path, index)
    with pytest.raises(UnknownFamilyError, match=told) as error:
        attempt(folder)
    message = str(error.value)
    assert f"one of {', '.join(FAMILIES)}, " in message
    assert f"{folder}/model_index.json" in message
    assert message.endswith("; name another model.")
    assert "\n" not in message
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize("attempt", [priors.fetch, priors.load])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_of_the_other_kind_is_told_apart_before_its_files_are_looked_at(
    tmp_path, attempt, name
):
    folder = folder_of(tmp_path, json.dumps({"_class_name": name}))
    words = {"edit": "an editing prior", "text": "a text-to-image prior"}
    is_kind = FAMILIES[name].kind
    (wanted,) = {*words} - {is_kind}
    told = f"This needs {words[wanted]}, '{folder}' is {words[is_kind]}: name one of"
    with pytest.raises(WeightsNotFoundError, match=told):
        attempt(folder, kind=wanted)
    with pytest.raises(WeightsNotFoundError, match=r"lacks (unet|transformer)/config\.json"):
        attempt(folder, kind=is_kind)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_loader_is_a_class_that_loads_folders(name):
    family = FAMILIES[name]
    module, loader = family.loader.split(":")
    found = getattr(import_module(module), loader)
    assert issubclass(found, DiffusersPrior)
    assert callable(found.from_folder)
    assert bool(found.source_rows) == (family.kind == "edit")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_name_is_a_pipeline_of_diffusers_with_these_parts(name):
    needed, optional = getattr(diffusers, name)._get_signature_keys(getattr(diffusers, name))
    parts = {*FAMILIES[name].components}
    assert parts <= {*needed, *optional}
    others = {"safety_checker", "feature_extractor", "watermarker", "image_encoder", "self"}
    # A processor holds its tokenizer.
    inside = {"tokenizer"} if "processor" in parts else set()
    assert {*needed} - others - inside == parts


@pytest.mark.parametrize("short", [*HUB_MODELS, *BUNDLED_MODELS])
def test_short_names_stand_for_models_of_known_families(short):
    assert {**HUB_MODELS, **BUNDLED_MODELS}[short][1] in FAMILIES


@pytest.mark.parametrize("short", BUNDLED_MODELS)
def test_the_bundled_folders_are_of_the_family_that_their_names_stand_for(short):
    place, name = BUNDLED_MODELS[short]
    folder = Path(priors.__file__).parents[1] / place
    assert family_of(folder / "model_index.json") is FAMILIES[name]
