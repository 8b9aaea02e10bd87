"""Opens the store of a run, with patients called as the run calls them; knows no study and no network."""

from __future__ import annotations

import uuid

from store_schema import Store, open_store
from store_schema.errors import StoreNotFoundError
from store_schema.pseudonyms import PlainIds, check_rule, settle_rule


def opened(store_url: str, ids: PlainIds, *, dry_run: bool) -> Store:
    """The store, created where absent; for a dry run without one, an empty one in memory.

    Raises
    ------
    UsageError
        If the store's patients are called in another way.
    StoreError
        If the store cannot be opened.
    """
    if not dry_run:
        store = open_store(store_url, create=True)
        settle_rule(store, ids)
        return store
    try:
        store = open_store(store_url)
    except StoreNotFoundError:
        return open_store(f"memory://dry-run-{uuid.uuid4().hex}", create=True)
    check_rule(store.location, ids)
    return store
