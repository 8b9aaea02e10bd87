"""Projects, keys and names by which every route of the API can be asked for something that is there."""

import re
from itertools import product

from services import operations
from services.catalogue.index import reindex
from store_schema import EntryKey
from store_schema.testing import digest_of, example_entry, example_view

SCOPES = ("read", "write", "admin")


class World:
    """Four projects of which one holds data, keys of each scope, and the names that stand in paths."""

    def __init__(self, server):
        self.server, service = server, server.service
        for project in ("owner", "guest", "stranger", "other"):
            operations.create_project(service, project)
        self.keys = {
            (project, scope): operations.make_key(service, project, label=scope, scope=scope, expires_days=None).text
            for project, scope in product(("owner", "guest", "stranger"), SCOPES)
        }
        store = service.store("owner")
        view = store.put_view(example_view())
        self.key = EntryKey("P1", "CT", "spine")
        store.publish(view, self.key, example_entry(0), input_sha256=digest_of("0"))
        snapshot = store.make_snapshot(view)
        store.put_run("run-1", "start.json", b"{}")
        commit = store.commit(view, self.key)
        self.names = {
            "project": "owner", "view": view, "patient": "P1", "modality": "CT", "roi": "spine", "number": "000000",
            "attempt": commit.attempt, "object": "memory/c/0/0/0/0", "snapshot": snapshot, "pack": f"{snapshot}-memory",
            "run": "run-1", "record": "start.json", "path": f"{self.key}/memory/zarr.json", "key_id": "0" * 12,
            "grant_id": "0" * 32,
        }  # fmt: skip
        reindex(service, "owner")

    def next_commit(self):
        """A commit of the entry that there is, whose number is not the next."""
        commit = self.server.service.store("owner").commit(self.names["view"], self.key)
        inputs = tuple(digest_of(str(number)) for number in range(7))
        return commit.model_copy(update={"number": 7, "earlier_inputs": inputs, "attempt": "c" * 32}).to_bytes()

    def routes(self):
        """Method and pattern of every route of the API."""
        paths = self.server.ask("GET", "/openapi.json").json["paths"]
        return [(method, path) for path, operations_of in paths.items() for method in operations_of]

    def ask(self, method, pattern, key=None, **names):
        """One request of a route, with names that are there."""
        path = re.sub(r"\{(\w+)\}", lambda match: (self.names | names)[match[1]], pattern)
        if pattern.endswith("/objects"):
            path += "?prefix=commits"
        bodies = {
            "/keys": {"label": "x", "scope": "read"}, "/grants": {"grantee": "other", "view": self.names["view"]},
            "/snapshots": {"view": self.names["view"]}, "/sign": {"paths": ["P1/CT/spine/zarr.json"]}, "/packs": {"kind": "memory"},
        }  # fmt: skip
        body = (
            next((found for end, found in bodies.items() if pattern.endswith(end)), None) if method == "post" else None
        )
        headers = {"If-None-Match": "*"} if method == "put" else {}
        return self.server.ask(method.upper(), path, key=key, headers=headers, body=b"x" if method == "put" else body)
