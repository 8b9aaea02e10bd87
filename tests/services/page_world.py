"""Projects with hostile texts wherever a store may hold text, and a browser without scripts for their pages; tests nothing."""

import importlib.util
import json
import sys
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
from fastapi.testclient import TestClient

from services import operations
from services.app import create_app
from services.catalogue.index import reindex
from services.database.migrate import migrate
from services.service import Service
from services.settings import Settings
from store_schema import EntryKey
from store_schema.published import PublishedModel, PublishedRun
from store_schema.records import Layout, ObjectRecord, Source, sha256
from store_schema.testing import digest_of, example_entry, example_view
from store_schema.withdraw import withdraw

BASE = "http://testserver"
HTML = {"accept": "text/html"}
EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>"
VOID = {"meta", "link", "input", "img", "br", "hr", "path", "rect", "stop", "circle"}


@dataclass
class World:
    """Three projects, one of which holds data and granted parts of it, and a key of each kind."""

    service: Service
    keys: dict[str, str]
    view: str
    twin: str
    other: str
    snapshot: str
    grants: dict[str, str]

    @property
    def entry(self):
        return f"/projects/owner/views/{self.view}/entries/MM_1/CT/spine"

    @property
    def pages(self):
        """Every page of the owner, by what it needs to be seen: read, admin."""
        project = "/projects/owner"
        return {
            "/": "read",
            project: "read",
            f"{project}/views/{self.view}": "read",
            f"{project}/snapshots/{self.snapshot}": "read",
            self.entry: "read",
            f"{project}/runs/cv-1": "read",
            f"{project}/runs/cv-1/report": "read",
            f"{project}/runs/cv-1/records/km.json": "read",
            f"{project}/runs/extraction-1": "read",
            f"{project}/runs/odd-1": "read",
            f"{self.entry}/preview.png": "read",
            f"{self.entry}/mask.png": "read",
            f"{self.entry}/map.png": "read",
            f"{project}/views/{self.view}/entries.json": "read",
            f"{project}/keys": "admin",
            f"{project}/grants": "admin",
        }


def make_world(folder, **settings):
    service = Service.open(Settings(data=folder, reconcile_s=0, key_cache_s=0, **settings))
    migrate(service.database)
    for project in ("owner", "viewer", "pinner", "stranger"):
        operations.create_project(service, project)
    keys = {
        scope: operations.make_key(service, "owner", label=f"label of {scope} {EVIL}"[:100], scope=scope).text
        for scope in ("read", "write", "admin")
    }
    keys |= {
        name: operations.make_key(service, name, label=name, scope="admin").text
        for name in ("viewer", "pinner", "stranger")
    }
    store = service.store("owner")
    pictured = example_view(name="pictured")
    view = store.put_view(pictured)
    twin = store.put_view(
        pictured.model_copy(update={"name": "twin", "layout": Layout(name="vector", shape=(1, 5, 1, 1))})
    )
    other = store.put_view(example_view(name="other", recipe=7))
    fill(store, view, twin, other)
    snapshot = store.make_snapshot(view, {EntryKey("MM_1", "CT", "spine"): 0})
    withdraw(store, patients=["MM_3"], reason=f"withdrawn {EVIL}"[:200])
    publish_runs(store, view, snapshot)
    reindex(service, "owner")
    grants = {
        "viewer": operations.make_grant(service, "owner", "viewer", view=twin).id,
        "pinner": operations.make_grant(service, "owner", "pinner", snapshot=snapshot).id,
    }
    return World(service, keys, view, twin, other, snapshot, grants)


def fill(store, view, twin, other):
    """Entries with hostile texts wherever an entry may hold text."""
    told = {
        "grid": {"size_xyz": [7, 6, 5], "spacing_xyz_mm": [1.0, 2.0, 3.0]},
        "kept_slices_z": [4, 3],
        "boxes_xyxy": [[0, 1, 2, 3], [1, 1, 4, 5]],
        "valid_layers": [True, False],
        "outside_share": 0.012,
        "original_orientation": EVIL,
        "warnings": [EVIL],
        "alignment": {"body_dice": 0.9, "centroid_mm": 2.0},
    }
    more = {
        "sources": [Source(role="CT", path=f"0123/{EVIL}.nii", size_bytes=7, mtime_ns=10**18)],
        "versions": {EVIL: EVIL},
        "timings_s": {EVIL: 1.5},
    }
    key = EntryKey("MM_1", "CT", "spine")
    for seed in (0, 1):
        made = replace(example_entry(seed), attributes=told)
        store.publish(view, key, made, input_sha256=digest_of(str(seed)), **more)
    vector = np.arange(5, dtype=np.float16).reshape(1, 5, 1, 1)
    store.publish(
        twin, key, replace(example_entry(0), arrays={"memory": vector}, attributes=told), input_sha256=digest_of("t")
    )
    for patient, modality, roi in (("MM_1", "PET", "spine"), ("MM_2", "CT", "spine"), ("MM_3", "CT", "spine")):
        store.publish(view, EntryKey(patient, modality, roi), example_entry(3), input_sha256=digest_of("c"))
    store.publish(other, key, replace(example_entry(4), attributes={}), input_sha256=digest_of("o"))


