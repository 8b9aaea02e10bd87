"""Puts a study's results into the tables of the paper, in its columns and order; computes no figure and knows no file."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.config import RunConfig
from trainer.model_config import Facets
from trainer.results import Row, RunResults
from trainer.wording import mean_text, tuning_text

TUNED = "Settings tried"
"""Column that a table of the paper gets where a row of it was tuned."""


@dataclass(frozen=True)
class StudyTable:
    """A table as the paper prints it."""

    name: str
    """Of its file: ``table-1`` …"""
    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    """Cells as text, the best c-index first."""

    def to_csv(self) -> str:
        """Text of a CSV file."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.lines)
        return text.getvalue()


def study_tables(config: RunConfig, results: RunResults) -> tuple[StudyTable, ...]:
    """Tables 1 to 3 of a study whose rows have facets; none of a run without. Where a row was tuned, a last column says how.

    References
    ----------
    Guinea-Pérez et al. 2026, Tables 1 to 3.
    """
    facets = {model.name: model.facets for model in config.models if model.facets is not None}
    if not facets:
        return ()
    found = [(facets[name], row) for name, row in _by_model(config, results) if name in facets]
    image = _sorted(pair for pair in found if pair[0].table == "image")
    multimodal = _sorted(pair for pair in found if pair[0].table == "multimodal")
    tables = []
    if image:
        tables.append(_image_table(image))
    if multimodal:
        tables.append(_multimodal_table(multimodal))
    return (*tables, _best_table(config, found))


def paper_p(row: Row) -> str:
    """P against chance in the paper's form: one-sided; with repeated folds the corrected one, since no other is given then."""
    p = row.corrected_p_one_sided if row.p_one_sided is None else row.p_one_sided
    return "–" if p is None else f"{p:.3e}"


def _by_model(config: RunConfig, results: RunResults) -> list[tuple[str, Row]]:
    """Rows of the config's models; of one that was tuned both ways the nested one, which stands first."""
    rows = {row.label: row for row in results.of_kind("model")}
    return [(model.name, rows[model.name]) for model in config.models if model.name in rows]


def _sorted(found: Iterable[tuple[Facets, Row]]) -> list[tuple[Facets, Row]]:
    return sorted(found, key=lambda pair: (pair[1].mean is None, -(pair[1].mean or 0.0)))


def _image_table(found: Sequence[tuple[Facets, Row]]) -> StudyTable:
    columns = ("Origin", "Mask", "Model", "Downsampling", "Fusion", "Test c-index", "p-value")
    lines = [
        (facets.origin, facets.mask, facets.model, facets.downsampling, facets.fusion, mean_text(row), paper_p(row))
        for facets, row in found
    ]
    title = "Table 1. Image-only configurations (sorted by c-index)"
    return _table("table-1", title, columns, lines, [row for _, row in found])


def _multimodal_table(found: Sequence[tuple[Facets, Row]]) -> StudyTable:
    several = len({(facets.model, facets.downsampling, facets.fusion) for facets, _ in found}) > 2
    columns = ("Origin", "Mask", *(("Model", "Downsampling", "Fusion") if several else ()), "Test c-index", "p-value")
    lines = []
    for facets, row in found:
        more = (facets.model, facets.downsampling, facets.fusion) if several else ()
        lines.append((facets.origin, facets.mask, *more, mean_text(row), paper_p(row)))
    title = "Table 2. Multimodal configurations (sorted by c-index)"
    return _table("table-2", title, columns, lines, [row for _, row in found])


def _table(
    name: str, title: str, columns: tuple[str, ...], lines: Sequence[tuple[str, ...]], rows: Sequence[Row]
) -> StudyTable:
    """The table, with what was tried beside every figure where any of its rows was tuned."""
    if any(row.tuned for row in rows):
        columns = (*columns, TUNED)
        lines = [(*line, tuning_text(row) or "–") for line, row in zip(lines, rows, strict=True)]
    return StudyTable(name, title, columns, tuple(lines))


def _family(facets: Facets, kind: str) -> str | None:
    """Line of Table 3 that a row competes for."""
    if facets.table == "clinical":
        return {"network": "Clinical only - DeepSurv", "ridge_cox": "Clinical only - Cox"}.get(kind)
    if facets.table == "radiomics":
        return "Image only - radiomics baseline"
    if facets.baseline:
        return None
    both = facets.table == "multimodal"
    return "Multimodal model - our embedding + clinical" if both else "Image only - our embedding"


def _best_table(config: RunConfig, found: Sequence[tuple[Facets, Row]]) -> StudyTable:
    kinds = {model.name: model.kind for model in config.models}
    families: dict[str, list[tuple[Facets, Row]]] = {}
    for facets, row in found:
        family = _family(facets, kinds[row.model])
        if family is not None:
            families.setdefault(family, []).append((facets, row))
    best = []
    for family, mine in families.items():
        of_several = f" (best of {len(mine)})" if len(mine) > 1 else ""
        best.append((family + of_several, _sorted(mine)[0][1]))
    best.sort(key=lambda pair: -(pair[1].mean or 0.0))
    lines = [(name, mean_text(row)) for name, row in best]
    title = (
        "Table 3. Best models (cross-validation mean ± SE). The best of several rows is chosen by the figure that is shown, "
        "which flatters it"
    )
    return _table("table-3", title, ("Model", "c-index"), lines, [row for _, row in best])
