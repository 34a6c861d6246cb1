"""Mistakes and failures that csd-dreamfusion tells of."""

from __future__ import annotations

from csd_nerf.methods.common.errors import MethodError


class DreamFusionError(MethodError):
    """A mistake in what the user asked of csd-dreamfusion."""


class CollapsedError(FloatingPointError):
    """A run whose object vanished or filled its sphere; the message is one line."""
