"""Frozen specifications of views, each created once under an id made from itself; knows no entry."""

from __future__ import annotations

from store_schema.commits import create_or_read
from store_schema.errors import AlreadyExistsError, NotCommittedError, ObjectAlteredError, ObjectMissingError
from store_schema.keys import ID_PATTERN, MAX_VIEW_ID_LENGTH
from store_schema.location import Location
from store_schema.records import ViewSpec, check_view_id, parse_record


def view_path(view_id: str) -> str:
    """Path of a specification relative to the store's root."""
    return f"views/{check_view_id(view_id)}.json"


def create_view(location: Location, view: ViewSpec) -> str:
    """Writes a specification once and gives its id; the same one again is fine.

    Raises
    ------
    AlreadyExistsError
        If the id is taken by another specification.
    """
    there = create_or_read(location, view_path(view.view_id), view.to_bytes())
    if there is not None and read_view(location, view.view_id) != view:
        raise AlreadyExistsError(
            f"view {view.view_id} of {location.url} has another specification: give the view another name."
        )
    return view.view_id


def read_view(location: Location, view_id: str) -> ViewSpec:
    """A specification, checked against the id it is named by.

    Raises
    ------
    NotCommittedError
        If there is no such view.
    ObjectAlteredError, SchemaError
        If the specification is not the one that gave the view its id, or is of another schema.
    """
    where = f"{location.url}/{view_path(view_id)}"
    try:
        data = location.get(view_path(view_id))
    except ObjectMissingError as error:
        raise NotCommittedError(
            f"{location.url} has no view {view_id}: list views with `store-schema ls URL`."
        ) from error
    view = parse_record(ViewSpec, data, where=where)
    if view.view_id != view_id:
        raise ObjectAlteredError(
            f"{where} holds the specification of {view.view_id}: restore it from a copy of the store."
        )
    return view


def list_views(location: Location) -> list[str]:
    """Ids of all views, sorted."""
    return [name.removesuffix(".json") for name in location.children("views") if name.endswith(".json")]


def resolve_view(location: Location, name: str) -> str:
    """The id of a view given by its id, its name, or the beginning of either where that is unique.

    Raises
    ------
    NotCommittedError
        If no view, or several, are meant.
    """
    if len(name) <= MAX_VIEW_ID_LENGTH and ID_PATTERN.fullmatch(name) and location.exists(view_path(name)):
        return name
    ids = list_views(location)
    named = [i for i in ids if i.rpartition("-")[0] == name] or [i for i in ids if name and i.startswith(name)]
    if len(named) == 1:
        return named[0]
    raise NotCommittedError(
        f"{ascii(name)[:100]} means {len(named)} views of {location.url}: give a whole id. "
        f"There are: {', '.join(named or ids) or 'none'}."
    )
