"""Tells what a view is to the view that a row reads, by its own specification alone; reads no entry and knows no model."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from store_schema import Store, ViewSpec
from trainer.occluded_entries import hides
from trainer.robustness.reading import FLAG, differences, perturbation_of

Role = Literal["base", "random_boxes", "elsewhere", "constant", "encoder", "ablation", "perturbed", "other"]
CONTROLS: tuple[Role, ...] = ("encoder", "elsewhere", "random_boxes", "constant")
"""What is held against the base to tell what memory and place add, in the order in which it is told."""
ENCODER, BASELINE = "hiera", "baseline"
"""How the image encoder alone calls itself, and the flag under which it does."""
SAME = ("encoder", "intensity", "precision", "grid", "regions")
"""Settings that the encoder alone shares with the base; the predictor's switches and recipe are none of its own."""
MATCHED = ("paper", "last2")
"""Layout of memories that sees the same slices as this aggregate of the encoder alone (protocol section 4)."""
WORDS = {"random_boxes": "random boxes", "elsewhere": "boxes elsewhere", "constant": "constant image"}


@dataclass(frozen=True)
class Standing:
    """What a view is to the base."""

    view: ViewSpec
    role: Role
    label: str
    """For people; no two of a list are alike."""
    what: str
    """In one sentence without a full stop: how it was made."""
    differs: tuple[str, ...]
    """Settings that set it apart from the base besides what its role says."""

    @property
    def view_id(self) -> str:
        """Of the view."""
        return self.view.view_id

    @property
    def way(self) -> tuple[str, str]:
        """Mode of prompting, and layout."""
        return self.view.prompt.mode, self.view.layout.name


def standing(base: ViewSpec, view: ViewSpec) -> Standing:
    """What a view is to the base, from mode, layout and flags of the two."""
    if view.digest == base.digest:
        return Standing(view, "base", f"base: {_way(view)}", "the row's own view", ())
    if FLAG in view.flags:
        return _perturbed(base, view)
    if view.flags.get(BASELINE) == ENCODER:
        return _encoder(base, view)
    told = tuple(name for name in differences(base, view) if name not in ("prompt", "layout"))
    if view.prompt.stride != base.prompt.stride:
        told = (*told, "stride")
    role: Role = "other" if told or view.prompt.kind != base.prompt.kind else "ablation"
    return Standing(view, role, _way(view, base), f"{_way(view, base)}, all else as the base", told)


def views_found(store: Store, base: ViewSpec) -> tuple[Standing, ...]:
    """What every other view of the store is to the base; without views of hidden patches, which hold other entries."""
    views = (store.view(view_id) for view_id in store.view_ids())
    return tuple(standing(base, view) for view in views if not hides(view) and view.digest != base.digest)


def apart(found: Iterable[Standing]) -> tuple[Standing, ...]:
    """The same, those with one label told apart by the end of their views' ids."""
    listed = tuple(found)
    labels = [one.label for one in listed]
    return tuple(
        one if labels.count(one.label) == 1 else _relabelled(one, f"{one.label} ({one.view_id[-16:-8]})")
        for one in listed
    )


def _relabelled(one: Standing, label: str) -> Standing:
    return Standing(one.view, one.role, label, one.what, one.differs)


def _way(view: ViewSpec, base: ViewSpec | None = None) -> str:
    kind = "" if base is None or view.prompt.kind == base.prompt.kind else f"{view.prompt.kind} prompts, "
    return f"{kind}{view.prompt.mode} × {view.layout.name}"


def _perturbed(base: ViewSpec, view: ViewSpec) -> Standing:
    kind, size, unit, seed = perturbation_of(view)
    told = differences(base, view)
    amount = "" if size is None else f" {size:g}{f' {unit}' if unit else ''}"
    label = f"{WORDS.get(kind, kind)}{amount}{f' (seed {seed})' if seed else ''}"
    what = {
        "random_boxes": "boxes of the same sizes anywhere within the body",
        "elsewhere": "boxes of the same sizes where they touch least of the region and of bones of a label map",
        "constant": "every voxel at its volume's mean grey value",
    }.get(kind, f"perturbed: {kind}{amount}")
    roles: dict[str, Role] = {"random_boxes": "random_boxes", "elsewhere": "elsewhere", "constant": "constant"}
    return Standing(view, "other" if told else roles.get(kind, "perturbed"), label, what, told)


def _encoder(base: ViewSpec, view: ViewSpec) -> Standing:
    told = tuple(name for name in SAME if getattr(view, name) != getattr(base, name))
    # an encoder alone is no control of another one
    told = (*told, *(("prompt",) if BASELINE in base.flags else ()))
    if view.prompt.stride != base.prompt.stride:
        told = (*told, "stride")
    last = view.flags.get("aggregate") == MATCHED[1]
    seen = "the last two kept slices" if last else "all kept slices"
    label = f"encoder alone on {'the last two slices' if last else 'all slices'}"
    what = f"the image encoder's top level on {seen}, without prompt or memory"
    return Standing(view, "other" if told else "encoder", label, what, told)


def is_matched(base: ViewSpec, encoder: ViewSpec) -> bool:
    """Whether the encoder alone sees the very slices that the base's memories are of."""
    # in the order of the key slice the last two memories are of the two ends
    same_slices = base.layout.name == MATCHED[0] and base.prompt.mode != "key_slice"
    return same_slices and encoder.flags.get("aggregate") == MATCHED[1]


def is_map(view: ViewSpec) -> bool:
    """Whether the view holds maps; the others hold vectors, which another head reads."""
    shape = view.layout.shape
    return (shape[0], *shape[2:]) != (1, 1, 1)
