"""The part on where the model looks: finds occluded entries, has them explained, and names its key figures; computes no delta."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from store_schema import Snapshot
from store_schema.console import progress
from store_schema.errors import NotCommittedError, UsageError
from trainer.explain_results import UNNAMED, Attribution, Explanation
from trainer.explaining import ExplainOptions, explain
from trainer.occluded_entries import occlusions_of
from trainer.predicting import Newcomers
from trainer.probe import Estimate
from trainer.report.explain_page import write_explain_page
from trainer.summary import pooled_risks
from trainer.trust.kept_model import is_kept, kept_model
from trainer.trust.parts import Done, LeftOut, Part, Prepared, counted, inputs_digest, seconds_of_a_fit
from trainer.trust.subject import Subject
from trainer.trust_results import KeyFigure


@dataclass(frozen=True)
class _Work:
    subject: Subject
    occlusions: Snapshot
    having: tuple[str, ...]
    """Patients of the study whose images have patches hidden, sorted."""

    def do(self, url: str) -> Done:
        """Explain patient by patient, and write the page."""
        subject = self.subject
        # also of a model without covariates: the table says whose each study is
        newcomers = Newcomers(subject.store.url, subject.snapshot.id, subject.inputs.clinical, subject.inputs.ids)
        options = ExplainOptions(kept_model(subject), newcomers, self.occlusions.id, self._patients())
        with progress("explained patients") as told:
            report = explain(options, out=url, told=told)
        write_explain_page(report.folder.url)
        return Done(key_figures(report.found), not report.found.failures, _notes(report.found))

    def estimates(self) -> Sequence[Estimate]:
        """What the fit on the whole cohort costs, where no earlier call has kept the model."""
        if is_kept(self.subject):
            return ()
        return (Estimate(self.subject.row, 1, seconds_of_a_fit(self.subject)),)

    def _patients(self) -> tuple[str, ...]:
        """Those asked for; of a number as many, spread evenly over the order of their out-of-fold risks."""
        settings = self.subject.settings.explain
        assert settings is not None
        asked = settings.patients
        if asked is None or isinstance(asked, tuple):
            return self.having if asked is None else asked
        assert self.subject.run is not None
        risks = pooled_risks(self.subject.run.of(self.subject.row))
        return spread(sorted(self.having, key=lambda patient: (risks.get(patient, 0.0), patient)), asked)


def spread(ordered: list[str], number: int) -> tuple[str, ...]:
    """So many of a list, the first and the last among them, at even steps; all where there are no more."""
    if number >= len(ordered):
        return tuple(ordered)
    places = np.linspace(0, len(ordered) - 1, number).round().astype(int)
    return tuple(ordered[place] for place in places)


def _prepared(subject: Subject) -> Prepared | LeftOut:
    settings = subject.settings.explain
    if settings is None:
        return LeftOut("left out by the study's settings")
    try:
        occlusions = occlusions_of(subject.store, subject.view, settings.occlusion, subject.pairs)
    except (NotCommittedError, UsageError) as error:
        # what nobody named may be absent, or be there twice
        if settings.occlusion is not None:
            raise
        return LeftOut(str(error))
    held = {key.patient for key in occlusions.keys if (key.modality, key.roi) in subject.pairs}
    having = tuple(sorted(held.intersection(subject.plan.cohort.patients)))
    if not having:
        return LeftOut(f"no patient of the study has an entry of {occlusions.view_id}: `extractor occlude` makes them")
    asked = settings.patients
    number = len(having) if asked is None else min(asked, len(having)) if isinstance(asked, int) else len(asked)
    size = occlusions.view.flags.get("occlusion_size_mm", 0.0)
    said = f"{counted(number, 'patient')}, hidden patches of {size:g} mm"
    digest = inputs_digest(subject, occlusions=occlusions.id, patients=asked)
    work = _Work(subject, occlusions, having)
    return Prepared(said, digest, work.do, work.estimates)


def key_figures(found: Explanation) -> tuple[KeyFigure, ...]:
    """What hiding each bone changes, the largest first, five of each image at most."""
    ordered = sorted(found.attribution, key=lambda one: -one.absolute)
    return tuple(map(_figure, ordered[:5]))


def _figure(one: Attribution) -> KeyFigure:
    where = "any patch" if one.bone == UNNAMED else one.bone
    told = (
        f"Mean over {counted(one.patients, 'patient')}; on average risk "
        f"{'falls' if one.signed < 0 else 'rises'} by {abs(one.signed):.3f} with it hidden. A sensitivity, and no cause."
    )
    return KeyFigure(
        label=f"Change of log-risk with {where} hidden, {one.modality}",
        value=one.absolute,
        low=one.absolute_low,
        high=one.absolute_high,
        reading=told,
    )


def _notes(found: Explanation) -> tuple[str, ...]:
    return (f"{counted(len(found.failures), 'patient')} could not be explained",) if found.failures else ()


EXPLAIN = Part("explain", "Where the model looks", _prepared)
