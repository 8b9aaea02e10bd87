"""The settings of `trainer cv`: columns, splits, models, controls; knows no store, patient or fitted model."""

from collections import Counter
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from store_schema.errors import ConfigError, InvalidKeyError
from store_schema.files import Place, read_text, without_secret
from store_schema.keys import check_id
from trainer.columns import Columns
from trainer.preprocess import PreprocessRules
from trainer.spec import FitConfig, FusionKind, Head, MapScaling, ModelSpec, Ties


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SplitSettings(_Settings):
    """How patients are dealt into outer folds; see `trainer.splits.make_splits`.

    Attributes
    ----------
    folds
        Parts of the cohort; each is the test part once.
    repeats
        Dealings of the whole cohort.
    method
        ``blocks``: sort by event and time, deal neighbours at random. ``quantiles``: as in the paper.
    seed
        Of outer and inner splits.
    by_centre
        Keep each centre in one fold; needs `columns: centre`.
    """

    folds: Annotated[int, Field(ge=2)] = 5
    repeats: Annotated[int, Field(ge=1)] = 1
    method: Literal["blocks", "quantiles"] = "blocks"
    seed: Annotated[int, Field(ge=0)] = 0
    by_centre: bool = False


class Images(_Settings):
    """Which entries of the view a model reads: one region of each modality.

    Attributes
    ----------
    modalities
        In the order in which their vectors are fused: with the gate, alpha is the weight of the first.
    roi
        Region of interest.
    pool
        Maps are averaged in plane over blocks of so many cells before the head; 1 leaves them as stored. A `paper` map
        of a small network is an enlarged one (8×8 to 64×64 for `mini`): 4 then loses nothing and fits 16 times faster.
    """

    modalities: Annotated[tuple[str, ...], Field(min_length=1)] = ("PET", "CT")
    roi: str
    pool: Annotated[int, Field(ge=1)] = 1

    @field_validator("modalities", "roi")
    @classmethod
    def _ids(cls, value: Any) -> Any:
        for text in (value,) if isinstance(value, str) else value:
            _checked_id("modality or roi", text)
        return value


class _NamedModel(_Settings):
    name: str
    """Row of the tables; unique."""

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return _checked_id("model", value)


