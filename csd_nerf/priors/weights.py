"""Finds a prior's weights, or downloads them, so that a run fails at its start if they are missing.

A prior is named by a short name (`csd_nerf.priors.names`), a hub id, or a local folder in the
layout of one of the `FAMILIES`. All its files come from that one repository or folder; safety
checkers are neither needed nor fetched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from csd_nerf.priors.families import (
    FAMILIES,
    INDEX,
    Family,
    Kind,
    describe_missing,
    family_of,
    files_of,
    missing_shards,
    needed_files,
)
from csd_nerf.priors.fitness import check_parts
from csd_nerf.priors.hub import HubError, cached_file, download, list_files
from csd_nerf.priors.names import BUNDLED_MODELS, HUB_MODELS, bundled_folder, hub_id
from csd_nerf.priors.precisions import is_half

_KINDS: dict[Kind, str] = {"edit": "an editing prior", "text": "a text-to-image prior"}
_SUGGESTED: dict[Kind, str] = {"edit": "instruct-pix2pix", "text": "stable-diffusion"}


class WeightsNotFoundError(OSError):
    """A prior's weights are missing, or of the wrong kind; the one-line message says what to do."""


def folder_at_hand(name_or_path: str | Path) -> Path | None:
    """The folder of a complete prior of any variant, or None; doesn't use the network.

    Raises:
        ValueError: If the family of what is there is unknown.
    """
    name = str(name_or_path)
    if name in BUNDLED_MODELS:
        return bundled_folder(name)
    variants = _variants(None, half=True)
    if repo := hub_id(name_or_path):
        return _cached_folder(repo, variants)
    folder = Path(name_or_path).expanduser()
    if not (folder / INDEX).is_file():
        return None
    return None if _choose_on_disk(folder, family_of(folder / INDEX), variants)[1] else folder


@dataclasses.dataclass(frozen=True)
class Weights:
    """A complete model on disk, and which of its files are read."""

    folder: Path
    family: Family
    variant: str | None
    """Variant of the weight files; None means those without a variant in their name."""


def find_weights(
    name_or_path: str | Path,
    *,
    variant: str | None = None,
    kind: Kind = "edit",
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
) -> Weights:
    """Find a prior's weights; those that are not in the hub's cache yet are downloaded.

    If the hub can't be reached, this fails after one request with a short time limit.

    Args:
        name_or_path: A short name, hub id or folder.
        variant: Which weight files, such as `fp16` for `*.fp16.safetensors`. None: a prior in half
            precision takes the variant fp16, half the size, if all of it is there, and one in
            float32 the files without a variant; each falls back to the other. What is in the cache
            already is not downloaded again in half the size.
        kind: The kind of prior that the caller needs.
        device: As for `csd_nerf.priors.load`.
        dtype: As for `load`.

    Raises:
        WeightsNotFoundError: If the weights are not there and can't be fetched, or the model is
            of the other kind.
        ValueError: If there is no such dtype, the model's family is unknown, or its parts can't
            work together.
    """
    name, half = str(name_or_path), is_half(dtype, device=device)
    variants = _variants(variant, half=half)
    if known := {**HUB_MODELS, **BUNDLED_MODELS}.get(name):
        _require_kind(name, FAMILIES[known[1]], kind)
    if name in BUNDLED_MODELS:
        folder = bundled_folder(name)
    elif repo := hub_id(name_or_path):
        # In float32 fp16 files would do, but plain ones are worth a download.
        folder = _cached_folder(repo, variants if half else variants[:1])
        if folder is None:
            try:
                folder = _download(repo, variants, kind)
            except WeightsNotFoundError:
                if (folder := _cached_folder(repo, variants)) is None:
                    raise
    else:
        folder = Path(name_or_path).expanduser()
    return _check_whole(folder, name, variants, kind)


def fetch(name_or_path: str | Path, **options: Any) -> tuple[Path, Family]:
    """The folder that holds a prior's weights, and the prior's family; see `find_weights`."""
    found = find_weights(name_or_path, **options)
    return found.folder, found.family


def fetch_to(
    name: str, folder: Path | None, *, variant: str | None, tell: Callable[[str], None]
) -> Path:
    """Download exactly the files that a prior needs, after telling their size.

    Args:
        name: A short name or a hub id.
        folder: Where to write them; None means the hub's cache.
        variant: As for `find_weights`; None means what a GPU would take, in half precision.
        tell: Called with the size and the variant, before anything is downloaded.

    Raises:
        WeightsNotFoundError: If the weights can't be fetched.
        ValueError: If the name is not of a model on the hub, its family is unknown, or its parts
            can't work together.
    """
    repo = hub_id(name)
    if repo is None:
        raise ValueError(
            f"Only models on the hub can be fetched, got {name}; name one of "
            f"{', '.join(HUB_MODELS)}, or a hub id."
        )
    variants = _variants(variant, half=True)
    if folder is None and (cached := _cached_folder(repo, variants)) is not None:
        found = _check_whole(cached, name, variants, family_of(cached / INDEX).kind)
        tell(f"{repo} is at hand already ({_told(found.variant)}), in {cached}")
        return cached
    target = _download(repo, variants, None, folder=folder, tell=tell)
    return _check_whole(target, name, variants, family_of(target / INDEX).kind).folder


