"""What the pages say of views, entries, snapshots and runs, and the files that they give."""

import io
import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sqlalchemy import select

from services.catalogue.index import reindex
from services.database.models import AuditRow
from store_schema import EntryKey
from store_schema.testing import digest_of, example_entry
from store_schema.withdraw import withdraw


def test_coverage_tells_stored_withdrawn_and_missing_apart_in_words(site, parsed):
    visitor = site.browser("read")
    page = visitor.get(f"/projects/owner/views/{site.view}").text
    rows = [one.text for one in parsed(page) if one.tag == "tr" and "tbody" in one.parents]
    cells = {name: next(text for text in rows if text.startswith(name)) for name in ("MM_1", "MM_2", "MM_3")}
    assert "commit 1 of MM_1, CT spine" in cells["MM_1"]
    assert "commit 0 of MM_1, PET spine" in cells["MM_1"]
    assert "missing" in cells["MM_2"]
    assert "withdrawn" in cells["MM_3"]
    tiles = [one.text for one in parsed(page) if one.tag == "dd" and "dl" in one.parents][:4]
    assert [text.strip() for text in tiles] == ["3", "3", "2", "1"]


def test_the_filter_narrows_patients_and_columns(site, parsed):
    visitor = site.browser("read")
    at = f"/projects/owner/views/{site.view}"

    def tables(query):
        return "".join(one.text for one in parsed(visitor.get(f"{at}?{query}").text) if one.tag == "table")

    assert "MM_1" not in tables("patient=MM_2")
    assert "PET" not in tables("modality=CT")
    assert "Nothing fits" in visitor.get(f"{at}?patient=nobody*").text
    answer = visitor.get(f"{at}?patient=,")
    assert answer.status_code == 422
    assert "MM_1" in answer.text


def test_a_long_table_comes_in_parts(own_site, parsed):
    store = own_site.service.store("owner")
    for number in range(120):
        store.publish(
            own_site.other,
            EntryKey(f"Q_{number:03d}", "CT", "spine"),
            example_entry(number),
            input_sha256=digest_of("q"),
        )
    snapshot = store.make_snapshot(own_site.other)
    reindex(own_site.service, "owner")
    visitor = own_site.browser("read")
    for start in (
        f"/projects/owner/views/{own_site.other}?patient=Q_*",
        f"/projects/owner/snapshots/{snapshot}?patient=Q_*",
    ):
        seen, address = [], start
        while address:
            found = parsed(visitor.get(address).text)
            seen += [one.text for one in found if one.tag == "th" and one.get("scope") == "row"]
            address = next((one.get("href") for one in found if one.get("rel") == "next"), None)
        assert seen == [f"Q_{number:03d}" for number in range(120)]


def test_an_entry_tells_where_it_comes_from(site):
    page = site.browser("read").get(site.entry).text
    commit = site.service.store("owner").commit(site.view, EntryKey("MM_1", "CT", "spine"))
    for text in (
        commit.attempt,
        commit.input_sha256,
        commit.content_sha256,
        "1 of 2",
        "7 × 6 × 5 voxels of 1 × 2 × 3 mm",
        "Commit 0",
        "Commit 1",
    ):
        assert text in page, text
    older = site.browser("read").get(f"{site.entry}?commit=0").text
    assert "An earlier commit" in older
    assert commit.content_sha256 not in older


def test_pictures_are_those_of_the_entry(site):
    visitor = site.browser("read")
    entry = site.service.store("owner").read(site.view, EntryKey("MM_1", "CT", "spine"))
    preview = visitor.get(f"{site.entry}/preview.png")
    assert preview.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(preview.content))), entry.arrays["preview"])
    drawn = np.asarray(Image.open(io.BytesIO(visitor.get(f"{site.entry}/map.png").content)))
    assert drawn.shape[:2] == entry.arrays["mean_map"].shape
    lowest = np.unravel_index(entry.arrays["mean_map"].argmin(), drawn.shape[:2])
    assert tuple(drawn[lowest]) == (68, 1, 84)
    first = visitor.get(f"{site.entry}/map.png?commit=0")
    assert first.content != visitor.get(f"{site.entry}/map.png").content


def test_a_browser_keeps_a_picture_and_asks_each_time(own_site):
    visitor = own_site.browser("read")
    at = f"{own_site.entry}/mask.png"
    answer = visitor.get(at)
    assert answer.headers["cache-control"] == "private, no-cache"
    again = visitor.get(at, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert visitor.get(at, headers={"if-none-match": '"other"'}).status_code == 200
    withdraw(own_site.service.store("owner"), patients=["MM_1"], reason="consent withdrawn")
    assert visitor.get(at, headers={"if-none-match": answer.headers["etag"]}).status_code == 410
    page = visitor.get(own_site.entry)
    assert page.status_code == 410
    assert "Withdrawn" in page.text


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_entries_are_downloaded_as_files(site, kind):
    visitor = site.browser("read")
    answer = visitor.get(f"/projects/owner/views/{site.view}/entries.{kind}?patient=MM_*")
    assert answer.headers["content-disposition"].startswith("attachment")
    if kind == "json":
        rows = answer.json()
    elif kind == "csv":
        lines = answer.text.split("\r\n")
        rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:] if line]
    else:
        rows = pq.read_table(io.BytesIO(answer.content)).to_pylist()
    assert [(row["patient"], row["modality"], str(row["number"])) for row in rows] == [
        ("MM_1", "CT", "1"),
        ("MM_1", "PET", "0"),
        ("MM_2", "CT", "0"),
    ]
    assert visitor.get(f"/projects/owner/views/{site.view}/entries.{kind}?patient=none").status_code == 200
    assert visitor.get(f"/projects/owner/views/none/entries.{kind}").status_code in {200, 404}


