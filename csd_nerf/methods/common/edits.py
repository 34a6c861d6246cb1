"""The edited photographs of a run, as files that its checkpoints name."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from csd_nerf.media.files import written_whole
from csd_nerf.media.images import read_image
from csd_nerf.methods.common.errors import MethodError

EDITS_FOLDER = "edits"
"""Folder of a run with its edited photographs."""

_OURS = re.compile(r".*-[0-9a-f]{12}\.png")
_LONGEST = 80
"""Characters of a photograph's name that a file's name keeps; file systems limit names to 255."""


class EditFolder:
    """Edits as PNG files, which never change: another edit of a photograph has another name.

    A checkpoint holds records, which say of an edit: `file`, its name in the folder, `sha256`, the
    hash of the file, and `size`, height and width.
    """

    def __init__(self, folder: Path) -> None:
        """Name a folder, which need not exist yet."""
        self.folder = folder

    def write(self, name: str, image: UInt8[Tensor, "h w c"]) -> dict[str, Any]:
        """Write the edit of a photograph, RGB or RGBA, and return its record.

        Args:
            name: The photograph's name, which the file's name begins with.
            image: The edit.
        """
        picture = io.BytesIO()
        # The lowest level halves the time of a save and costs a tenth in size.
        Image.fromarray(image.cpu().numpy()).save(picture, format="PNG", compress_level=1)
        content = picture.getvalue()
        digest = hashlib.sha256(content).hexdigest()
        stem = re.sub(r"[^\w.-]+", "_", str(Path(name).with_suffix("")))[-_LONGEST:]
        path = self.folder / f"{stem}-{digest[:12]}.png"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as temporary:
                temporary.write_bytes(content)
        return {"file": path.name, "sha256": digest, "size": [image.shape[0], image.shape[1]]}

    def read(self, name: str, record: Mapping[str, Any]) -> UInt8[Tensor, "h w c"]:
        """Read an edit.

        Args:
            name: The photograph's name, for the message.
            record: From `write`.

        Raises:
            MethodError: If the file is missing, or isn't the one that was written.
        """
        path = self.folder / record["file"]
        remedy = (
            "keep a run's folder whole, or go on from an earlier checkpoint (--load-step) or from "
            "its unedited scene in source_models (--load-dir)"
        )
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise MethodError(
                f"The checkpoint needs the edit of {name}, got no {path} ({error.strerror}); "
                f"{remedy}."
            ) from None
        if digest != record["sha256"]:
            raise MethodError(
                f"The edit of {name} must be as the checkpoint's run wrote it, got other contents "
                f"in {path}; {remedy}."
            )
        return read_image(path, keep_alpha=True)[0]

    def take_over(
        self, record: Mapping[str, Any], other: EditFolder, *, copies: bool = False
    ) -> bool:
        """Make a file of another run one of this folder too.

        Args:
            record: From `write`.
            other: The other run's.
            copies: Copy the file if it can't be had without, as from another disk.

        Returns:
            Whether it is there now.
        """
        source, path = other.folder / record["file"], self.folder / record["file"]
        if path.exists():
            return True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            os.link(source, path)
        except OSError:
            if not copies or not source.is_file():
                return False
            with written_whole(path) as temporary:
                shutil.copy(source, temporary)
        return True

    def keep_only(self, files: Collection[str]) -> None:
        """Delete the edits whose files are not among these."""
        for path in self.folder.glob("*.png"):
            if _OURS.fullmatch(path.name) and path.name not in files:
                path.unlink()
