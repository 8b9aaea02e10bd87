"""Draws the settings that a search tries, once and for all workers alike; knows nothing of folds, scores or patients."""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from scipy.stats import qmc

from store_schema.errors import ConfigError
from trainer.model_config import Candidate, FittedModel, plain_message
from trainer.search_config import SearchSettings

_MODEL: TypeAdapter[Any] = TypeAdapter(Candidate)


def search_table(model: FittedModel, search: SearchSettings) -> tuple[dict[str, Any], ...]:
    """Settings of each row of a model's table, by dotted name; one empty row where nothing is searched.

    A scrambled Sobol sequence: the rows fill the ranges evenly, every prefix of 2ⁿ rows too, and depend on the ranges and the
    seed alone.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.4.1; Sobol' 1967; Owen 1998 (scrambling).
    """
    if not model.search:
        return ({},)
    names = list(model.search)
    points = qmc.Sobol(len(names), scramble=True, rng=search.seed).random(search.points)
    return tuple(
        {name: model.search[name].value(float(u)) for name, u in zip(names, point, strict=True)} for point in points
    )


def candidates_of(model: FittedModel, search: SearchSettings) -> tuple[FittedModel, ...]:
    """The model once for each row of its table, each row's settings in place and nothing left to search.

    Raises
    ------
    ConfigError
        If the model has no such setting, or a row makes no model; names row and settings.
    """
    if not model.search:
        return (model,)
    rows = search_table(model, search)
    return tuple(_with_settings(model, settings, row) for row, settings in enumerate(rows))


def _with_settings(model: FittedModel, settings: Mapping[str, Any], row: int) -> FittedModel:
    record = model.model_dump(mode="json", exclude={"search"})
    for name, value in settings.items():
        _put(record, name, value, model.name)
    try:
        made: FittedModel = _MODEL.validate_python(record)
    except ValidationError as error:
        told = ", ".join(f"{name} {value!r}" for name, value in settings.items())
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"][1:]))
        raise ConfigError(
            f"models: {model.name}: row {row} of its search ({told}) makes no model: "
            f"{f'{place}: ' if place else ''}{plain_message(problem['msg'])}. Narrow the ranges"
        ) from error
    return made


def _put(record: dict[str, Any], name: str, value: Any, model: str) -> None:
    """Set a dotted name that is there."""
    *path, last = name.split(".")
    place: Any = record
    for step in path:
        place = place.get(step) if isinstance(place, dict) else None
    if not isinstance(place, dict) or last not in place or last in ("name", "kind"):
        known = ", ".join(known for known in _names(record) if known not in ("name", "kind"))
        raise ConfigError(f"models: {model}: search names {name!r}, which is no setting of it. Known: {known}")
    place[last] = value


def _names(record: Mapping[str, Any], before: str = "") -> list[str]:
    found: list[str] = []
    for name, value in record.items():
        found += _names(value, f"{before}{name}.") if isinstance(value, dict) else [f"{before}{name}"]
    return found
