"""How an object that was made from a text is measured."""

from __future__ import annotations

from collections.abc import Collection

from benchmarks.text_to_3d.object_truth import colour_distance, knows, silhouette_overlap
from benchmarks.text_to_3d.views import RunViews
from csd_nerf.evaluation.networks import Name, Networks
from csd_nerf.evaluation.tables import Row


def measure(views: RunViews, prompt: str, networks: Networks, judges: Collection[Name] = ()) -> Row:
    """All measures of one run that can be made.

    FID is biased upwards with as few images as one run has: compare only equally many. The paper's
    is of all of a method's views; `python -m benchmarks paper table5` makes it of the folders of
    an arm.

    Args:
        views: The run's.
        prompt: What was asked for; where it means a synthetic object, the truth judges.
        networks: Where the judges are.
        judges: CLIP for similarities to the text, Inception for FID.
    """
    row: Row = {}
    if knows(prompt):
        overlap = silhouette_overlap(views.coverage, prompt)
        row |= {"overlap": overlap.value, "scale": overlap.scale, "shift": list(overlap.shift)}
        row["colour_distance"] = colour_distance(views.colour01, views.coverage, prompt)
    if "CLIP" in judges:
        from csd_nerf.evaluation.clip import text_similarity

        text = networks.clip.text_features([prompt])
        for key, image01 in (("colour", views.colour01), ("geometry", views.depth01)):
            row[f"clip_{key}"] = text_similarity(networks.clip.image_features(image01), text)
    if "Inception" in judges:
        row["fid"] = networks.fid(view[None] for view in views.colour01)
    return row


def require(networks: Networks, names: Collection[Name]) -> None:
    """Load networks.

    Raises:
        FileNotFoundError: If one can't be had.
        ValueError: If CLIP's name is unknown.
    """
    for name in names:
        if (obstacle := networks.obstacle(name)) is not None:
            raise FileNotFoundError(obstacle)