class NetworkModel(_NamedModel):
    """A network with a DeepSurv head on images, clinical covariates, or both.

    Attributes
    ----------
    view
        Name or id of the view whose mean maps are read; needed where `images` is.
    images
        Entries that are read; none for a clinical model.
    clinical
        Whether the covariates of `columns` are stacked behind the image vector.
    head, fusion, hidden, dropout, batch_norm, norm_momentum, map_scaling
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
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (64,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    batch_norm: bool = True
    norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.3
    map_scaling: MapScaling = "pixel"
    fit: FitConfig = FitConfig()

    @model_validator(mode="after")
    def _has_input(self) -> Self:
        if self.images is None and not self.clinical:
            raise ValueError(f"model {self.name!r} has no input: give it `images`, `clinical: true`, or both")
        if (self.images is None) != (self.view is None):
            raise ValueError(f"model {self.name!r} needs `view` and `images` together, or neither")
        try:
            self.spec(clinical_features=int(self.clinical))
        except ValidationError as error:
            raise ValueError(f"model {self.name!r}: {_plain(error.errors()[0]['msg'])}") from error
        return self

    def spec(self, *, clinical_features: int) -> ModelSpec:
        """Network of this model for a fold whose preprocessing gives so many clinical features."""
        return ModelSpec(
            head=None if self.images is None else self.head,
            modalities=() if self.images is None else self.images.modalities,
            fusion=self.fusion,
            clinical_features=clinical_features,
            hidden=self.hidden,
            dropout=self.dropout,
            batch_norm=self.batch_norm,
            norm_momentum=self.norm_momentum,
            map_scaling=self.map_scaling,
        )


class RidgeCoxModel(_NamedModel):
    """Ridge Cox on the clinical covariates: the linear baseline; see `trainer.cox.RidgeCox`."""

    kind: Literal["ridge_cox"]
    penalty: Annotated[float, Field(gt=0)] = 1.0
    ties: Ties = "efron"

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


Model = Annotated[NetworkModel | RidgeCoxModel, Field(discriminator="kind")]


class PermutedControl(_Settings):
    """Models that are also fitted on permuted outcomes, where they must be at chance.

    Attributes
    ----------
    models
        Their names.
    repeats
        Permutations; from 19 on, a permutation p is computed (protocol section 6 uses 199).
    seed
        Of the permutations.
    """

    models: Annotated[tuple[str, ...], Field(min_length=1)]
    repeats: Annotated[int, Field(ge=1)] = 1
    seed: Annotated[int, Field(ge=0)] = 0


class Oracle(_Settings):
    """Risks that are known because the outcomes were simulated with them.

    Attributes
    ----------
    table
        Table with a column `patient` and the oracle's; none where they stand in the clinical table. The command line's
        --oracle wins.
    columns
        Each is a log-risk; higher is worse.
    """

    table: str | None = None
    columns: Annotated[tuple[str, ...], Field(min_length=1)] = ("log_hazard",)


class RunConfig(_Settings):
    """Everything that decides the numbers of a run, but the table and the snapshots.

    Attributes
    ----------
    columns
        Roles of the clinical table's columns.
    splits
        How the outer folds are dealt.
    preprocessing
        How missing covariates are filled.
    fit
        Settings of fitting that every network starts from.
    models
        Rows of the result, all judged on one cohort and the same folds.
    permuted_control, oracle
        What the results are held against.
    require_clinical
        Exclude patients without a single covariate.
    seed
        Of weights and dropout.
    """

    columns: Columns
    splits: SplitSettings = SplitSettings()
    preprocessing: PreprocessRules = PreprocessRules()
    fit: FitConfig = FitConfig()
    models: Annotated[tuple[Model, ...], Field(min_length=1)]
    permuted_control: PermutedControl | None = None
    oracle: Oracle | None = None
    require_clinical: bool = False
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="before")
    @classmethod
    def _inherit_fit(cls, data: Any) -> Any:
        """Completes each network's `fit` by the config's own."""
        if not isinstance(data, dict) or not isinstance(data.get("models"), list | tuple):
            return data
        base = data.get("fit")
        return {**data, "models": [_with_fit(model, base) for model in data["models"]]}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = Counter(model.name for model in self.models)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise ValueError(f"two models are named {', '.join(twice)}: give each a name of its own")
        controls = () if self.permuted_control is None else self.permuted_control.models
        unknown = [name for name in controls if name not in names]
        if unknown:
            raise ValueError(f"permuted_control names {', '.join(unknown)}: the models are {', '.join(names)}")
        blind = [model.name for model in self.models if model.clinical and not self.columns.covariates]
        if blind:
            raise ValueError(
                f"{', '.join(blind)} reads clinical covariates, and `columns` declares none: name them under "
                "`continuous` or `categorical`"
            )
        return self

    @property
    def views(self) -> tuple[str, ...]:
        """Views that the models name, each once, in their order."""
        return tuple(dict.fromkeys(model.view for model in self.models if model.view is not None))


def load_config(path: Place) -> RunConfig:
    """Settings in a YAML file, here or at an address.

    Raises
    ------
    ConfigError
        If the file is not YAML, or a setting is unknown, missing or out of range; names it and what is known.
    """
    try:
        settings = yaml.safe_load(read_text(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{without_secret(path)} cannot be read as YAML settings: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{without_secret(path)} holds {type(settings).__name__}: expected 'setting: value' lines")
    return parse_config(settings, origin=without_secret(path))


def parse_config(settings: dict[str, Any], *, origin: str = "the config") -> RunConfig:
    """Checked settings; `origin` says where they came from in an error.

    Raises
    ------
    ConfigError
        If a setting is unknown, missing or out of range.
    """
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {'; '.join(_problems(error))}") from error


_CLASSES: dict[str, type[BaseModel]] = {
    "columns": Columns,
    "splits": SplitSettings,
    "preprocessing": PreprocessRules,
    "fit": FitConfig,
    "network": NetworkModel,
    "ridge_cox": RidgeCoxModel,
    "images": Images,
    "permuted_control": PermutedControl,
    "oracle": Oracle,
}


def _problems(error: ValidationError) -> list[str]:
    found = error.errors()
    places = {problem["loc"] for problem in found}
    # a fault in the config's own `fit` is inherited by every model: it is told once
    own = [p for p in found if not (len(p["loc"]) > 2 and p["loc"][-2] == "fit" and p["loc"][-2:] in places)]
    return [_problem(problem["loc"], problem["type"], problem["msg"]) for problem in own]


def _problem(loc: tuple[int | str, ...], kind: str, message: str) -> str:
    place = ".".join(str(part) for part in loc if part not in ("network", "ridge_cox"))
    if kind == "union_tag_not_found":
        return f"{place}.kind: expected 'network' or 'ridge_cox', got none"
    if kind != "extra_forbidden":
        return f"{place}: {_plain(message)}" if place else _plain(message)
    owners = [_CLASSES[part] for part in loc[:-1] if isinstance(part, str) and part in _CLASSES]
    known = list((owners[-1] if owners else RunConfig).model_fields)
    near = get_close_matches(str(loc[-1]), known, n=1)
    meant = f", perhaps {near[0]!r}?" if near else "."
    return f"{place} is not a setting{meant} Known here: {', '.join(known)}"


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")


def _with_fit(model: Any, base: Any) -> Any:
    if isinstance(base, FitConfig):
        base = base.model_dump()
    if not isinstance(model, dict) or model.get("kind") != "network" or not isinstance(base, dict):
        return model
    own = model.get("fit", {})
    own = own.model_dump() if isinstance(own, FitConfig) else own
    return {**model, "fit": {**base, **own}} if isinstance(own, dict) else model


def _checked_id(kind: str, text: str) -> str:
    try:
        return check_id(kind, text)
    except InvalidKeyError as error:
        raise ValueError(str(error)) from error
