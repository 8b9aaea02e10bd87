"""Keeps the row that is looked at as a model fitted on the whole cohort, once for all parts that need one; judges nothing."""

from store_schema.errors import AlreadyExistsError
from trainer.final import final_settings, fit_final, row_of
from trainer.run_folder import RunFolder
from trainer.saved import CARD, Card, read_model
from trainer.trust.subject import Subject
from trainer.trust_results import TRUST


def is_kept(subject: Subject) -> bool:
    """Whether an earlier call has kept a model of the row, be it still the right one or not."""
    return RunFolder.open(_url(subject)).location.exists(CARD)


def _url(subject: Subject) -> str:
    return f"{subject.url}/{TRUST}/models/{subject.row}"


def kept_model(subject: Subject) -> str:
    """Address of the model; an earlier call's where there is one.

    Raises
    ------
    AlreadyExistsError
        If the folder holds a model of other patients or entries, or of settings that the row does not pick any more.
    UsageError, ConfigError, CohortError, TaskError, StoreError
        As of `trainer.final.fit_final`.
    """
    url = _url(subject)
    if not is_kept(subject):
        return fit_final(subject.url, subject.row, out=url, store_url=subject.inputs.store_url).url
    card, _ = read_model(url)
    if other := _other(card, subject):
        raise AlreadyExistsError(
            f"{url} holds a model of other {other} than row {subject.row} of the study has now: a model is written once. Remove "
            "the folder, and run again"
        )
    return url


def _other(card: Card, subject: Subject) -> str:
    """What sets a kept model apart from the one that would be fitted now; empty where it is that one."""
    if (card.training.cohort_sha256, card.snapshot) != (subject.plan.cohort_sha256, subject.snapshot.id):
        return "patients or entries"
    assert subject.run is not None
    line, _ = row_of(subject.run, subject.row)
    settings = final_settings(subject.run, line)
    return "" if card.model.model_dump(mode="json") == settings.model_dump(mode="json") else "settings"
