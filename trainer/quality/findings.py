"""Says in words what a person must look at, the worst first; measures nothing and names no patient."""

from collections.abc import Iterable, Iterator

from trainer.quality.results import Alignment, Drift, EmbeddingQuality, Finding, Settings, Severity, ViewQuality

SEVERITIES: tuple[Severity, ...] = ("wrong", "look", "know")
ALPHA = 0.05
ONE_DIRECTION = 2.0
"""Participation ratio below which embeddings differ along little more than one direction."""
LEAST_RANK = 5
"""Directions that there must be for that to be worth a word."""

Told = Iterator[tuple[Severity, str]]


def findings(views: Iterable[ViewQuality], settings: Settings) -> tuple[Finding, ...]:
    """Everything unusual of all views."""
    found = []
    for view in views:
        for one in view.embeddings:
            found += [(view.view, one.entry, told) for told in _of_embeddings(one, settings)]
        for pair in view.alignments:
            entry = f"{pair.first}+{pair.second}/{pair.roi}"
            found += [(view.view, entry, told) for told in _of_alignment(pair)]
    made = [Finding(severity=told[0], view=view, entry=entry, text=told[1]) for view, entry, told in found]
    return tuple(sorted(made, key=lambda one: SEVERITIES.index(one.severity)))


def _of_embeddings(one: EmbeddingQuality, settings: Settings) -> Told:
    yield from _of_numbers(one)
    yield from _of_pairs(one, settings)
    for drift in one.drift:
        yield from _of_drift(drift)
    for name, sizes in (("norm", one.norm), ("distance from the cohort's mean", one.from_centre)):
        if sizes.outliers:
            told = (
                f"{_n(sizes.outliers, 'patient')} with an unusual {name} (modified z-score beyond {settings.outlier:g})"
            )
            yield "look", f"{told}: see norms.csv"


def _of_numbers(one: EmbeddingQuality) -> Told:
    if one.not_finite:
        yield "wrong", f"{_n(one.not_finite, 'number')} NaN or infinite, in {_n(one.left_out, 'entry', 'entries')}"
    if one.zero:
        yield "wrong", f"{_n(one.zero, 'embedding')} 0 throughout"
    if one.blank_layers:
        yield "wrong", f"{_n(one.blank_layers, 'memory layer')} called valid and 0 throughout"
    if one.constant:
        severity: Severity = "look" if one.constant < one.features else "wrong"
        yield severity, f"{one.constant} of {one.features} features are one number for all patients"
    if one.dead_channels:
        yield "look", f"{one.dead_channels} of {one.channels} memory channels are one number for all patients"
    if one.participation is not None and one.participation < ONE_DIRECTION and one.most_rank >= LEAST_RANK:
        yield (
            "look",
            f"embeddings differ along little more than one direction (participation ratio {one.participation:.2f})",
        )
    if one.sparse:
        yield "know", f"{one.sparse} features that over 20% of patients lack are left out of distances"
    if len(one.valid_layers) > 1:
        counts = ", ".join(f"{layers}: {entries}" for layers, entries in sorted(one.valid_layers.items()))
        yield "know", f"entries differ in how many memory layers are valid ({counts})"


def _of_pairs(one: EmbeddingQuality, settings: Settings) -> Told:
    pairs = one.pairs
    kinds = (("same_input", "the same input"), ("same_content", "the same content"), ("equal", "equal embeddings"))
    for name, told in kinds:
        if count := getattr(pairs, name):
            yield (
                "wrong",
                f"{_n(count, 'pair')} of different patients with {told}: a study filed twice? See duplicates.csv",
            )
    if pairs.near:
        limits = f"relative L2 ≤ {settings.near:g} and ≤ {settings.share:g} of the median distance"
        yield "look", f"{_n(pairs.near, 'pair')} of different patients nearly the same ({limits}): see duplicates.csv"
    if pairs.same_person:
        yield "look", f"{_n(pairs.same_person, 'pair')} of one person's studies are the same: see duplicates.csv"


def _of_drift(drift: Drift) -> Told:
    if drift.location is None or drift.spread is None or drift.location.p_holm is None or drift.spread.p_holm is None:
        if drift.scheme == "free":
            yield "know", f"groups of {drift.column} were not compared: {drift.reason}"
        return
    moved, wider = drift.location.p_holm < ALPHA, drift.spread.p_holm < ALPHA
    if not moved and not wider:
        return
    within = "" if drift.scheme == "free" else ", within strata of the event"
    size = f"R² {drift.location.r2:.3f}, ω² {drift.location.omega2:.3f}; Holm p {drift.location.p_holm:.3g}"
    spread = f"Holm p {drift.spread.p_holm:.3g}"
    if moved and wider:
        yield (
            "look",
            f"groups of {drift.column} differ in location and spread, or in spread alone{within} ({size}; spread: {spread})",
        )
    elif moved:
        yield (
            "look",
            f"embeddings drift between groups of {drift.column}{within} ({size}); no difference in spread was shown ({spread})",
        )
    else:
        yield (
            "look",
            f"groups of {drift.column} differ in spread{within} ({spread}); no difference in location was shown ({size})",
        )


def _of_alignment(pair: Alignment) -> Told:
    if pair.poor_overlap:
        studies = _n(pair.poor_overlap, "study", "studies")
        told = f"bodies of {pair.first} and {pair.second} overlap with a Dice below 0.80 in {studies}"
        yield "look", f"{told}: see alignment.csv"
    if pair.reason is not None:
        yield "know", f"no alignment of the cohort: {pair.reason}"
    elif pair.rank_p is not None and pair.cka_p is not None and min(pair.rank_p, pair.cka_p) >= ALPHA:
        p = f"p by rank {pair.rank_p:.2f}, by CKA {pair.cka_p:.2f}"
        yield (
            "know",
            f"{pair.first} and {pair.second} of one patient were not shown to be more alike than those of two ({p})",
        )


def _n(count: int, one: str, several: str | None = None) -> str:
    """A count with its noun."""
    return f"{count} {one if count == 1 else several or f'{one}s'}"
