"""Says in a line what the catalogue knows of a run; its summary is whatever the run's writer put into the records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.database.models import RunRow
from services.pages.templating import number_text, plural

KINDS = {"trainer": "trainer", "extractor": "extraction"}
MOST_MODELS = 3


@dataclass(frozen=True)
class RunWords:
    """A run as a list shows it."""

    kind: str
    line: str
    untrained: bool = False
    optimistic: bool = False
    doubt: str = ""
    """Signs of a leak, failures, or no end; empty where there is none."""


def run_words(row: RunRow) -> RunWords:
    """What is said of a run."""
    told, kind = row.summary, KINDS.get(row.kind, "other")
    if row.kind == "trainer":
        return _trainer(told, kind)
    if row.kind == "extractor":
        return _extraction(told, kind)
    return RunWords(kind, plural(len(_list(told, "records")), "record"))


def _trainer(told: Mapping[str, Any], kind: str) -> RunWords:
    rows = [one for one in _list(told, "models") if isinstance(one, dict)]
    models = [one for one in rows if one.get("kind") == "model"]
    named = "; ".join(_model(one) for one in models[:MOST_MODELS])
    more = f"; and {len(models) - MOST_MODELS} more" if len(models) > MOST_MODELS else ""
    return RunWords(
        kind,
        f"c {named}{more}" if named else "no model is told",
        untrained=bool(_list(told, "untrained")),
        optimistic=any(one.get("tuned") == "paper" for one in models),
        doubt="signs of a leak" if _list(told, "warnings") else "",
    )


def _model(told: Mapping[str, Any]) -> str:
    mean, se = told.get("mean"), told.get("se")
    error = f" ± {number_text(se)}" if isinstance(se, float) else ""
    return f"{told.get('name')} {number_text(mean if isinstance(mean, float) else None)}{error}"


def _extraction(told: Mapping[str, Any], kind: str) -> RunWords:
    failed = told.get("failed")
    count = failed if type(failed) is int else 0
    studies = told.get("studies")
    parts = [plural(studies, "study", "studies")] if type(studies) is int else []
    views = told.get("views")
    parts += [plural(len(views), "view")] if isinstance(views, dict) else []
    doubt = f"{plural(count, 'item')} failed" if count else ""
    return RunWords(kind, ", ".join(parts), doubt=doubt if told.get("finished") is True else "not ended")


def _list(told: Mapping[str, Any], name: str) -> list[Any]:
    found = told.get(name)
    return found if isinstance(found, list) else []
