"""Takes single patients out of what a run publishes, and refuses what would still name one; knows no store and no drawing."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from store_schema.errors import UsageError
from store_schema.files import name_of
from store_schema.redact import redact
from trainer.failures import FIRST_REASON
from trainer.leaks import kin_warnings
from trainer.report.drawing import Drawn
from trainer.report.reading import FinishedRun

LEFT_OUT = (
    "out-of-fold risks, outcomes and covariates of patients (risks.csv, cohort.json, tasks)",
    "who is in which fold (splits.json) and who was excluded",
    "gate weights of patients (gate figures)",
    "names of patients in warnings, and reasons of failed fits",
)
"""What of a run is not published."""
GATE = "gate-"
"""Beginning of the names of figures that draw a point for each patient."""
UNTOLD = "the first for a reason that the run's own results tell"
SHORTEST_ID, SHORTEST_NUMBER, SHORTEST_DECIMAL = 3, 5, 7
"""Characters from which an id is searched for, digits where it has no letter; shorter ones are also words, levels and counts."""


def ids_of(run: FinishedRun) -> frozenset[str]:
    """Every patient and study that the run's files name: analysed, excluded, or in the store alone."""
    cohort = run.cohort
    keys = [*cohort.patients, *cohort.only_in_store, *(one for step in cohort.flow for one in step.patients)]
    persons = [*cohort.person]
    if run.config.columns.study is not None:
        persons += [key.rpartition(".")[0] for key in keys]
    return frozenset(keys) | frozenset(filter(None, persons))


def without_patients(run: FinishedRun) -> FinishedRun:
    """The run with a record and results that name no patient, no address and no place of a machine."""
    results = run.results
    named = kin_warnings(run.cohort.person)
    others = [warning for warning in results.warnings if warning not in named]
    nameless = kin_warnings(run.cohort.person, named=False) if len(others) < len(results.warnings) else ()
    cleaned = {
        "warnings": (*others, *nameless),
        "notes": tuple(map(_without_reason, results.notes)),
        "failures": (),
    }
    return replace(run, record=_published_record(run.record), results=results.model_copy(update=cleaned))


def without_gates(figures: Sequence[Drawn]) -> list[Drawn]:
    """Figures that draw no single patient."""
    return [figure for figure in figures if not figure.name.startswith(GATE)]


def _without_reason(note: str) -> str:
    told, found, _ = note.partition(FIRST_REASON)
    return told + UNTOLD if found else note


def _published_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """`run.json` with the store's id in place of its address, and the name of a table in place of where it lies."""
    store, config = record["store"], dict(record["config"])
    if config.get("oracle") and config["oracle"].get("table"):
        config["oracle"] = {**config["oracle"], "table": name_of(config["oracle"]["table"])}
    published = {**record, "config": config, "store": None if store is None else {"id": store["id"]}}
    return dict(_redacted(published))


def _redacted(value: Any) -> Any:
    """A JSON value whose texts hold no secret."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(name): _redacted(member) for name, member in value.items()}
    return [_redacted(member) for member in value] if isinstance(value, list | tuple) else value


def refuse_named(records: Mapping[str, bytes], ids: Iterable[str]) -> None:
    """Refuse records in which a patient's id stands as a word of its own, in whatever capitals.

    Texts are searched, not numbers or drawn paths. Ids that are too short to be told from words and numbers are not looked for.

    Parameters
    ----------
    records
        JSON, HTML or SVG by name.
    ids
        Of patients.

    Raises
    ------
    UsageError
        If there is one; says where, and not whom.
    """
    searched = sorted({one.strip().casefold() for one in ids if _is_telling(one.strip())})
    for name, data in records.items():
        text = "\n".join(_texts(name, data)).casefold()
        found = [one for one in searched if one in text and re.search(_as_word(one), text)]
        if found:
            raise UsageError(
                f"{name} would name {len(found)} of the run's patients, and nothing was published. A covariate, a centre or a "
                "name in the settings spells their ids: take it out and run again, or call patients by pseudonyms (--pseudonymise)"
            )


def _is_telling(one: str) -> bool:
    if not _is_number(one):
        return len(one) >= SHORTEST_ID
    digits = sum(letter.isdecimal() for letter in one)
    # 12.1 is a study of patient 12, and a time
    return digits >= (SHORTEST_NUMBER if digits == len(one) else SHORTEST_DECIMAL)


def _is_number(one: str) -> bool:
    return not any(letter.isalpha() for letter in one)


def _as_word(one: str) -> str:
    """Pattern of an id with no letter or digit beside it; a number must be no part of a decimal one."""
    before, after = (r"(?<!\d\.)", r"(?!\.\d)") if _is_number(one) else ("", "")
    return rf"(?<![^\W_]){before}{re.escape(one)}(?![^\W_]){after}"


def _texts(name: str, data: bytes) -> Iterator[str]:
    """What a reader of a record could read as text."""
    if name.endswith(".json"):
        yield from _strings(json.loads(data))
        return
    page = _Page()
    page.feed(data.decode())
    page.close()
    yield from page.texts


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, member in value.items():
            yield name
            yield from _strings(member)
    elif isinstance(value, list):
        for member in value:
            yield from _strings(member)


class _Page(HTMLParser):
    """Collects the texts of a page or drawing, entities decoded; style sheets are none."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._tag = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Names what the next text is in."""
        del attrs
        self._tag = tag

    def handle_data(self, data: str) -> None:
        """Keeps a text."""
        if self._tag != "style":
            self.texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        """What follows is in no style sheet."""
        del tag
        self._tag = ""
