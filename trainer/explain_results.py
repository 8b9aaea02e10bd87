"""Records of an explanation: risks of patients, and what hiding each patch changes; knows no model and no page."""

from typing import Literal

from pydantic import ValidationError

from store_schema.errors import SchemaError
from trainer.image_grid import ImageGrid
from trainer.sensitivity_map import Box
from trainer.task_results import Record

EXPLANATION, DELTAS, ATTRIBUTION = "explain.json", "deltas.csv", "attribution.csv"
"""Files of an explanation."""
NO_BONE, UNNAMED = "no bone of the label map", "unnamed"
"""What a patch lies on where it touches no bone of label maps that hold all of them and cover it; and where they are not known."""


class PatchDelta(Record):
    """What hiding one patch changes.

    Attributes
    ----------
    box_zyx
        First voxel and one past the last, of z, y and x.
    delta
        Log-risk with the patch hidden less that of the image as it is: above 0 where hiding raises the risk. Exactly 0 where the
        view cannot see it.
    seen
        Whether the view can see it at all.
    bone
        The bone that fills most of it; ``no bone of the label map`` where it touches none; ``unnamed`` where it touches none that
        is known, and a label map is not there or ends within it.
    bone_share
        Share of the patch's voxels that this bone fills.
    """

    box_zyx: Box
    delta: float
    seen: bool
    bone: str
    bone_share: float | None = None


class ExplainedImage(Record):
    """One image of a patient.

    Attributes
    ----------
    patches
        Those that the view can see, in the entry's order, then the others.
    grid
        On which boxes and maps lie.
    seen_slices_z
        Slices that can change the embedding.
    held_slices_z
        Those among them whose own memories it holds: the others act through the masks of later slices alone. None where the entry
        does not say.
    fill_grey
        Grey value that hid the patches.
    baseline_difference
        Relative difference between the entry's own embedding of the whole image and the one that the model reads; 0 where they are
        the same bits.
    region_share, held_region_share
        Share of the region under a patch, 0-1: of all of it, and of it on the slices in `held_slices_z`.
    label_maps, label_maps_missing
        Columns of the label maps that named the bones, and of those that there was no file in.
    figure, signed_map, absolute_map
        Files of the folder.
    files_sha256
        Digest of each of them.
    """

    modality: str
    roi: str
    patches: tuple[PatchDelta, ...]
    grid: ImageGrid
    seen_slices_z: tuple[int, ...]
    held_slices_z: tuple[int, ...] | None = None
    fill_grey: int
    baseline_difference: float
    region_share: float
    held_region_share: float
    label_maps: tuple[str, ...] = ()
    label_maps_missing: tuple[str, ...] = ()
    figure: str
    signed_map: str
    absolute_map: str
    files_sha256: dict[str, str]

    @property
    def seen(self) -> tuple[PatchDelta, ...]:
        """Patches that the view can see."""
        return tuple(patch for patch in self.patches if patch.seen)

    @property
    def files(self) -> tuple[str, ...]:
        """What was written beside the record."""
        return self.figure, self.signed_map, self.absolute_map


class ExplainedPatient(Record):
    """A patient's risk as it is, and what each image adds.

    Attributes
    ----------
    inputs_sha256
        Of all that the record follows from: model, embeddings, covariates, code.
    log_risk
        As `trainer predict` gives it; higher is worse.
    z
        In standard deviations of the training patients' log-risks.
    risk_group
        1 (lowest) to 4, by the quartiles of the training patients.
    """

    patient: str
    person: str
    inputs_sha256: str
    log_risk: float
    z: float
    risk_group: int
    images: tuple[ExplainedImage, ...]


class Attribution(Record):
    """What hiding a bone changes over patients; each patient counts once, by the mean of the patches on that bone.

    Attributes
    ----------
    patients, patches
        How many there are.
    signed, absolute
        Mean delta and mean absolute delta, in log-hazard.
    signed_low, signed_high, absolute_low, absolute_high
        95% bootstrap intervals over patients; None with fewer than two.
    """

    modality: str
    roi: str
    bone: str
    patients: int
    patches: int
    signed: float
    signed_low: float | None = None
    signed_high: float | None = None
    absolute: float
    absolute_low: float | None = None
    absolute_high: float | None = None


class PatchRules(Record):
    """How patches were hidden, by the flags of the occlusion view.

    Attributes
    ----------
    size_mm, stride_mm
        Edge of a patch, and from centre to centre.
    fill
        ``mean`` of the image, or a grey value of 0 to 255.
    """

    size_mm: float
    stride_mm: float
    fill: str


class Explanation(Record):
    """What `trainer explain` found, and from what.

    Attributes
    ----------
    model, card_sha256
        The kept model.
    risk_sd
        Standard deviation of the training patients' log-risks: the other unit of deltas.
    view, snapshot, occlusion_view, occlusion_snapshot, store_id
        What was read.
    rules
        How patches were hidden.
    encoder_trained
        Whether the view's encoder has trained weights.
    patients
        Names of those explained, in order.
    failures
        Those who could not be, each with the reason.
    attribution
        Over the cohort, by bone.
    """

    layout: Literal["engram-explanation-1"] = "engram-explanation-1"
    model: str
    card_sha256: str
    risk_sd: float
    view: str
    snapshot: str
    occlusion_view: str
    occlusion_snapshot: str
    store_id: str
    rules: PatchRules
    encoder_trained: bool
    patients: tuple[str, ...]
    failures: dict[str, str]
    attribution: tuple[Attribution, ...]
    versions: dict[str, str]


def parse_explained(data: bytes, *, where: str) -> ExplainedPatient:
    """A patient's record read from its file.

    Raises
    ------
    SchemaError
        If the file is something else.
    """
    try:
        return ExplainedPatient.model_validate_json(data)
    except ValidationError as error:
        raise SchemaError(
            f"{where} is no record of an explained patient: {error.errors()[0]['msg']}. Remove it and run again"
        ) from error
