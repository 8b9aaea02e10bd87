"""Puts an explanation into one HTML page that needs no network; computes no delta."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup
from pydantic import ValidationError

from store_schema.errors import NotCommittedError, SchemaError
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
    svg = _held(folder, image.figure).decode()
    # our own SVG, whose texts matplotlib and `to_svg` escaped
    shown = Markup(for_page(svg))  # noqa: S704
    caption = Markup(svg[svg.index(">", svg.index("<title")) + 1 : svg.index("</title>")])  # noqa: S704
    return {"record": image, "svg": shown, "caption": caption, "top": _top(image.patches), "sight": _sight(image)}


def _top(patches: Sequence[PatchDelta]) -> list[PatchDelta]:
    """The patches of the greatest absolute deltas, the first of equals first; none that changes nothing."""
    return [patch for patch in sorted(patches, key=lambda patch: -abs(patch.delta)) if patch.delta][:LARGEST]


def _sight(image: ExplainedImage) -> str:
    """A sentence on what the view can see of the image, and what it cannot."""
    slices, whole = image.seen_slices_z, image.grid.size_xyz[2]
    hidden = len(image.patches) - len(image.seen)
    where = f"z {_ranges(slices)}" if slices else "none"
    seen = f"Only what lies on {len(slices)} of {whole} slices can change this embedding ({where})."
    if not hidden:
        return f"{seen} Every patch touches one of them."
    return (
        f"{seen} {hidden} of {len(image.patches)} patches touch none of them and are unseen: hiding them changes nothing, whatever "
        "lies there."
    )


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
