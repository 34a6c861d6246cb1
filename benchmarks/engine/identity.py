"""Hashes that identify trials.

A trial's id is the SHA-256 of everything that decides its result: options, contents of inputs,
weights, versions. What has no influence on it (the device, paths of outputs) must be left out.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch

from csd_nerf import priors
from csd_nerf.adapters import fingerprints
from csd_nerf.adapters.run_files import NEUTRAL_SETTINGS
from csd_nerf.priors.families import Kind

_TOLD = ("evaluation.json", "training.json")
"""Files beside a bundled prior's weights that say how it was trained and how good it is."""
PACKAGES = ("csd_nerf", "torch", "numpy", "diffusers", "transformers", "nerfstudio")
"""Packages whose versions can change the result of an edit."""


_UNUSED = {"keep_detail": False, "segmenter": None, "region": None}
"""Options of `csd-nerf panorama` and `video` that came after results were recorded, with the values
by which these stay valid."""


def plain_options(options: Mapping[str, Any]) -> Any:
    """The options of a panorama's or a video's edit that decide its result, as `plain` has them."""
    used = {name: value for name, value in options.items() if _UNUSED.get(name, ...) != value}
    return plain(used, leave_out=NEUTRAL_SETTINGS)


def plain(value: Any, *, leave_out: Collection[str] = ()) -> Any:
    """Convert a value to types that JSON has; equal values give equal results in every process.

    Dataclasses become mappings, tensors and arrays become digests of their contents, classes and
    functions become their names.

    Args:
        value: Numbers, texts, tensors, dataclasses such as nerfstudio's configs, and collections
            of these.
        leave_out: Names of fields and keys to leave out, at any depth.

    Raises:
        TypeError: If a value can't be converted. Paths can't, because they don't identify the
            contents of the file; use `files_digest` instead.
    """
    inner = functools.partial(plain, leave_out=leave_out)
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): inner(item) for key, item in value.items() if key not in leave_out}
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return [str(value.dtype), list(value.shape), content]
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, Sequence):
        return [inner(item) for item in value]
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    raise TypeError(
        f"What decides a trial needs to be numbers, texts, tensors or collections of them, got "
        f"{value!r}; give a digest of it, files_digest for a path."
    )


def digest(value: Any) -> str:
    """SHA-256 of a value that `plain` can convert, independent of the order of keys."""
    text = json.dumps(plain(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def files_digest(path: Path) -> str:
    """SHA-256 of a file's content, or of the names and contents of all files below a folder.

    A file is read only once per process, unless its size or modification time changes.

    Raises:
        FileNotFoundError: If the path does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(f"An input must exist, got {path}.")
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    names = (file.relative_to(path).as_posix() for file in files)
    return _named_digest(names, files)


def _named_digest(names: Iterable[str], files: Iterable[Path]) -> str:
    return digest([[name, _content(file)] for name, file in zip(names, files, strict=True)])


def weights_digest(
    name_or_path: str | Path, *, variant: str | None = None, kind: Kind = "edit"
) -> str:
    """SHA-256 of a prior's files, which are downloaded if needed.

    What is only told about a prior, such as its card, does not belong to it: the card is written
    anew whenever the prior is measured.

    Args:
        name_or_path: As for `csd_nerf.priors.load`.
        variant: As for `load`.
        kind: As for `load`.

    Raises:
        WeightsNotFoundError: If the weights are not there and can't be downloaded.
    """
    folder = priors.fetch(name_or_path, variant=variant, kind=kind)[0]
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not _is_told(p, folder))
    return _named_digest((file.relative_to(folder).as_posix() for file in files), files)


def _is_told(file: Path, folder: Path) -> bool:
    place = file.relative_to(folder)
    hidden = any(part.startswith(".") for part in place.parts)
    return place.as_posix() in _TOLD or file.suffix == ".md" or hidden


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str | None]:
    """The installed versions of Python and of packages; None for a package that is missing."""
    return fingerprints.versions(packages)


def _content(path: Path) -> str:
    status = path.stat()
    return _read_digest(path.resolve(), status.st_size, status.st_mtime_ns)


@functools.cache
def _read_digest(path: Path, size: int, mtime_ns: int) -> str:
    del size, mtime_ns  # They are keys of the cache only.
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
