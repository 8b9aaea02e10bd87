"""Published records name no patient, in any spelling, and no place and no secret of a machine."""

import base64
import html
import json
import re
from dataclasses import replace
from urllib.parse import quote, unquote

import pytest

from store_schema.errors import UsageError
from trainer.patient_free import refuse_named, without_patients
from trainer.publishing import publish_run

from . import publishing_help
from .publishing_help import records_in, summary_in

copied, store = publishing_help.copied, publishing_help.store
NAMES = ("KOWALSKA", "NOWAK", "WEGGELASSEN", "IMLAGER")
"""Of patients analysed, of some whose ids look like studies, of one without a time, and of one whom the table does not list."""


def spellings(data: bytes) -> str:
    """A record in every way in which a reader could get text out of it."""
    text = data.decode()
    found = [text, html.unescape(text), unquote(text), re.sub(r"\\u([0-9a-f]{4})", lambda m: chr(int(m[1], 16)), text)]
    for run in re.findall(r"[A-Za-z0-9+/_-]{8,}", text):
        for start in range(4):
            part = run[start:].replace("-", "+").replace("_", "/")
            found.append(base64.b64decode(part[: len(part) // 4 * 4]).decode("latin-1"))
    found += [bytes.fromhex(run).decode("latin-1") for run in re.findall(r"(?:[0-9a-fA-F]{2}){4,}", text)]
    return "\n".join(found).upper()


@pytest.mark.parametrize(
    "hide",
    [
        str,
        str.lower,
        quote,
        lambda name: "".join(f"\\u{ord(letter):04x}" for letter in name),
        lambda name: "".join(f"&#{ord(letter)};" for letter in name),
        lambda name: name.encode().hex(),
        *(lambda name, pad=pad: base64.b64encode(b"x" * pad + name.encode() + b"y" * 4).decode() for pad in range(3)),
        lambda name: base64.urlsafe_b64encode(name.encode() * 2).decode(),
    ],
)
def test_the_search_for_names_finds_them_however_they_are_spelt(hide):
    assert "KOWALSKA" in spellings(f"<p>before {hide('KOWALSKA')} after</p>".encode())


def test_no_record_names_a_patient_in_any_spelling(published_run, named_run):
    assert {"trainer.json", "report.html", "results.json", "measures.json", "run.json", "km.json"} <= set(
        published_run.records
    )
    assert any(name.endswith(".svg") for name in published_run.records)
    for name, data in published_run.records.items():
        told = spellings(data)
        assert [who for who in NAMES if who in told] == [], name
        assert [who for who in NAMES if who in name.upper()] == []
    everything = b"".join(path.read_bytes() for path in named_run.run.rglob("*") if path.is_file())
    assert all(who in spellings(everything) for who in NAMES), "the run itself must name them"


def test_no_record_holds_a_risk_an_outcome_or_a_gate_weight_of_a_patient(published_run):
    told = b"".join(published_run.records.values()).decode()
    for result in published_run.finished.fits:
        if result.permutation == 0:
            numbers = [repr(number) for number in (*result.log_risk, *(result.alpha or ()))]
            assert not [number for number in numbers if len(number) > 8 and number in told]


def test_no_record_says_where_the_store_and_the_tables_lie(published_run, named_run):
    for data in published_run.records.values():
        assert str(named_run.folder) not in data.decode()
    assert json.loads(published_run.records["run.json"])["store"] == {
        "id": published_run.finished.record["store"]["id"]
    }


def test_a_reason_that_names_a_patient_is_not_published(copied, store, change_results):
    told = "2 of 2 settings of tuned could not be fitted in some fold and were not chosen there, "
    change_results(copied, notes=[f"{told}the first because: CohortError: KOWALSKA-003: not in the cohort"])
    made = publish_run(str(copied), store)
    assert not any(b"KOWALSKA" in data for data in records_in(store, made.run_id).values())
    summary = summary_in(store, made.run_id)
    assert summary.notes == (f"{told}the first for a reason that the run's own results tell",)


def test_a_record_that_would_still_name_a_patient_is_refused_and_nothing_is_published(copied, store):
    measures = (copied / "measures.json").read_text()
    assert '"label": "I"' in measures
    (copied / "measures.json").write_text(measures.replace('"label": "I"', '"label": "kowalska-003"', 1))
    with pytest.raises(UsageError, match=r"measures\.json would name 1 of the run's patients") as caught:
        publish_run(str(copied), store)
    assert "003" not in str(caught.value)
    assert store.run_ids() == []


def test_a_run_record_that_names_a_patient_is_refused_and_nothing_is_published(copied, store):
    record = json.loads((copied / "run.json").read_text())
    record["versions"]["python"] = "3 WEGGELASSEN-901"
    (copied / "run.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match=r"run\.json would name 1 of"):
        publish_run(str(copied), store)
    assert store.run_ids() == []


@pytest.mark.parametrize(
    ("patient", "name", "data"),
    [
        ("P001", "a.json", b'{"x": ["of P001, and others"]}'),
        ("P001", "a.json", b'{"p001": 1}'),
        ("P001", "a.json", b'["\\u0050001"]'),
        ("P001", "a.json", b'["P001.base"]'),
        ("Kowalska, Anna", "a.html", b"<p>of kowalska, anna</p>"),
        ("P<1>A", "a.html", b"<p>P&lt;1&gt;A</p>"),
        ("P001", "a.svg", b"<svg><title>fold of P001</title></svg>"),
        ("4711001", "a.json", b'["4711001 of ward 3"]'),
        ("4711001.2", "a.json", b'["4711001.2"]'),
    ],
)
def test_an_id_is_found_where_it_is_a_word(patient, name, data):
    with pytest.raises(UsageError, match="would name 1"):
        refuse_named({name: data}, [patient])


@pytest.mark.parametrize(
    ("patient", "name", "data"),
    [
        ("P001", "a.json", b'["P0012", "AP001"]'),
        ("P001", "a.svg", b'<svg><style>.P001 {}</style><path d="P001"/></svg>'),
        ("47110", "a.json", b'["0.47110", "47110.25", 47110]'),
        ("12", "a.json", b'["12 of 40 patients"]'),
        ("12.1", "a.json", b'["after 12.1 months"]'),
        ("II", "a.json", b'["II"]'),
        ("", "a.json", b'[""]'),
    ],
)
def test_words_and_numbers_that_are_no_id_are_left_alone(patient, name, data):
    refuse_named({name: data}, [patient])


def test_addresses_lose_their_secrets(published_run, monkeypatch):
    monkeypatch.setenv("ENGRAM_API_KEY", "engram_abc_geheimgeheim")
    record = {
        **published_run.finished.record,
        "clinical": "https://anna:passwort@host/clinical.csv?sig=abcdef",
        "versions": {"engram": "engram_abc_geheimgeheim"},
    }
    cleaned = json.dumps(without_patients(replace(published_run.finished, record=record)).record)
    assert not re.search("passwort|abcdef|geheimgeheim", cleaned)
