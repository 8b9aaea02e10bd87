"""Settings of the models that a run fits: inputs, network, fitting, what is searched; knows no other setting of a run."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from store_schema.errors import InvalidKeyError
from store_schema.keys import check_id
from trainer.search_config import Searched
from trainer.spec import FitConfig, FusionKind, Head, MapScaling, ModelSpec, Ties
from trainer.vector_selection import SelectionRules


class Settings(BaseModel):
    """What every part of the settings shares: unknown names are refused, nothing changes after it was read."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Images(Settings):
    """Which entries of the view a model reads: one region of each modality.

    Attributes
    ----------
    modalities
        In the order in which their vectors are fused: with the gate, alpha is the weight of the first.
    roi
        Region of interest.
    pool
        Maps and memories are averaged in plane over blocks of so many cells before the head; 1 leaves them as stored. A `paper` map
        of a small network is an enlarged one (8×8 to 64×64 for `mini`): 4 then loses nothing and fits 16 times faster.
    """

    modalities: Annotated[tuple[str, ...], Field(min_length=1)] = ("PET", "CT")
    roi: str
    pool: Annotated[int, Field(ge=1)] = 1

    @field_validator("modalities", "roi")
    @classmethod
    def _ids(cls, value: Any) -> Any:
        for text in (value,) if isinstance(value, str) else value:
            checked_id("modality or roi", text)
        return value


class Facets(Settings):
    """What tells a row of a study from the others, in the words of its tables; – where a facet does not apply.

    Attributes
    ----------
    table
        ``image``, ``multimodal``, ``clinical`` or ``radiomics``.
    origin, mask, model, downsampling, fusion
        Columns of the paper's Table 1.
    baseline
        Whether `model` is one that the study's own embedding is held against.
    """

    table: Literal["image", "multimodal", "clinical", "radiomics"]
    origin: str = "–"
    mask: str = "–"
    model: str = "–"
    downsampling: str = "–"
    fusion: str = "–"
    baseline: bool = False


class _Named(Settings):
    name: str
    """Row of the tables; unique."""
    facets: Facets | None = None
    """Place of the row in the tables of a study."""

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return checked_id("model", value)


class _NamedModel(_Named):
    search: Searched = Field(default_factory=dict)
    """Settings of the model that are searched, by dotted name, such as ``fit.learning_rate``; see `trainer.search_config`."""


class NetworkModel(_NamedModel):
    """A network with a DeepSurv head on images, clinical covariates, or both.

    Attributes
    ----------
    view
        Name or id of the view that is read; needed where `images` is. The head says what of it: ``average``, ``flatten``
        and ``pca`` mean maps, ``attention`` and ``cnn3d`` memories, ``vector`` the vectors of a view that holds those.
    images
        Entries that are read; none for a clinical model.
    clinical
        Whether the covariates of `columns` are stacked behind the image vector.
    head, fusion, components, hidden, dropout, batch_norm, norm_momentum, map_scaling
        See `trainer.spec.ModelSpec`.
    fit
        Settings of fitting that differ from the config's own `fit`.
    """

    kind: Literal["network"]
    view: str | None = None
    images: Images | None = None
    clinical: bool = False
    head: Head = "average"
    fusion: FusionKind = "concat"
    components: Annotated[int, Field(ge=1)] = 32
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (64,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    batch_norm: bool = True
    norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.3
    map_scaling: MapScaling = "pixel"
    fit: FitConfig = FitConfig()

    @model_validator(mode="after")
    def _has_input(self) -> Self:
        _check_input(self)
        try:
            self.spec(clinical_features=int(self.clinical))
        except ValidationError as error:
            raise ValueError(f"model {self.name!r}: {plain_message(error.errors()[0]['msg'])}") from error
        return self

    def spec(self, *, clinical_features: int) -> ModelSpec:
        """Network of this model for a fold whose preprocessing gives so many clinical features."""
        return ModelSpec(
            head=None if self.images is None else self.head,
            modalities=() if self.images is None else self.images.modalities,
            fusion=self.fusion,
            clinical_features=clinical_features,
            components=self.components,
            hidden=self.hidden,
            dropout=self.dropout,
            batch_norm=self.batch_norm,
            norm_momentum=self.norm_momentum,
            map_scaling=self.map_scaling,
        )


class RidgeCoxModel(_NamedModel):
    """Ridge Cox on clinical covariates, on the vectors of a view (radiomics, embeddings), or both; see `trainer.cox.RidgeCox`.

    Attributes
    ----------
    view, images
        Vectors that are read; none for a clinical model.
    clinical
        Whether the covariates of `columns` are among the features.
    penalty
        Of the coefficients; ``inner_cv`` chooses it from `penalties` by cross-validation inside the training part: see
        `trainer.linear.choose_penalty`.
    penalties
        What ``inner_cv`` chooses from, each > 0.
    selection
        Which features of the vectors are left out, in each fold anew; covariates are not looked at.
    ties
        How tied event times share their risk set.
    """

    kind: Literal["ridge_cox"]
    view: str | None = None
    images: Images | None = None
    clinical: bool = True
    penalty: Annotated[float, Field(gt=0)] | Literal["inner_cv"] = 1.0
    penalties: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=2)] = (
        0.1,
        1.0,
        10.0,
        100.0,
        1000.0,
    )
    selection: SelectionRules = SelectionRules()
    ties: Ties = "efron"

    @model_validator(mode="after")
    def _has_input(self) -> Self:
        _check_input(self)
        return self


