"""Settings of `trainer trust`: which row of a study is looked at, and by what; knows no store and looks at nothing."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from trainer.model_config import Settings

Views = Annotated[tuple[str, ...], Field(min_length=1)]
"""Views of the store, by their names or ids."""


class RobustnessPart(Settings):
    """What is asked of the part on perturbed views.

    Attributes
    ----------
    views
        Perturbed views; None takes every view that is the row's own but for a perturbation, and holds nine tenths of the patients.
    any_files
        Compare entries whatever files they were made from: only where these hold the same images and masks.
    """

    views: Views | None = None
    any_files: bool = False


class ExplainPart(Settings):
    """What is asked of the part on where the model looks.

    Attributes
    ----------
    patients
        Whom: their ids, or how many, spread evenly over the order of their out-of-fold risks; None takes everybody whose image has
        patches hidden.
    occlusion
        View that `extractor occlude` wrote; None takes the only one that belongs to the row's view.
    """

    patients: Views | Annotated[int, Field(ge=1, strict=True)] | None = None
    occlusion: str | None = None


class ControlsPart(Settings):
    """What is asked of the part on negative controls and the ablation.

    Attributes
    ----------
    views
        Control views; None takes what the store holds of random boxes, boxes elsewhere, a constant image and the encoder alone,
        each with all other settings of the row's view.
    ablation
        Views that differ in how slices were prompted and memories packed; None takes every view that is the row's own but for
        mode and layout.
    permutations
        How often the row is also fitted on permuted outcomes; 0 leaves it out.
    any_files
        Take entries whatever files they were made from: only where these hold the same images and masks.
    """

    views: Views | None = None
    ablation: Views | None = None
    permutations: Annotated[int, Field(ge=0)] = 1
    any_files: bool = False


class QualityPart(Settings):
    """What is asked of the part on the embeddings themselves.

    Attributes
    ----------
    views
        Views that are looked at; None takes the row's own.
    groups
        Columns of the clinical table by which embeddings may drift; None takes the centre, where one is declared.
    """

    views: Views | None = None
    groups: Views | None = None


class TrustSettings(Settings):
    """The section `trust` of a study; each part is found from the store where it is not named, and `false` leaves it out.

    Attributes
    ----------
    row
        Row of the study whose model is looked at; None takes the first of images alone, or else the first that reads images.
    robustness, explain, controls, quality
        Parts; None is one that is left out.
    """

    row: str | None = None
    robustness: RobustnessPart | None = RobustnessPart()
    explain: ExplainPart | None = ExplainPart()
    controls: ControlsPart | None = ControlsPart()
    quality: QualityPart | None = QualityPart()

    @field_validator("robustness", "explain", "controls", "quality", mode="before")
    @classmethod
    def _switched(cls, value: Any) -> Any:
        """`false` is a part left out; `true`, and a name with nothing behind it, one as by default."""
        if value is False:
            return None
        return {} if value is True or value is None else value
