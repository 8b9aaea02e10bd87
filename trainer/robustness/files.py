"""Tells whether entries of several views were made from the same files, by what their commits record; opens none of these."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from store_schema import EntryKey, Snapshot
from store_schema.parallel import each
from store_schema.records import Source
from trainer.tables import shown

Verdict = Literal["same", "other", "unknown"]
MASK, MAP = "mask:", "label_map"
"""Beginnings of the roles of what a region was read from; a mask stands before label maps."""
TABLE = "features"
"""Role of a table of imported features, of which every view has its own: it says nothing of the images behind it."""
SHOWN = 5


@dataclass(frozen=True)
class FileDifferences:
    """Entries of a view that were not, or perhaps not, made from the files of the base."""

    view: str
    other: Mapping[EntryKey, str] = field(default_factory=dict)
    """Made from other files, each with what differs."""
    unknown: frozenset[EntryKey] = frozenset()
    """Whose records do not tell."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know, each without a full stop; names no patient."""
        told = []
        if self.other:
            reasons = [f"{why} ({number})" for why, number in Counter(self.other.values()).most_common()]
            told.append(
                f"{len(self.other)} entries of {self.view} were made from other files than those of the base and are left out: "
                f"{shown(reasons, SHOWN)}. Extract both from the same files"
            )
        if self.unknown:
            told.append(
                f"of {len(self.unknown)} entries of {self.view} no record tells whether they were made from the files of the "
                "base: they are taken as if they were"
            )
        return tuple(told)


def file_differences(
    base: Snapshot, others: Sequence[Snapshot], keys: Iterable[EntryKey] | None = None
) -> tuple[FileDifferences, ...]:
    """Of each view, the entries that it shares with the base and that were not made from the base's files.

    Parameters
    ----------
    base, others
        Snapshots of views of one store.
    keys
        Entries that are looked at; all of the base by default.

    Raises
    ------
    ObjectMissingError, ObjectAlteredError
        If a commit is gone or is not the one pinned.
    """
    wanted = sorted(base.keys if keys is None else keys)
    before = dict(_sources(base, [key for key in wanted if key in base and any(key in one for one in others)]))
    return tuple(_of_view(before, snapshot) for snapshot in others)


def _of_view(before: Mapping[EntryKey, tuple[Source, ...]], snapshot: Snapshot) -> FileDifferences:
    other, unknown = {}, set()
    for key, sources in _sources(snapshot, [key for key in before if key in snapshot]):
        verdict, why = same_files(before[key], sources)
        if verdict == "other":
            other[key] = why
        elif verdict == "unknown":
            unknown.add(key)
    return FileDifferences(snapshot.view_id, other, frozenset(unknown))


def _sources(snapshot: Snapshot, keys: Sequence[EntryKey]) -> Iterator[tuple[EntryKey, tuple[Source, ...]]]:
    commits = each(partial(_read, snapshot), keys, parallel=snapshot.location.parallel)
    yield from zip(keys, commits, strict=True)


def _read(snapshot: Snapshot, key: EntryKey) -> tuple[Source, ...]:
    return snapshot.commit(key).sources


def same_files(base: Sequence[Source], other: Sequence[Source]) -> tuple[Verdict, str]:
    """Whether two entries of one key were made from the same files, and what says that they were not.

    Files are the same where size, and modification time or ETag, agree in every role that both name; names do not count, since
    files are moved. What only one of them names (label maps that say where bones lie) decides nothing, but the region must come
    from the same role in both. Where neither time nor ETag is known of both, nothing is known.

    Parameters
    ----------
    base, other
        Sources as the two commits record them.
    """
    first, second = ({source.role: source for source in sources if source.role != TABLE} for sources in (base, other))
    if not first or not second:
        return "unknown", ""
    if _region(first) != _region(second):
        told = (" and ".join(sorted(_region(roles))) or "nothing" for roles in (second, first))
        return "other", "region from {}, the base's from {}".format(*told)
    verdicts = {role: _compared(first[role], second[role]) for role in sorted(first.keys() & second.keys())}
    if differ := [f"{role}: {why}" for role, why in verdicts.items() if why]:
        return "other", "; ".join(differ)
    return ("unknown" if not verdicts or None in verdicts.values() else "same"), ""


def _region(roles: Iterable[str]) -> frozenset[str]:
    """Roles that a region was read from."""
    masks = frozenset(role for role in roles if role.startswith(MASK))
    return masks or frozenset(role for role in roles if role.startswith(MAP))


def _compared(base: Source, other: Source) -> str | None:
    """What differs, nothing where the two are one file, None where that is not known."""
    if base.size_bytes != other.size_bytes:
        return f"{other.size_bytes} bytes, not {base.size_bytes}"
    times, tags = (base.mtime_ns, other.mtime_ns), (base.etag, other.etag)
    if None not in times and times[0] != times[1]:
        return "another modification time"
    if None not in tags and tags[0] != tags[1]:
        return "another ETag"
    return None if None in times and None in tags else ""
