"""Keeps the row that is looked at as a model fitted on the whole cohort, once for all parts that need one; judges nothing."""

from store_schema.errors import AlreadyExistsError
from trainer.final import fit_final
from trainer.run_folder import RunFolder
from trainer.saved import CARD, read_model
from trainer.trust.subject import Subject
from trainer.trust_results import TRUST


def kept_model(subject: Subject) -> str:
    """Address of the model; an earlier call's where there is one.

    Raises
    ------
    AlreadyExistsError
        If the folder holds a model of other patients or entries.
    UsageError, ConfigError, CohortError, TaskError, StoreError
        As of `trainer.final.fit_final`.
    """
    url = f"{subject.url}/{TRUST}/models/{subject.row}"
    if RunFolder.open(url).read(CARD) is None:
        return fit_final(subject.url, subject.row, out=url, store_url=subject.inputs.store_url).url
    card, _ = read_model(url)
    if (card.training.cohort_sha256, card.snapshot) != (subject.plan.cohort_sha256, subject.snapshot.id):
        raise AlreadyExistsError(
            f"{url} holds a model of other patients or entries than row {subject.row} of the study: remove the folder, and run "
            "again"
        )
    return url