class PycoxModel(_NamedModel):
    """DeepSurv on the clinical covariates by pycox's own CoxPH and training loop: the reference for ours.

    Attributes
    ----------
    hidden, dropout, batch_norm
        Network, as pycox's MLPVanilla builds it.
    epochs, learning_rate, weight_decay, batch_size, patience, min_validation_events
        Fitting by torchtuples' own loop; early stopping watches the same part of the training fold as our networks, and
        with fewer events there the number of epochs is chosen as for them.
    """

    kind: Literal["pycox"]
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (64,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    batch_norm: bool = True
    epochs: Annotated[int, Field(ge=1)] = 100
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    batch_size: Annotated[int, Field(ge=8)] = 256
    patience: Annotated[int, Field(ge=1)] = 20
    min_validation_events: Annotated[int, Field(ge=1)] = 10

    @property
    def view(self) -> None:
        """It reads no view."""
        return

    @property
    def images(self) -> None:
        """It reads no entry."""
        return

    @property
    def clinical(self) -> bool:
        """It always reads the covariates."""
        return True


class ChoiceModel(_Named):
    """The best of several models, chosen as a search chooses settings: by folds inside the training part, or on the reported ones.

    With it, encoder, region, head and every other choice are made inside the folds, as the primary contrast needs it.

    Attributes
    ----------
    of
        Names of the models that are chosen from, each with its own search.
    """

    kind: Literal["choice"]
    of: Annotated[tuple[str, ...], Field(min_length=2)]


FittedModel = NetworkModel | RidgeCoxModel | PycoxModel
"""A model that can be fitted."""
Candidate = Annotated[FittedModel, Field(discriminator="kind")]
"""The same, as settings hold it."""
Model = Annotated[NetworkModel | RidgeCoxModel | PycoxModel | ChoiceModel, Field(discriminator="kind")]
"""A row of the result."""


def _check_input(model: NetworkModel | RidgeCoxModel) -> None:
    if model.images is None and not model.clinical:
        raise ValueError(f"model {model.name!r} has no input: give it `images`, `clinical: true`, or both")
    if (model.images is None) != (model.view is None):
        raise ValueError(f"model {model.name!r} needs `view` and `images` together, or neither")


def checked_id(kind: str, text: str) -> str:
    """The text, if it can name a thing of this kind.

    Raises
    ------
    ValueError
        If it cannot.
    """
    try:
        return check_id(kind, text)
    except InvalidKeyError as error:
        raise ValueError(str(error)) from error


def plain_message(message: str) -> str:
    """A validator's message without what pydantic puts before it."""
    return message.removeprefix("Value error, ")
