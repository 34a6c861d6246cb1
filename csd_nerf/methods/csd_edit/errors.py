"""Mistakes that csd-edit tells of."""

from __future__ import annotations

from csd_nerf.methods.common.errors import MethodError


class EditError(MethodError):
    """A mistake in what the user asked of csd-edit."""