def test_a_run_of_the_trainer_shows_its_flags(site):
    page = site.browser("read").get("/projects/owner/runs/cv-1").text
    for text in ("UNTRAINED", "Signs of a leak", "optimistic", "0.610", "± 0.020", "No claim was declared", "at risk"):
        assert text in page, text


def test_a_published_report_runs_in_a_sandbox(site):
    answer = site.browser("read").get("/projects/owner/runs/cv-1/report")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox;")
    assert "allow-" not in policy
    assert "script" not in policy
    assert "default-src 'none'" in policy
    assert answer.headers["content-type"].startswith("text/html")


def test_a_report_that_is_not_the_published_one_is_not_shown(own_site):
    path = own_site.service.settings.data / "stores" / "owner" / "runs" / "cv-1" / "report.html"
    path.write_bytes(path.read_bytes().replace(b"alert", b"other"))
    assert own_site.browser("read").get("/projects/owner/runs/cv-1/report").status_code == 500


def test_records_are_files_and_never_pages(site):
    visitor = site.browser("read")
    answer = visitor.get("/projects/owner/runs/odd-1/records/note.txt")
    assert answer.content == site.evil.encode()
    assert answer.headers["content-disposition"] == 'attachment; filename="odd-1-note.txt"'
    assert answer.headers["content-type"] == "application/octet-stream"
    for name in ("none.json", "..%2F..%2Fengram.json", "%2e%2e"):
        assert visitor.get(f"/projects/owner/runs/odd-1/records/{name}").status_code in {404, 422}


def test_an_extraction_tells_failures_by_reason(site, parsed):
    page = site.browser("read").get("/projects/owner/runs/extraction-1").text
    found = parsed(page)
    assert [one for one in found if one.tag == "td" and one.text == site.evil]
    assert "9 items failed" in page
    assert "9 patients" in page


def test_a_style_sheet_is_kept_under_its_digest(site, parsed):
    visitor = site.browser()
    address = next(one.get("href") for one in parsed(visitor.get("/login").text) if one.get("rel") == "stylesheet")
    answer = visitor.get(address)
    assert answer.headers["content-type"].startswith("text/css")
    assert "immutable" in answer.headers["cache-control"]
    assert visitor.get("/static/style.css?v=other").headers["cache-control"] == "no-cache"
    assert "url(" not in answer.text
    assert "@import" not in answer.text


def test_pages_answer_head(site):
    visitor = site.browser("admin")
    for path in site.pages:
        answer = visitor.head(path)
        assert (answer.status_code, answer.content) == (200, b""), path


def test_logs_and_audit_name_no_patient(own_site, caplog):
    caplog.set_level(logging.INFO)
    visitor = own_site.browser("admin")
    for path in own_site.pages:
        visitor.get(path)
    visitor.get(own_site.entry.replace("MM_1", "MM_3"))
    visitor.get(f"/projects/owner/views/{own_site.view}?patient=MM_1")
    guest, views = own_site.browser("viewer"), "/projects/owner/views/MM_1"
    for who in (visitor, guest):
        for path in (views, f"{views}/entries.csv", f"{views}/entries/MM_1/CT/spine", "/projects/owner/runs/MM_1"):
            assert who.get(path).status_code in {403, 404}
    for kind in ("keys", "grants"):
        assert visitor.submit(f"/projects/owner/{kind}/MM_1/revoke", visitor.csrf()).status_code == 404
    own_site.service.audit.flush()
    ours = [record for record in caplog.records if not record.name.startswith("httpx")]
    assert ours
    assert not [record for record in ours if "MM_" in repr(vars(record))]
    rows = own_site.service.database.read(lambda session: session.scalars(select(AuditRow)).all())
    assert {"read", "login"} <= {row.action for row in rows}
    assert "denied" in {row.outcome for row in rows}
    assert not [
        row
        for row in rows
        if "MM_" in row.target or (row.key_id and row.key_id in row.target and row.action != "login")
    ]


def test_pages_stand_when_the_database_is_away(own_site):
    visitor = own_site.browser("read")
    own_site.service.database.patience_s = 0.01
    own_site.service.close()
    for name in ("service.db", "service.db-wal", "service.db-shm"):
        (own_site.service.settings.data / name).unlink(missing_ok=True)
    (own_site.service.settings.data / "service.db").mkdir()
    answer = visitor.get("/projects/owner")
    assert answer.status_code == 503
    assert "Not available just now" in answer.text
