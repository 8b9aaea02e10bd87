"""Keeps a fitted model as a card of JSON and weights of safetensors, and reads it back; nothing in it can be executed."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from store_schema.errors import AlreadyExistsError, ConfigError, ObjectAlteredError, SchemaError
from store_schema.records import sha256
from trainer.baseline_hazard import BreslowBaseline
from trainer.columns import Columns, TimeUnit
from trainer.cox import RidgeCox
from trainer.fit import Fitted
from trainer.judging import Trained, TrainedCox, TrainedNetwork
from trainer.model_config import Candidate
from trainer.preparing import Scaler
from trainer.preprocess import ClinicalPreprocessor
from trainer.run_folder import RunFolder
from trainer.spec import FitConfig, ModelSpec
from trainer.stopping import FitRecord
from trainer.vector_selection import VectorSelection

CARD, WEIGHTS = "card.json", "weights.safetensors"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkPart(_Record):
    """A network, up to its weights."""

    spec: ModelSpec
    fit: FitConfig
    seed: int
    scalers: dict[str, Scaler]
    """Standardisation of each modality, from the training patients."""
    record: FitRecord
    """How the fit went."""
    weights_sha256: str
    """Of the file of weights."""


class TrainingFacts(_Record):
    """Who the model was fitted on; no patient is named.

    Attributes
    ----------
    patients, events
        Of the whole cohort.
    median_follow_up
        By reverse Kaplan-Meier, in the model's time unit; None where it is not reached.
    apparent_c
        Harrell's c of the patients that it was fitted on: not an estimate of anything.
    cohort_sha256
        Digest of the run's cohort file.
    cohort_digest
        Of patients and outcomes, by which the same cohort is known again; None in models of earlier versions.
    last_follow_up
        Longest follow-up: beyond it the model says nothing. None in models of earlier versions.
    """

    patients: int
    events: int
    median_follow_up: float | None
    apparent_c: float
    cohort_sha256: str
    cohort_digest: str | None = None
    last_follow_up: float | None = None


class JudgedFacts(_Record):
    """What the cross-validation said of models made in this way.

    Attributes
    ----------
    mean, se, folds
        Harrell's c over folds.
    tuned, tried
        How settings were chosen, and of how many.
    slope, slope_low, slope_high
        Calibration slope of the out-of-fold risks with its 95% interval: below 1, risks and survival curves spread too far.
    """

    mean: float | None
    se: float | None
    folds: int
    tuned: Literal["nested", "paper"] | None
    tried: int
    slope: float | None = None
    slope_low: float | None = None
    slope_high: float | None = None

    @property
    def overconfident(self) -> bool:
        """Whether the whole interval of the slope lies below 1."""
        return self.slope_high is not None and self.slope_high < 1


class Card(_Record):
    """All that a fitted model is, but for the weights of a network.

    Attributes
    ----------
    name, model
        Row of the run, and its settings.
    columns
        Roles of the clinical table's columns.
    preprocessing
        How covariates become features; None where the model takes none.
    view, snapshot
        View whose entries it reads (only of this very view do the numbers mean anything), and the snapshot it was fitted on.
    encoder_trained
        Whether the view's encoder has trained weights; None without images.
    time_unit
        Of the baseline and of every time.
    baseline
        Breslow's baseline hazard.
    risk_mean, risk_sd, risk_cuts
        Of the training patients' log-risks: mean, standard deviation (divisor n) and quartile cuts, for risk groups 1 to 4.
    network, cox
        The model itself, whichever it is.
    selection
        How a linear model prepares the vectors that it reads.
    training, judged
        Who it was fitted on, and what cross-validation said.
    versions
        Of the code and libraries that fitted it.
    """

    layout: Literal["engram-model-1"] = "engram-model-1"
    name: str
    model: Candidate
    columns: Columns
    preprocessing: ClinicalPreprocessor | None
    view: str | None
    snapshot: str | None
    encoder_trained: bool | None
    time_unit: TimeUnit
    baseline: BreslowBaseline
    risk_mean: float
    risk_sd: float
    risk_cuts: tuple[float, float, float]
    network: NetworkPart | None = None
    cox: dict[str, Any] | None = None
    selection: VectorSelection | None = None
    training: TrainingFacts
    judged: JudgedFacts
    versions: dict[str, str]


def described(trained: Trained) -> tuple[dict[str, Any], bytes | None]:
    """The card's part of a fitted model, and its file of weights, where it has one.

    Raises
    ------
    ConfigError
        If models of this kind are not kept.
    """
    if isinstance(trained, TrainedCox):
        return {"cox": trained.fitted.to_dict(), "selection": trained.selection}, None
    if not isinstance(trained, TrainedNetwork):
        raise ConfigError("a reference model (kind: pycox) is for comparison and is not kept: keep a network instead")
    fitted = trained.fitted
    weights = save(dict(fitted.state))
    part = NetworkPart(
        spec=fitted.spec,
        fit=fitted.config,
        seed=fitted.seed,
        scalers=dict(fitted.scalers),
        record=fitted.record,
        weights_sha256=sha256(weights),
    )
    return {"network": part}, weights


def card_bytes(card: Card) -> bytes:
    """Text of the card's file."""
    return (card.model_dump_json(indent=1) + "\n").encode()


def write_model(card: Card, weights: bytes | None, url: str) -> str:
    """Write a model into a folder of its own, once; gives the folder's address.

    Raises
    ------
    AlreadyExistsError
        If the folder holds another model.
    """
    folder = RunFolder.open(url)
    text = card_bytes(card)
    held = folder.read(CARD)
    if held is not None and held != text:
        raise AlreadyExistsError(f"{folder.url} holds another model: a model is written once. Use a new folder")
    # the card comes last: a folder without one holds no model
    if weights is not None:
        folder.replace(WEIGHTS, weights)
    folder.keep(CARD, text)
    return folder.url


def card_sha256(url: str) -> str:
    """Digest of a model's card as its file is."""
    return sha256(RunFolder.open(url).location.get(CARD))


def read_model(url: str) -> tuple[Card, Trained]:
    """A model as it was written, its weights checked against the card.

    Raises
    ------
    SchemaError
        If the folder holds no model, or a file is not what its name says.
    ObjectAlteredError
        If the weights are not those of the card.
    """
    folder = RunFolder.open(url)
    data = folder.read(CARD)
    if data is None:
        raise SchemaError(f"{folder.url} holds no model: it has no {CARD}. `trainer fit` makes one")
    try:
        card = Card.model_validate_json(data)
    except ValidationError as error:
        raise SchemaError(f"{folder.url}/{CARD} is not a model's card of layout engram-model-1: {error}") from error
    if card.cox is not None:
        return card, TrainedCox(RidgeCox.from_dict(card.cox), card.selection)
    if card.network is None:
        raise SchemaError(f"{folder.url}/{CARD} describes no model: it has neither `network` nor `cox`")
    return card, TrainedNetwork(_network(card.network, folder))


def _network(part: NetworkPart, folder: RunFolder) -> Fitted:
    weights = folder.read(WEIGHTS)
    if weights is None or sha256(weights) != part.weights_sha256:
        found = "is not there" if weights is None else f"has sha256 {sha256(weights)[:16]}"
        raise ObjectAlteredError(
            f"{folder.url}/{WEIGHTS} {found}, the card names {part.weights_sha256[:16]}: restore the file, or fit again"
        )
    try:
        state = load(weights)
    except SafetensorError as error:
        raise SchemaError(f"{folder.url}/{WEIGHTS} is no safetensors file: {error}") from error
    return Fitted(part.spec, part.fit, part.seed, part.scalers, state, part.record)
