"""The part on the embeddings themselves: has views looked at, and names what was found; computes no figure."""

from dataclasses import dataclass

from store_schema import Snapshot
from store_schema.console import progress
from store_schema.records import sha256
from trainer.quality.findings import ALPHA
from trainer.quality.measuring import Asked, measure
from trainer.quality.page import write_page
from trainer.quality.results import Alignment, Drift, EmbeddingQuality, Finding, Quality
from trainer.quality.writing import write_quality
from trainer.robustness.reading import snapshot_of
from trainer.tables import read_table
from trainer.trust.parts import Done, LeftOut, Part, Prepared, counted, inputs_digest
from trainer.trust.subject import Subject
from trainer.trust_results import KeyFigure
from trainer.wording import p_text

LOOKED_AT = ("wrong", "look")
"""Findings that are counted; the others only say what limits the figures."""


@dataclass(frozen=True)
class _Work:
    subject: Subject
    views: tuple[Snapshot, ...]
    groups: tuple[str, ...]

    def do(self, url: str) -> Done:
        """Look at the embeddings beside the row's out-of-fold risks, and write figures and page."""
        subject = self.subject
        asked = Asked(
            subject.store.url,
            tuple(snapshot.id for snapshot in self.views),
            # the run holds all but columns that no model reads
            subject.inputs.clinical if self.groups else None,
            groups=self.groups,
            run_url=subject.url,
            row=subject.row,
            ids=subject.inputs.ids,
        )
        with progress("embeddings") as told:
            measured = measure(asked, told)
        write_page(measured.found, write_quality(measured, url))
        return Done(key_figures(measured.found), complete=True, notes=measured.found.notes)


def _prepared(subject: Subject) -> Prepared | LeftOut:
    settings = subject.settings.quality
    if settings is None:
        return LeftOut("left out by the study's settings")
    named = settings.views or (subject.snapshot.id,)
    latest, groups = subject.inputs.latest, settings.groups or ()
    views = tuple(snapshot_of(subject.store, name, latest=latest) for name in named)
    table = sha256(read_table(subject.inputs.clinical)[0].to_csv().encode()) if groups else None
    digest = inputs_digest(subject, views=[view.id for view in views], groups=groups, table=table)
    entries = counted(sum(map(len, views)), "entry", "entries")
    return Prepared(f"{counted(len(views), 'view')}, {entries}", digest, _Work(subject, views, groups).do)


def key_figures(found: Quality) -> tuple[KeyFigure, ...]:
    """How many things a person must look at, then drift of groups, then how alignment goes with risk."""
    return (
        _findings([one for one in found.findings if one.severity in LOOKED_AT]),
        *(
            _drift(embeddings, drift)
            for view in found.views
            for embeddings in view.embeddings
            for drift in embeddings.drift
            if drift.location is not None
        ),
        *(_alignment(pair) for view in found.views for pair in view.alignments if pair.risk_cosine.n),
    )


def _findings(found: list[Finding]) -> KeyFigure:
    told = f"The first, of {found[0].entry}: {found[0].text}." if found else "Nothing unusual was found."
    return KeyFigure(label="Findings to look at", value=len(found), digits=0, reading=told)


def _drift(one: EmbeddingQuality, drift: Drift) -> KeyFigure:
    assert drift.location is not None
    free = drift.scheme == "free"
    within = "" if free else ", permuted among those with the event and among the others"
    label = f"R² of {drift.column}{'' if free else ' within strata of the event'}, {one.entry}"
    p = p_text(drift.location.p_holm)
    told = (
        f"Share of variation that lies between groups; PERMANOVA with {drift.permutations} permutations{within}, Holm p {p}, which "
        f"differing spreads make small too. {_spread(drift)}"
    )
    return KeyFigure(label=label, value=drift.location.r2, reading=told)


def _spread(drift: Drift) -> str:
    """The test of spread in words, beside which that of location has to be read."""
    if drift.spread is None or drift.spread.p_holm is None:
        return "Spreads were not compared."
    p = p_text(drift.spread.p_holm)
    if drift.spread.p_holm < ALPHA:
        return f"Spreads differ (PERMDISP, Holm p {p}): the groups may differ in that alone."
    return f"No difference in spread was shown (PERMDISP, Holm p {p})."


def _alignment(pair: Alignment) -> KeyFigure:
    found = pair.risk_cosine
    told = f"Of {counted(found.n, 'patient')}; a description of how the two go together, no validation."
    if found.spearman is None:
        told = f"Not defined: {found.reason}."
    label = f"Spearman of {pair.first}/{pair.second} cosine and risk, {pair.roi}"
    return KeyFigure(label=label, value=found.spearman, low=found.low, high=found.high, signed=True, reading=told)


QUALITY = Part("quality", "The embeddings themselves", _prepared)
