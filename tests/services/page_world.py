"""Projects with hostile texts wherever a store may hold text, and a browser without scripts for their pages; tests nothing."""

from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from html.parser import HTMLParser
from urllib.parse import urlencode

import numpy as np
from fastapi.testclient import TestClient

from services import operations
from services.app import create_app
from services.catalogue.index import reindex
from services.database.migrate import migrate
from services.service import Service
from store_schema import EntryKey
from store_schema.records import Layout, Source
from store_schema.testing import digest_of, example_entry, example_view
from store_schema.withdraw import withdraw

BASE = "http://testserver"
HTML = {"accept": "text/html"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>"
VOID = {"meta", "link", "input", "img", "br", "hr", "path", "rect", "stop", "circle"}


class Browser(TestClient):
    """A browser without scripts that follows no redirect by itself."""

    @property
    def origin(self):
        """The site whose pages it shows, as browsers say it."""
        return str(self.base_url).rstrip("/")

    def log_in(self, key, *, origin=BASE, going_to="/"):
        return self.post("/login", data={"key": key, "next": going_to}, headers={"origin": origin})

    def submit(self, path, token=None, *, origin=BASE, **fields):
        """A form as the browser sends it."""
        headers = {} if origin is None else {"origin": origin}
        if token is not None:
            fields["csrf"] = token
        return self.post(path, content=urlencode(fields), headers=headers | FORM)

    def csrf(self):
        """What the forms of this session carry."""
        page = parsed(self.get("/").text)
        return next(one.get("value") for one in page if one.tag == "input" and one.get("name") == "csrf")


@dataclass
class Site:
    """Four projects, one of which holds data and granted parts of it to two others, and a key of each kind."""

    service: Service
    keys: dict[str, str]
    view: str
    twin: str
    other: str
    snapshot: str
    grants: dict[str, str]
    evil: str = EVIL

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

    @cached_property
    def app(self):
        return create_app(self.service)

    def browser(self, who=None, *, base=BASE, cookies=None):
        """A browser of its own, logged in with a key where one is named."""
        found = Browser(
            self.app, base, headers=HTML, cookies=cookies, follow_redirects=False, raise_server_exceptions=False
        )
        if who is not None:
            answer = found.log_in(self.keys[who], origin=base)
            assert (answer.status_code, answer.headers["location"]) == (303, "/")
        return found


@contextmanager
def opened(settings, runs):
    """The site over a new service, until the block ends; `runs` is the module that publishes runs."""
    service = Service.open(settings)
    migrate(service.database)
    for project in ("owner", "viewer", "pinner", "stranger"):
        operations.create_project(service, project)
    store = service.store("owner")
    view, twin, other = (store.put_view(spec) for spec in specifications())
    fill(store, view, twin, other)
    snapshot = store.make_snapshot(view, {EntryKey("MM_1", "CT", "spine"): 0})
    withdraw(store, patients=["MM_3"], reason=f"withdrawn {EVIL}"[:200])
    runs.publish_hostile_runs(store, view, snapshot, EVIL)
    reindex(service, "owner")
    grants = {
        "viewer": operations.make_grant(service, "owner", "viewer", view=twin).id,
        "pinner": operations.make_grant(service, "owner", "pinner", snapshot=snapshot).id,
    }
    try:
        yield Site(service, make_keys(service), view, twin, other, snapshot, grants)
    finally:
        service.close()


def make_keys(service):
    """A key of each scope in the project that holds data, and an admin's in each other one."""
    own = {
        scope: operations.make_key(service, "owner", label=f"label of {scope} {EVIL}"[:100], scope=scope).text
        for scope in ("read", "write", "admin")
    }
    return own | {
        name: operations.make_key(service, name, label=name, scope="admin").text
        for name in ("viewer", "pinner", "stranger")
    }


def specifications():
    """A view with pictures, one of the same pass without, and one of another recipe."""
    pictured = example_view(name="pictured")
    vector = Layout(name="vector", shape=(1, 5, 1, 1))
    return (
        pictured,
        pictured.model_copy(update={"name": "twin", "layout": vector}),
        example_view(name="other", recipe=7),
    )


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