def _require_kind(name: str, family: Family, kind: Kind) -> None:
    if family.kind != kind:
        names = {**HUB_MODELS, **BUNDLED_MODELS}.items()
        known = ", ".join(n for n, (_, of) in names if FAMILIES[of].kind == kind)
        raise WeightsNotFoundError(
            f"This needs {_KINDS[kind]}, {name!r} is {_KINDS[family.kind]}: name one of {known}, "
            "a hub id or a folder."
        )


def _check_whole(folder: Path, name: str, variants: Sequence[str | None], kind: Kind) -> Weights:
    """Check that a folder holds a complete model of this kind, which can work.

    Raises:
        WeightsNotFoundError: If something is missing, or the model is of the other kind.
        ValueError: If its family is unknown, or its parts don't fit together.
    """
    if folder.is_file():
        what = (
            f"{folder} is a single file, and a prior is a folder with {INDEX}; a pipeline of "
            "diffusers writes one: .from_single_file(FILE).save_pretrained(FOLDER)"
        )
    elif not folder.is_dir():
        what = f"the folder {folder} does not exist"
    elif not (folder / INDEX).is_file():
        what = f"the folder {folder} lacks {INDEX}"
    else:
        family = family_of(folder / INDEX)
        _require_kind(name, family, kind)
        variant, missing = _choose_on_disk(folder, family, variants)
        if not missing:
            check_parts(folder, family, name)
            return Weights(folder, family, variant)
        what = f"the folder {folder} lacks {missing}"
    if name in BUNDLED_MODELS:
        raise WeightsNotFoundError(
            f"The bundled prior {name!r} is not installed: {what}; install csd_nerf again, or name "
            "another prior."
        )
    raise _not_found(name, what, kind) from None


def _cached_folder(repo: str, variants: Sequence[str | None]) -> Path | None:
    """The snapshot in the hub's cache if a variant is complete; doesn't use the network."""
    index = cached_file(repo, INDEX)
    if index is None:
        return None
    return None if _choose_on_disk(index.parent, family_of(index), variants)[1] else index.parent


def _variants(variant: str | None, *, half: bool) -> list[str | None]:
    """The variants that will do, the best first."""
    if variant is not None:
        return [variant]
    return ["fp16", None] if half else [None, "fp16"]


def _choose(
    variants: Sequence[str | None], missing: Callable[[str | None], str]
) -> tuple[str | None, str]:
    """The first variant of which no file is missing, or else what the plain files lack."""
    lacks = {variant: missing(variant) for variant in variants}
    for variant in variants:
        if not lacks[variant]:
            return variant, ""
    told = None if None in lacks else variants[0]
    return told, lacks[told]


def _choose_on_disk(
    folder: Path, family: Family, variants: Sequence[str | None]
) -> tuple[str | None, str]:
    """The variant to load from a folder, or what the folder lacks."""
    files = files_of(folder)

    def missing(variant: str | None) -> str:
        described = describe_missing(family, files, variant=variant)
        return described or ", ".join(missing_shards(family, folder, variant=variant))

    return _choose(variants, missing)


def _download(
    repo: str,
    variants: Sequence[str | None],
    kind: Kind | None,
    *,
    folder: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,  # noqa: ARG005
) -> Path:
    """Download what a model of this kind needs; None means either kind. Else as `fetch_to`."""
    try:
        files = list_files(repo)
        missing = INDEX
        if INDEX in files:
            family = family_of(download(repo, [INDEX], folder=folder) / INDEX)
            if kind is not None:
                _require_kind(repo, family, kind)
            kind = family.kind
            variant, missing = _choose(
                variants, lambda asked: describe_missing(family, files, variant=asked)
            )
            if not missing:
                needed = needed_files(family, files, variant=variant)
                total = sum(files[name] for name in needed)
                where = "the hub's cache" if folder is None else str(folder)
                told = f"{len(needed)} files of {total / 1e9:.1f} GB ({_told(variant)})"
                tell(f"{repo}: {told} go to {where}")
                return download(repo, needed, folder=folder)
    except HubError as error:
        refused = error.needs_licence
        raise _not_found(repo, str(error), kind or "edit", repo, licence=refused) from None
    raise _not_found(repo, f"the hub's repository lacks {missing}", kind or "edit")


def _told(variant: str | None) -> str:
    return f"the variant {variant}" if variant else "without a variant"


def _not_found(
    name: str, what: str, kind: Kind, repo: str | None = None, *, licence: bool = False
) -> WeightsNotFoundError:
    """The error for missing weights; without `repo` it suggests a model on the hub."""
    repo = repo or HUB_MODELS[_SUGGESTED[kind]][0]
    accept = f"accept its licence at https://huggingface.co/{repo}, run `hf auth login`, "
    return WeightsNotFoundError(
        f"No weights for the prior {name!r}: {what}; {accept if licence else ''}fetch them with "
        f"`csd-nerf weights {repo}`, or on another machine with --output FOLDER, or name a folder "
        "that has all of them."
    )
