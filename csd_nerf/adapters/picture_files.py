"""The pictures of a set, from files to files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from csd_nerf.adapters.options import ImageOptions
from csd_nerf.adapters.picture_set import edit_pictures, set_masks
from csd_nerf.adapters.pictures import PictureFile
from csd_nerf.adapters.reporter import Reporter
from csd_nerf.media.images import check_picture_path, write_image
from csd_nerf.media.rasters import Raster
from csd_nerf.media.regions import Segmenter
from csd_nerf.priors.base import Prior, ranks_of


def prepare_set(
    sources: Sequence[Path],
    targets: Sequence[Path],
    options: ImageOptions,
    *,
    segmenter: Segmenter | None = None,
    check_masks: bool = False,
) -> Callable[[Prior, Reporter], dict[str, Any]]:
    """Check the pictures of a set; returns the function that edits them and gives the facts.

    Args:
        sources: Picture files.
        targets: The file to make of each.
        options: The options of the edit.
        segmenter: Finds what a region's word names.
        check_masks: Whether to read the region's masks now, which a word needs a segmenter for.

    Raises:
        ValueError: If a picture can't be read, a result not be written, or a mask doesn't fit.
        FileNotFoundError: If a file is missing.
    """
    files, told = list[PictureFile](), list[str]()
    for source, target in zip(sources, targets, strict=True):
        check_picture_path(target)
        file = PictureFile.checked(source)
        check_picture_path(target, size=file.size)
        told += [f"{source.name}: {notice}" for notice in file.notices]
        files.append(file)
    pictures = [file.picture() for file in files]
    if check_masks and options.region is not None:
        set_masks(options.region, pictures)

    def edit(prior: Prior, reporter: Reporter) -> dict[str, Any]:
        for notice in told:
            reporter.note(notice)

        def write(number: int, image: Raster) -> None:
            target, metadata = targets[number], files[number].metadata
            target.parent.mkdir(parents=True, exist_ok=True)
            write_image(target, image, metadata=metadata, note=reporter.note)

        def write_once(number: int, image: Raster) -> None:
            ranks_of(prior).first_does(lambda: write(number, image))

        return edit_pictures(
            prior, pictures, options, write_once, segmenter=segmenter, reporter=reporter
        )

    return edit
