"""Counts the patches of entries that are to be occluded, and says from a few timed slices how long they take; writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from extractor.config import ExtractConfig, Product
from extractor.occlusion import Occluder
from extractor.occlusion_reach import Pace, Visits
from extractor.occlusion_rules import OcclusionRules
from extractor.occlusion_study import Chosen, OcclusionStudy
from extractor.outcome import one_line
from extractor.patch_entry import Hiding
from extractor.segmenter import Segmenter
from extractor.streams import Stream
from extractor.table import StudyRow
from store_schema import EntryKey
from store_schema.errors import EngramError

PROBED = 9
"""Slices that are timed: the last of them sees as many earlier ones as memory attention ever does."""
LEFT_ALONE = ("done", "withdrawn")


@dataclass(frozen=True)
class PlannedEntry:
    """What stands before one entry."""

    key: EntryKey
    state: str
    """Of its input in the store; `failed` where it cannot be made."""
    reason: str = ""
    patches: int = 0
    seen: int = 0
    """Patches that can change the embedding: the others need no work."""
    seconds: float = 0.0
    """That it should take, the pass over the whole image and all patches."""
    line: int = 0
    """Of its study in the table."""

    @property
    def to_do(self) -> bool:
        """Whether a run would make it."""
        return self.state not in (*LEFT_ALONE, "failed")

    def cleaned(self, clean: Callable[[str], str]) -> PlannedEntry:
        """The same with a reason that may leave the program."""
        return replace(self, reason=one_line(clean(self.reason)))


def planned(
    rows: Sequence[StudyRow],
    *,
    chosen: Chosen,
    config: ExtractConfig,
    product: Product,
    rules: OcclusionRules,
    segmenter: Segmenter,
    state: Callable[[EntryKey, str], str],
    view_id: str,
    clock: Callable[[Hiding, Segmenter], Pace] | None = None,
) -> Iterator[PlannedEntry]:
    """Every chosen entry, study after study.

    Parameters
    ----------
    state
        What an input is to an entry of the view, by its key and digest.
    view_id
        Of the occlusion view.
    clock
        Says how long a slice takes; by default `timed`.
    """
    plan = _Plan(config, product, rules, segmenter, state, view_id, clock or timed)
    for row in rows:
        yield from plan.study(row, chosen.keys(row, config))


@dataclass
class _Plan:
    config: ExtractConfig
    product: Product
    rules: OcclusionRules
    segmenter: Segmenter
    state: Callable[[EntryKey, str], str]
    view_id: str
    clock: Callable[[Hiding, Segmenter], Pace]
    pace: Pace | None = None
    """Of the first entry that is to be made: the network sees every slice at one size."""

    def study(self, row: StudyRow, keys: Sequence[EntryKey]) -> list[PlannedEntry]:
        """Entries of one study."""
        try:
            study = OcclusionStudy.read(row, keys, self.config)
        except (EngramError, OSError) as error:
            entries = [_failed(key, error) for key in keys]
        else:
            entries = [self._entry(key, study) for key in keys]
        return [replace(entry, line=row.line) for entry in entries]

    def _entry(self, key: EntryKey, study: OcclusionStudy) -> PlannedEntry:
        try:
            state = self.state(key, study.digest(key, self.product, self.view_id))
            if state in LEFT_ALONE:
                return PlannedEntry(key, state)
            hiding = self._hiding(key, study)
            self.pace = self.pace or self.clock(hiding, self.segmenter)
        except EngramError as error:
            return _failed(key, error)
        reach = hiding.reach(grid_px=self.segmenter.grid_px)
        each = [reach.visits(patch) for patch in hiding.patches]
        seconds = sum(each, start=reach.whole).seconds(self.pace)
        return PlannedEntry(key, state, "", len(each), sum(one != Visits() for one in each), seconds)

    def _hiding(self, key: EntryKey, study: OcclusionStudy) -> Hiding:
        return Hiding.of(
            key,
            study.prepared,
            product=self.product,
            rules=self.rules,
            stride=self.config.kept_every,
            grid_px=self.segmenter.grid_px,
        )


def timed(hiding: Hiding, segmenter: Segmenter) -> Pace:
    """How long the first slices of an entry take, encoded and propagated as a run would."""
    some = _first(hiding.stream, PROBED)
    with Occluder(segmenter, hiding.image_zyx, some, layouts=(hiding.layout,), fill=hiding.fill) as occluder:
        return occluder.pace


def _first(stream: Stream, count: int) -> Stream:
    """The uppermost slices of a stream."""
    return replace(
        stream,
        slices=stream.slices[:count],
        boxes=stream.boxes[:count],
        points=None if stream.points is None else stream.points[:count],
        key=min(stream.key, min(count, len(stream.slices)) - 1),
    )


def _failed(key: EntryKey, error: BaseException) -> PlannedEntry:
    return PlannedEntry(key, "failed", f"{type(error).__name__}: {error}")
