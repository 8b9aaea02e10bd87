"""Holds the row of a study that is looked at, with all that it was made from; looks at nothing itself."""

from dataclasses import dataclass
from functools import cached_property

from rich.console import Console

from store_schema import Snapshot, Store, ViewSpec
from store_schema.errors import UsageError
from trainer.config import RunConfig
from trainer.dispatch import Workers
from trainer.model_config import FittedModel
from trainer.plan import Inputs, Plan
from trainer.predicting import pairs
from trainer.report.reading import FinishedRun, read_run
from trainer.results import RunResults
from trainer.run_folder import RESULTS, RunFolder
from trainer.trust_config import TrustSettings


@dataclass(frozen=True)
class Subject:
    """A row of a study, and where it comes from."""

    settings: TrustSettings
    plan: Plan
    """Of the study."""
    inputs: Inputs
    """What the study reads, as the command line says it."""
    model: FittedModel
    url: str
    """The study's run folder."""
    workers: Workers
    console: Console
    """Where progress goes."""
    results: RunResults | None = None
    """Of the study; None where it is only planned."""

    @property
    def config(self) -> RunConfig:
        """Of the study."""
        return self.plan.config

    @property
    def row(self) -> str:
        """Name of the row."""
        return self.model.name

    @property
    def store(self) -> Store:
        """Where the row's view lies."""
        assert self.plan.store is not None
        return self.plan.store

    @cached_property
    def snapshot(self) -> Snapshot:
        """What the row reads."""
        return next(pin.snapshot for pin in self.plan.pins if pin.view == self.model.view)

    @cached_property
    def run(self) -> FinishedRun | None:
        """The study as its folder holds it; None before it has results."""
        folder = RunFolder.open(self.url)
        return read_run(folder) if folder.location.exists(RESULTS) else None

    @property
    def view(self) -> ViewSpec:
        """The row's own view."""
        return self.snapshot.view

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Modality and region of the entries that the row reads."""
        return pairs(self.model)


def row_of(config: RunConfig, wanted: str | None) -> FittedModel:
    """The row that is looked at: as it was named, or the first of images alone, or else the first that reads images.

    Raises
    ------
    UsageError
        If there is no such row, or it reads no images, or it is a choice among others.
    """
    imaging = [model for model in config.fitted_models if model.images is not None]
    names = ", ".join(model.name for model in imaging) or "none"
    if wanted is None:
        if not imaging:
            raise UsageError("no row of the study reads images: there is no embedding to trust or not")
        return next((model for model in imaging if not model.clinical), imaging[0])
    for model in imaging:
        if model.name == wanted:
            return model
    raise UsageError(
        f"trust: row: {wanted!r} is no row that fits one model to images: the study has {names}. A choice among rows cannot be "
        "looked at: name one of them"
    )