def publish_runs(store, view, snapshot):
    """A published run and an extraction whose every text is hostile, and a run of nobody knows what."""
    report = f"<!doctype html><title>r</title><script>{EVIL}</script>".encode()
    model = PublishedModel(
        name=EVIL,
        kind="model",
        mean=0.61,
        se=0.02,
        folds=3,
        scores=(0.6, None, 0.62),
        t=1.0,
        df=2,
        p_one_sided=0.01,
        p_two_sided=0.02,
        corrected_p_one_sided=None,
        permutation_p=None,
        pooled_c=0.6,
        tried=5,
        tuned="paper",
        views=(view,),
        untrained=True,
    )
    curves = sibling("page_runs").curves_of(EVIL)
    records = {"report.html": report, "km.json": curves.to_bytes()}
    run = PublishedRun(
        engram=EVIL,
        command="cv",
        started_at=EVIL,
        published_at="2026-03-15T13:47:50+00:00",
        models=(model,),
        contrasts=(),
        patients=9,
        studies=9,
        events=4,
        outcome=EVIL,
        folds=3,
        repeats=1,
        store_id=store.store_id,
        snapshots={view: snapshot},
        untrained=(view,),
        settings_sha256=sha256(b"s"),
        warnings=(EVIL,),
        notes=(EVIL,),
        left_out=(EVIL,),
        figures=(),
        records={name: ObjectRecord(size_bytes=len(data), sha256=sha256(data)) for name, data in records.items()},
    )
    for name, data in records.items():
        store.put_run("cv-1", name, data)
    store.put_run("cv-1", "trainer.json", run.to_bytes())
    start = {"started_at": EVIL, "engram": EVIL, "views": {EVIL: EVIL}, "settings": {EVIL: EVIL}, "studies": 3}
    items = [{"patient": f"MM_{i}", "state": "refused", "result": "failed", "reason": EVIL} for i in range(9)]
    lines = "".join(json.dumps(one) + "\n" for one in items).encode()
    for name, data in {"start.json": json.dumps(start).encode(), "plan.jsonl": lines, "outcomes.jsonl": lines}.items():
        store.put_run("extraction-1", name, data)
    store.put_run("extraction-2", "start.json", b"[]")
    store.put_run("odd-1", "note.txt", EVIL.encode())


def sibling(name):
    spec = importlib.util.spec_from_file_location(f"engram_services_{name}", Path(__file__).with_name(f"{name}.py"))
    if spec.name not in sys.modules:
        sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[spec.name]


def client(world, who=None, *, base=BASE):
    found = TestClient(
        create_app(world.service), base_url=base, follow_redirects=False, headers=HTML, raise_server_exceptions=False
    )
    if who is not None:
        answer = log_in(found, world.keys[who], base=base)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
    return found


def log_in(found, key, *, base=BASE, going_to="/"):
    return found.post("/login", data={"key": key, "next": going_to}, headers={"origin": base})


def send(found, path, token=None, *, origin=BASE, **fields):
    """A form as the browser sends it."""
    headers = {} if origin is None else {"origin": origin}
    if token is not None:
        fields["csrf"] = token
    return found.post(
        path, content=urlencode(fields), headers=headers | {"content-type": "application/x-www-form-urlencoded"}
    )


def csrf(found, path="/"):
    fields = [one for one in parsed(found.get(path).text) if one.tag == "input" and one.get("name") == "csrf"]
    return fields[0].get("value")


@dataclass
class Element:
    """One opened tag."""

    tag: str
    attributes: list[tuple[str, str | None]]
    parents: tuple[str, ...]
    text: str = ""

    def get(self, name):
        return dict(self.attributes).get(name)


def parsed(html):
    """All elements of a page, in order."""
    found, opened = [], []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.append(Element(tag, attributes, tuple(one.tag for one in opened)))
            if tag not in VOID:
                opened.append(found[-1])

        def handle_startendtag(self, tag, attributes):
            found.append(Element(tag, attributes, tuple(one.tag for one in opened)))

        def handle_endtag(self, tag):
            if tag in VOID:
                return
            assert opened, tag
            assert opened.pop().tag == tag, f"</{tag}> where {found[-1]} is open"

        def handle_data(self, data):
            for one in opened:
                one.text += data

    Parser().feed(html)
    assert not opened
    return found
