"""Says what a model is and how it is fitted, for a config to embed; knows nothing of torch or patients."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Ties = Literal["efron", "breslow"]
Head = Literal["average", "attention", "cnn3d", "vector", "flatten", "pca"]
FLAT_HEADS: tuple[str, ...] = ("vector", "flatten", "pca")
"""Heads without a convolution, many of which fit as one batched model: what enters them is (patient, feature)."""
SIZED_HEADS: tuple[str, ...] = (*FLAT_HEADS, "attention")
"""Heads whose weights depend on the size of what enters them."""
FusionKind = Literal["concat", "gate"]
MapScaling = Literal["pixel", "scalar", "none"]
Schedule = Literal["cosine", "step", "constant"]
Device = Literal["cpu", "cuda"]
"""Where networks are fitted."""


class ModelSpec(BaseModel):
    """A survival model, up to its weights.

    Attributes
    ----------
    head
        How an image becomes a vector; None for a model of clinical covariates alone. ``average``: the mean map by small
        convolutions. ``attention``: the memory by light depth attention. ``cnn3d``: the memory as one volume by small 3-D
        convolutions. ``vector``: a stored vector by one hidden layer of 128. ``flatten``: the mean map as it is, pixel by
        pixel. ``pca``: the mean map's principal components. The last two have no weights.
    modalities
        Images, each with a tower of its own, in the order in which their vectors are fused: with the gate, alpha is the
        weight of the first.
    fusion
        ``concat`` (vectors side by side) or ``gate`` (one weight per patient; two modalities at most). With one
        modality neither does anything.
    clinical_features
        Columns of the clinical vector stacked behind the image; 0 for an image-only model. Known per fold only, after
        the preprocessing was fitted.
    features
        Numbers that enter a flat head, or memory layers that enter the attention head, for each modality in their order.
        Known per fit only: empty in settings, filled by `trainer.preparing.sized` when the scalers were fitted. The other
        heads do not need it.
    components
        Principal components that ``pca`` keeps of each map at most; a training part of n patients has n - 1.
    hidden
        Widths of the hidden layers of the survival head; empty for a linear one.
    dropout
        Share of hidden units dropped in training, those of the ``vector`` head too.
    batch_norm
        Whether hidden layers are batch-normalised, that of the ``vector`` head too.
    norm_momentum
        Weight of the newest step in the running statistics that batch normalisation uses in evaluation. Higher than
        torch's 0.1, since an epoch is one step when the batch is the whole training part.
    map_scaling
        Standardisation of the maps, fitted in the training part: see `trainer.scaling.MapScaler`. Vectors are z-scored
        and components whitened whatever it says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: Head | None = "average"
    modalities: tuple[str, ...] = ("PET", "CT")
    fusion: FusionKind = "concat"
    clinical_features: Annotated[int, Field(ge=0)] = 0
    features: tuple[Annotated[int, Field(ge=1)], ...] = ()
    components: Annotated[int, Field(ge=1)] = 32
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (64,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    batch_norm: bool = True
    norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.3
    map_scaling: MapScaling = "pixel"

    @field_validator("modalities")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"expected distinct modalities, got {', '.join(value)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.head is None) != (not self.modalities):
            raise ValueError(
                f"head {self.head!r} with modalities {self.modalities}: an image head needs a modality, and a model "
                "without one (head: null) must name none (modalities: [])"
            )
        if self.fusion == "gate" and len(self.modalities) > 2:
            raise ValueError(f"the gate mixes two modalities, got {len(self.modalities)}: use fusion: concat")
        if self.features and len(self.features) != len(self.modalities):
            raise ValueError(
                f"expected the number of features of each of {len(self.modalities)} modalities, got {self.features}"
            )
        return self


class FitConfig(BaseModel):
    """How a model is fitted.

    Attributes
    ----------
    epochs
        Most epochs, and the length of the cosine.
    learning_rate
        Of AdamW, at the start.
    weight_decay
        Decoupled decay of weights; biases and normalisation scales are left out.
    l2
        The paper's lambda: the loss gains lambda times the sum of squares of all parameters of the survival head.
    schedule
        ``cosine`` to 0, ``step`` (a tenth after each third of the epochs) or ``constant``.
    clip_norm
        Largest norm of the gradient over all parameters; None leaves it as it is.
    patience
        Epochs without improvement after which fitting stops.
    min_epochs
        Epochs before the first weights that may be kept as the best.
    tolerance
        Decrease of the validation loss that counts as improvement.
    min_validation_events
        Events that the validation part needs to be listened to.
    ties
        How tied event times share their risk set.
    batch_size
        Least patients of a mini-batch; None takes the whole training part as one batch, so that risk sets are whole.

    References
    ----------
    Guinea-Pérez et al. 2026, sections 2.3.3 and 2.4.1; protocol section 5.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: Annotated[int, Field(ge=1)] = 100
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    l2: Annotated[float, Field(ge=0)] = 0.0
    schedule: Schedule = "cosine"
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    patience: Annotated[int, Field(ge=1)] = 20
    min_epochs: Annotated[int, Field(ge=1)] = 10
    tolerance: Annotated[float, Field(ge=0)] = 1e-4
    min_validation_events: Annotated[int, Field(ge=1)] = 10
    ties: Ties = "efron"
    batch_size: Annotated[int, Field(ge=64)] | None = None
