"""The settings of `trainer cv`: columns, splits, models, controls; knows no store, patient or fitted model."""

from collections import Counter
from difflib import get_close_matches
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from store_schema.errors import ConfigError
from store_schema.files import Place, read_text, without_secret
from trainer.candidates import candidates_of
from trainer.columns import HORIZONS_MONTHS, Columns
from trainer.model_config import (
    ChoiceModel,
    FittedModel,
    Images,
    Model,
    NetworkModel,
    PycoxModel,
    RidgeCoxModel,
    Settings,
    plain_message,
)
from trainer.preprocess import PreprocessRules
from trainer.run_settings import PERMUTATIONS, ContrastSettings, Oracle, PermutedControl, SplitSettings
from trainer.search_config import SearchSettings
from trainer.spec import Device, FitConfig


class RunConfig(Settings):
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
    search
        How models with a `search` of their own are tuned.
    models
        Rows of the result, all judged on one cohort and the same folds.
    claim
        The primary contrast, declared before the run: the one test that may be called a finding. By default the first model of
        images and covariates against the first of covariates alone, where there are both.
    contrasts
        Secondary contrasts, whose p-values are adjusted together (Holm).
    horizons_months
        Times at which survival is judged, in months; those with fewer than 10 patients at risk are left out.
    permuted_control
        Models that are also fitted on permuted outcomes. ``auto``: every Cox model of a fixed penalty and every network without
        convolutions that nothing is searched for, 199 times, so that each has a permutation p (protocol section 6). None: no model.
    oracle
        Risks known from simulation, that the results are held against.
    require_clinical
        Exclude patients without a single covariate.
    seed
        Of weights and dropout.
    fit_together
        Networks that are fitted as one batched model at most; part of what decides the last digits.
    device
        Where networks are fitted: ``cpu``, where those with convolutions are fitted one by one, or ``cuda``, where they stand in
        batched models too. Dropout draws from another stream there: the numbers are those of another seed, not only of rounding.
    """

    columns: Columns
    splits: SplitSettings = SplitSettings()
    preprocessing: PreprocessRules = PreprocessRules()
    fit: FitConfig = FitConfig()
    search: SearchSettings = SearchSettings()
    models: Annotated[tuple[Model, ...], Field(min_length=1)]
    claim: ContrastSettings | None = None
    contrasts: tuple[ContrastSettings, ...] = ()
    horizons_months: tuple[Annotated[float, Field(gt=0)], ...] = HORIZONS_MONTHS
    permuted_control: PermutedControl | Literal["auto"] | None = "auto"
    oracle: Oracle | None = None
    require_clinical: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    fit_together: Annotated[int, Field(ge=1)] = 64
    device: Device = "cpu"

    @field_validator("permuted_control", mode="before")
    @classmethod
    def _known_control(cls, value: Any) -> Any:
        if value is None or value == "auto" or isinstance(value, dict | PermutedControl):
            return value
        raise ValueError(f"expected auto, null or {{models: […], repeats: …}}, got {value!r}")

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
        for place, wanted in self._named_models().items():
            unknown = [name for name in wanted if name not in names]
            if unknown:
                raise ValueError(f"{place} names {', '.join(unknown)}: the models are {', '.join(names)}")
        self._check_choices()
        if self.columns.centre is None and self.splits.of_centres:
            raise ValueError("folds by centre need the centre of each patient: declare it as `columns: centre`")
        blind = [model.name for model in self.fitted_models if model.clinical and not self.columns.covariates]
        if blind:
            raise ValueError(
                f"{', '.join(blind)} reads clinical covariates, and `columns` declares none: name them under "
                "`continuous` or `categorical`"
            )
        return self

    def _named_models(self) -> dict[str, tuple[str, ...]]:
        named = self.permuted_control
        controls = named.models if isinstance(named, PermutedControl) else ()
        contrasts = (*(() if self.claim is None else (self.claim,)), *self.contrasts)
        return {
            "permuted_control": controls,
            "a contrast": tuple(name for contrast in contrasts for name in (contrast.first, contrast.second)),
            "a choice": tuple(name for model in self.models if isinstance(model, ChoiceModel) for name in model.of),
        }

    def _check_choices(self) -> None:
        choices = {model.name for model in self.models if isinstance(model, ChoiceModel)}
        nested = [
            model.name for model in self.models if isinstance(model, ChoiceModel) and choices.intersection(model.of)
        ]
        if nested:
            raise ValueError(f"{', '.join(nested)} chooses from a choice: name the models themselves")

    @property
    def fitted_models(self) -> tuple[FittedModel, ...]:
        """Models that are fitted themselves, in their order: all but choices among others."""
        return tuple(model for model in self.models if not isinstance(model, ChoiceModel))

    @cached_property
    def candidates(self) -> dict[str, tuple[FittedModel, ...]]:
        """Every setting that is tried of each fitted model, by its name; one where nothing is searched."""
        return {model.name: candidates_of(model, self.search) for model in self.fitted_models}

    @property
    def primary_contrast(self) -> ContrastSettings | None:
        """The claim as declared, or the default one; None where the models allow none."""
        if self.claim is not None:
            return self.claim
        both = [model.name for model in self.fitted_models if model.clinical and model.images is not None]
        clinical = [model.name for model in self.fitted_models if model.images is None]
        return ContrastSettings(first=both[0], second=clinical[0]) if both and clinical else None

    @cached_property
    def control(self) -> PermutedControl | None:
        """Which models are fitted on permuted outcomes, and how often; None where none is."""
        if self.permuted_control != "auto":
            return self.permuted_control
        cheap = tuple(
            model.name for model in self.fitted_models if _permutes_cheaply(model) and self.tried(model.name) == 1
        )
        return PermutedControl(models=cheap, repeats=PERMUTATIONS) if cheap else None

    @cached_property
    def members(self) -> dict[str, tuple[str, ...]]:
        """For each row, the fitted models that it is chosen from: a fitted model is its own only member."""
        return {model.name: model.of if isinstance(model, ChoiceModel) else (model.name,) for model in self.models}

    @property
    def tuned(self) -> tuple[str, ...]:
        """Rows whose settings are chosen among several."""
        return tuple(name for name in self.members if self.tried(name) > 1)

    def tried(self, name: str) -> int:
        """Settings that a row is chosen from."""
        return sum(len(self.candidates[member]) for member in self.members[name])

    def is_chosen_from(self, name: str) -> bool:
        """Whether some row chooses among the settings of this fitted model."""
        return any(name in self.members[row] for row in self.tuned)

    @property
    def permuted_models(self) -> tuple[str, ...]:
        """Fitted models that the permuted controls need."""
        controls = () if self.control is None else self.control.models
        return tuple(dict.fromkeys(member for name in controls for member in self.members[name]))

    @property
    def views(self) -> tuple[str, ...]:
        """Views that the models read, each once, in their order."""
        read = (model.view for tried in self.candidates.values() for model in tried)
        return tuple(dict.fromkeys(view for view in read if view is not None))


def read_settings(path: Place) -> Any:
    """What a YAML file holds, here or at an address.

    Raises
    ------
    ConfigError
        If it cannot be read as YAML.
    """
    try:
        return yaml.safe_load(read_text(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{without_secret(path)} cannot be read as YAML settings: {error}") from error


def load_config(path: Place) -> RunConfig:
    """Settings in a YAML file, here or at an address.

    Raises
    ------
    ConfigError
        If the file is not YAML, or a setting is unknown, missing or out of range; names it and what is known.
    """
    settings = read_settings(path)
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
        config = RunConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {'; '.join(_problems(error))}") from error
    for model in config.fitted_models:
        try:
            candidates_of(model, config.search)
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error}") from error
    return config


def _permutes_cheaply(model: FittedModel) -> bool:
    """Whether hundreds of fits cost little: Cox models and networks of covariates and vectors."""
    if isinstance(model, RidgeCoxModel):
        return model.penalty != "inner_cv"
    small = isinstance(model, NetworkModel) and (model.images is None or model.head == "vector")
    # mini-batches are fitted one network at a time
    return small and isinstance(model, NetworkModel) and model.fit.batch_size is None


def parse_columns(settings: dict[str, Any], *, origin: str = "the columns") -> Columns:
    """Checked roles of columns; `origin` says where they came from in an error.

    Raises
    ------
    ConfigError
        If a setting is unknown, missing or out of range.
    """
    try:
        return Columns.model_validate(settings)
    except ValidationError as error:
        told = "; ".join(
            _problem(("columns", *problem["loc"]), problem["type"], problem["msg"]) for problem in error.errors()
        )
        raise ConfigError(f"{origin}: {told}") from error


_CLASSES: dict[str, type[BaseModel]] = {
    "columns": Columns,
    "splits": SplitSettings,
    "preprocessing": PreprocessRules,
    "fit": FitConfig,
    "search": SearchSettings,
    "network": NetworkModel,
    "ridge_cox": RidgeCoxModel,
    "pycox": PycoxModel,
    "choice": ChoiceModel,
    "images": Images,
    "claim": ContrastSettings,
    "permuted_control": PermutedControl,
    "oracle": Oracle,
}
KINDS = ("network", "ridge_cox", "pycox", "choice")


def _problems(error: ValidationError) -> list[str]:
    # the other thing that a control may be is told by its own check
    found = [problem for problem in error.errors() if "literal['auto']" not in problem["loc"]]
    places = {problem["loc"] for problem in found}
    # a fault in the config's own `fit` is inherited by every model: it is told once
    own = [p for p in found if not (len(p["loc"]) > 2 and p["loc"][-2] == "fit" and p["loc"][-2:] in places)]
    return [_problem(problem["loc"], problem["type"], problem["msg"]) for problem in own]


def _problem(loc: tuple[int | str, ...], kind: str, message: str) -> str:
    # after a model's number stands its kind, which nobody wrote
    told = [
        part
        for before, part in zip((None, *loc), loc, strict=False)
        if not (isinstance(before, int) and part in KINDS) and part != PermutedControl.__name__
    ]
    place = ".".join(map(str, told))
    if kind == "union_tag_not_found":
        return f"{place}.kind: expected {', '.join(KINDS)}, got none"
    if kind != "extra_forbidden":
        return f"{place}: {plain_message(message)}" if place else plain_message(message)
    owners = [_CLASSES[part] for part in loc[:-1] if isinstance(part, str) and part in _CLASSES]
    known = list((owners[-1] if owners else RunConfig).model_fields)
    near = get_close_matches(str(loc[-1]), known, n=1)
    meant = f", perhaps {near[0]!r}?" if near else "."
    return f"{place} is not a setting{meant} Known here: {', '.join(known)}"


def _with_fit(model: Any, base: Any) -> Any:
    if isinstance(base, FitConfig):
        base = base.model_dump()
    if not isinstance(model, dict) or model.get("kind") != "network" or not isinstance(base, dict):
        return model
    own = model.get("fit", {})
    own = own.model_dump() if isinstance(own, FitConfig) else own
    return {**model, "fit": {**base, **own}} if isinstance(own, dict) else model
