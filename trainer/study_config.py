"""Settings of a study: a grid of models by origin, mask, encoder, downsampling and fusion; makes a run of it, fits none."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from store_schema.errors import ConfigError
from store_schema.files import Place, without_secret
from trainer.config import RunConfig, parse_config, read_settings
from trainer.model_config import Facets, Settings, plain_message
from trainer.trust_config import TrustSettings

NOT_APPLICABLE = "–"
ORIGINS: dict[str, tuple[str, ...]] = {"PET": ("PET",), "CT": ("CT",), "combined": ("PET", "CT")}
HEADS = {"averaging": "average"}
"""Heads that a study calls by the paper's word; others go by their own name."""
FUSIONS = {"concatenation": "concat", "gated": "gate"}


class RowBlock(Settings):
    """Rows of a study: every combination of its lists.

    Attributes
    ----------
    table
        Table that the rows belong to: ``image`` (the paper's Table 1), ``multimodal`` (Table 2), ``clinical`` or ``radiomics``
        (which stand in Table 3 alone).
    kind
        Of the models.
    origin
        Names among the study's `origins`; none for clinical models.
    mask
        Regions of interest.
    model
        Names among the study's `views`.
    downsampling
        Heads of networks: ``averaging``, ``attention``, ``vector`` (views of vectors) and the others of `trainer.spec.Head`.
    fusion
        ``concatenation`` and ``gated``; tells apart only origins of two modalities.
    settings
        Everything else that the models take, such as ``fit``, ``hidden``, ``search`` or ``penalty``.
    name
        Of the row, where it is one.
    """

    table: Literal["image", "multimodal", "clinical", "radiomics"] = "image"
    kind: Literal["network", "ridge_cox", "pycox"] = "network"
    origin: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    downsampling: tuple[str, ...] = ("averaging",)
    fusion: tuple[str, ...] = ("concatenation",)
    settings: dict[str, Any] = Field(default_factory=dict)
    name: str | None = None


class StudyConfig(Settings):
    """A grid of models, and the settings of the run that judges them all on one cohort and the same folds.

    Attributes
    ----------
    views
        View of the store for each name that rows use under `model`.
    origins
        Modalities for each name that rows use under `origin`, in the order in which they are fused.
    baselines
        Names among `views` that are not the study's own embedding, for Table 3.
    rows
        What is fitted.
    trust
        What `trainer trust` adds; nothing else looks at it.
    run
        Settings of `trainer cv` but for `models`: columns, splits, fit, search, claim, …
    """

    views: dict[str, str] = Field(default_factory=dict)
    origins: dict[str, tuple[str, ...]] = ORIGINS
    baselines: tuple[str, ...] = ()
    rows: Annotated[tuple[RowBlock, ...], Field(min_length=1)]
    trust: TrustSettings = TrustSettings()
    run: dict[str, Any]


def load_study(path: Place) -> RunConfig:
    """The run that a study's YAML file describes.

    Raises
    ------
    ConfigError
        If the file is not YAML, or a setting is unknown, missing or out of range; names it and what is known.
    """
    return parse_study(read_settings(path), origin=without_secret(path))


def load_trusted(path: Place) -> tuple[RunConfig, TrustSettings]:
    """The run that a study's YAML file describes, and how far it is to be trusted; errors as of `load_study`."""
    return parse_trusted(read_settings(path), origin=without_secret(path))


def parse_study(settings: Any, *, origin: str = "the study") -> RunConfig:
    """The run that a study's settings describe; `origin` says where they came from in an error.

    Raises
    ------
    ConfigError
        If a setting is unknown, missing or out of range.
    """
    return parse_trusted(settings, origin=origin)[0]


def parse_trusted(settings: Any, *, origin: str = "the study") -> tuple[RunConfig, TrustSettings]:
    """The same with what the study asks of `trainer trust`; errors as of `parse_study`."""
    study = _study(settings, origin)
    models = [model for block in study.rows for model in _models(study, block, origin)]
    return parse_config({**study.run, "models": models}, origin=origin), study.trust


