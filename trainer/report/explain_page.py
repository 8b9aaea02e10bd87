"""Puts an explanation into one HTML page that needs no network; computes no delta."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup
from pydantic import ValidationError

from store_schema.errors import NotCommittedError, ObjectAlteredError, SchemaError
from store_schema.records import sha256
from trainer.explain_results import (
    EXPLANATION,
    ExplainedImage,
    ExplainedPatient,
    Explanation,
    PatchDelta,
    PatchRules,
    parse_explained,
)
from trainer.report.page import page_environment
from trainer.report.svg import as_id, for_page
from trainer.run_folder import REPORT, RunFolder

LARGEST = 10
"""Patches of each image that the page lists."""


def write_explain_page(url: str) -> str:
    """Write the page of an explanation, over an older one; gives the page's address.

    Raises
    ------
    NotCommittedError
        If the folder holds no finished explanation, or a file of it is gone.
    SchemaError
        If a file of it is not what its name says.
    """
    folder = RunFolder.open(url)
    try:
        found = Explanation.model_validate_json(_held(folder, EXPLANATION))
    except ValidationError as error:
        raise SchemaError(f"{folder.url}/{EXPLANATION} is no explanation: {error.errors()[0]['msg']}") from error
    patients = [_patient(folder, patient) for patient in found.patients]
    template = page_environment().get_template("explain.html.jinja")
    page = template.render(found=found, patients=patients, size=_size(found.rules), largest=LARGEST)
    folder.replace(REPORT, page)
    return f"{folder.url}/{REPORT}"


def _held(folder: RunFolder, name: str) -> bytes:
    data = folder.read(name)
    if data is None:
        raise NotCommittedError(f"{folder.url} has no {name}: `trainer explain` makes it; it resumes what was begun")
    return data


def _patient(folder: RunFolder, patient: str) -> dict[str, Any]:
    name = f"patients/{patient}.json"
    record: ExplainedPatient = parse_explained(_held(folder, name), where=f"{folder.url}/{name}")
    images = [_image(folder, image) for image in record.images]
    return {"record": record, "id": as_id(f"patient-{patient}"), "images": images}


def _image(folder: RunFolder, image: ExplainedImage) -> dict[str, Any]:
    data = _held(folder, image.figure)
    if sha256(data) != image.files_sha256.get(image.figure):
        raise ObjectAlteredError(
            f"{folder.url}/{image.figure} is not the drawing that the patient's record was written with: run `trainer explain` "
            "again, which makes it anew"
        )
    svg = data.decode()
    # our own SVG, whose texts matplotlib and `to_svg` escaped
    shown = Markup(for_page(svg))  # noqa: S704
    caption = Markup(svg[svg.index(">", svg.index("<title")) + 1 : svg.index("</title>")])  # noqa: S704
    return {
        "record": image,
        "svg": shown,
        "caption": caption,
        "top": _top(image.patches),
        "sight": _sight(image),
        "under": _under(image),
        "bones": _bones(image),
    }


def _top(patches: Sequence[PatchDelta]) -> list[PatchDelta]:
    """The patches of the greatest absolute deltas, the first of equals first; none that changes nothing."""
    return [patch for patch in sorted(patches, key=lambda patch: -abs(patch.delta)) if patch.delta][:LARGEST]


def _sight(image: ExplainedImage) -> str:
    """Sentences on what the view can see of the image, how, and what it cannot."""
    slices, whole = image.seen_slices_z, image.grid.size_xyz[2]
    hidden = len(image.patches) - len(image.seen)
    where = f"z {_ranges(slices)}" if slices else "none"
    seen = (
        f"Only what lies on {len(slices)} of {whole} slices can change this embedding ({where}).{_through_masks(image)}"
    )
    if not hidden:
        return f"{seen} Every patch touches one of them."
    return (
        f"{seen} {hidden} of {len(image.patches)} patches touch none of them and are unseen: hiding them changes nothing, whatever "
        "lies there."
    )


def _under(image: ExplainedImage) -> str:
    """Sentences on how much of the region was hidden at all, and of what the embedding is made of."""
    held = (
        ""
        if image.held_slices_z is None
        else f", and {_percent(image.held_region_share)} of it on the slices whose memories the embedding holds"
    )
    rest = "" if image.region_share == 1 else " What lies under none was never hidden: the map says nothing of it."
    unchanged = "" if any(patch.delta for patch in image.patches) else " No patch changes the risk."
    return f"Under a patch lie {_percent(image.region_share)} of the region{held}.{rest}{unchanged}"


def _percent(share: float) -> str:
    """A share in words; whole only where it is."""
    return "100%" if share == 1 else f"{min(100 * share, 99.9):.1f}%"


def _bones(image: ExplainedImage) -> str:
    """A sentence on what named the bones, and what could not."""
    if not image.label_maps:
        return "No label map names what lies under the patches."
    if not image.label_maps_missing:
        return ""
    return (
        f"Bones are those of {', '.join(image.label_maps)} alone: {', '.join(image.label_maps_missing)} of the label set "
        f"{'is' if len(image.label_maps_missing) == 1 else 'are'} not there. A patch that touches none of those known is unnamed, "
        "and one that is named may hold more of another."
    )


def _through_masks(image: ExplainedImage) -> str:
    """What slices do whose own memories the embedding does not hold; nothing where it holds all of them, or does not say."""
    held = image.held_slices_z
    if held is None or not set(image.seen_slices_z) - set(held):
        return ""
    touching = [_touches(patch, held) for patch in image.seen]
    others = [abs(patch.delta) for patch, touches in zip(image.seen, touching, strict=True) if not touches]
    mine = [abs(patch.delta) for patch, touches in zip(image.seen, touching, strict=True) if touches]
    said = (
        f" It holds the memories of {len(held)} of these (z {_ranges(held)}); the others reach it only through the masks predicted "
        "from slice to slice, so that what lies there may change it little, or not at all."
    )
    if not others:
        return said
    unchanged = sum(not delta for delta in others)
    beside = f", against {max(mine):.3g} among the others" if mine else ""
    return (
        f"{said} Of {len(others)} patches on such slices alone, {unchanged} change the risk by exactly 0; the greatest change "
        f"among them is {max(others):.3g} log-hazard{beside}."
    )


def _touches(patch: PatchDelta, slices: Sequence[int]) -> bool:
    return any(patch.box_zyx[0] <= z < patch.box_zyx[1] for z in slices)


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in words: even steps as first to last, others one by one."""
    ordered = sorted(numbers)
    steps = {after - before for before, after in pairwise(ordered)}
    if len(ordered) <= 3 or len(steps) != 1:
        return ", ".join(map(str, ordered))
    (step,) = steps
    return f"{ordered[0]} to {ordered[-1]}" + (f" in steps of {step}" if step > 1 else "")


def _size(rules: PatchRules) -> str:
    """How patches were hidden, in words."""
    fill = "the mean of the image" if rules.fill == "mean" else f"grey value {rules.fill}"
    return f"patches of {rules.size_mm:g} mm, {rules.stride_mm:g} mm apart, filled with {fill}"