def _study(settings: Any, origin: str) -> StudyConfig:
    if not isinstance(settings, dict):
        raise ConfigError(f"{origin} holds {type(settings).__name__}: expected 'setting: value' lines")
    given = {name: value for name, value in settings.items() if name in StudyConfig.model_fields}
    # settings of the run stand beside the grid, as in a config of `trainer cv`
    run = {name: value for name, value in settings.items() if name not in given}
    try:
        study = StudyConfig.model_validate({**given, "run": {**run, **given.get("run", {})}})
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, found['loc']))}: {plain_message(found['msg'])}" for found in error.errors())
        raise ConfigError(f"{origin}: {'; '.join(problems)}") from error
    if "models" in study.run:
        raise ConfigError(f"{origin}: a study lists its models as `rows`: leave `models` to `trainer cv`")
    return study


def _models(study: StudyConfig, block: RowBlock, origin: str) -> Iterator[dict[str, Any]]:
    found = list(_combinations(study, block, origin))
    if block.name is not None and len(found) > 1:
        raise ConfigError(
            f"{origin}: rows: {block.name!r} would name {len(found)} rows: leave `name` out, or give one of each list"
        )
    for facets, head in found:
        yield _model(study, block, facets, head)


def _combinations(study: StudyConfig, block: RowBlock, origin: str) -> Iterator[tuple[Facets, str]]:
    """What tells each row of a block from the others, and its downsampling, in the order of its lists."""
    if not block.origin:
        yield Facets(table=block.table), NOT_APPLICABLE
        return
    for kind, known, wanted in (("origins", study.origins, block.origin), ("views", study.views, block.model)):
        strangers = [name for name in wanted if name not in known]
        if strangers or not wanted:
            told = f"{', '.join(strangers) or 'none'} of {kind}: there are {', '.join(known) or 'none'}"
            raise ConfigError(f"{origin}: rows name {told}")
    if not block.mask:
        raise ConfigError(f"{origin}: rows name none of masks: give the regions that they read")
    heads = block.downsampling if block.kind == "network" else (NOT_APPLICABLE,)
    for place, mask, model, head in product(block.origin, block.mask, block.model, heads):
        fusions = block.fusion if len(study.origins[place]) > 1 and block.kind == "network" else (NOT_APPLICABLE,)
        for fusion in fusions:
            facets = Facets(
                table=block.table,
                origin=place,
                mask=mask,
                model=model,
                # the one head of vectors is no choice: the paper's tables leave it out
                downsampling=NOT_APPLICABLE if head == "vector" else head,
                fusion=fusion,
                baseline=model in study.baselines,
            )
            yield facets, head


def _model(study: StudyConfig, block: RowBlock, facets: Facets, head: str) -> dict[str, Any]:
    clinical = block.table in ("multimodal", "clinical")
    made: dict[str, Any] = {"kind": block.kind, "name": block.name or _name(facets), "facets": facets.model_dump()}
    if block.kind != "pycox":
        made["clinical"] = clinical
    if facets.origin != NOT_APPLICABLE:
        made["view"] = study.views[facets.model]
        made["images"] = {"modalities": list(study.origins[facets.origin]), "roi": facets.mask}
    if block.kind == "network" and facets.origin != NOT_APPLICABLE:
        made["head"] = HEADS.get(head, head)
        made["fusion"] = FUSIONS.get(facets.fusion, "concat")
    return _merged(made, block.settings)


def _name(facets: Facets) -> str:
    parts = [facets.table] if facets.table != "image" else []
    told = (facets.origin, facets.mask, facets.model, facets.downsampling, FUSIONS.get(facets.fusion, facets.fusion))
    return ".".join([*parts, *(part for part in told if part != NOT_APPLICABLE)])


def _merged(made: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Settings of the block laid over those of the grid; `images` is completed, not replaced."""
    images = {**made.get("images", {}), **more.get("images", {})}
    return {**made, **more, **({"images": images} if images else {})}


def paper_study() -> str:
    """The bundled study of the paper as YAML text: all rows of its Tables 1 to 3, for a cohort's own columns to be filled in."""
    return (Path(__file__).parent / "studies" / "study-paper.yaml").read_text(encoding="utf-8")
