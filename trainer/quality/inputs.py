"""Brings together the store, the table, the model and the run that views are judged with; judges nothing."""

from dataclasses import dataclass, field

from store_schema import Snapshot, Store, open_store
from store_schema.errors import UsageError
from store_schema.files import Place
from store_schema.pseudonyms import PlainIds, check_rule
from trainer.columns import Columns
from trainer.quality.drift import LEAST_GROUP, PERMUTATIONS, Rules, comparisons, permutations_for
from trainer.quality.duplicates import NEAR, SHARE
from trainer.quality.judging import Limits
from trainer.quality.reading import keys_by_place
from trainer.quality.results import Settings
from trainer.quality.risks import Risks, model_risks, run_risks
from trainer.quality.standard import OUTLIER
from trainer.quality.subjects import Subjects, joined, subjects_of_cohort, subjects_of_table
from trainer.robustness.reading import snapshot_of

RESAMPLES = 1000


@dataclass(frozen=True)
class Asked:
    """What is judged, and what is known of the patients."""

    store_url: str
    views: tuple[str, ...]
    """Views or snapshots."""
    clinical: Place | None = None
    columns: Columns | None = None
    """Roles of the table's columns; by default those of the model or run."""
    groups: tuple[str, ...] = ()
    """Columns whose groups are compared, besides the declared centre."""
    model_url: str | None = None
    run_url: str | None = None
    row: str | None = None
    """Of the run, whose out-of-fold risks are shown."""
    ids: PlainIds = field(default_factory=PlainIds)
    near: float = NEAR
    least_group: int = LEAST_GROUP
    permutations: int = PERMUTATIONS
    resamples: int = RESAMPLES
    umap: bool = True
    seed: int = 0
    latest: bool = False
    """Take the current commit of entries that were extracted from several inputs."""

    @property
    def rules(self) -> Rules:
        """How groups are compared."""
        return Rules(self.least_group, self.permutations, self.seed)

    @property
    def settings(self) -> Settings:
        """As the results tell them."""
        told = {name: getattr(self, name) for name in ("near", "least_group", "permutations", "resamples", "seed")}
        return Settings(**told, share=SHARE, outlier=OUTLIER)


@dataclass(frozen=True, eq=False)
class Given:
    """What all views are judged with."""

    store: Store
    snapshots: tuple[Snapshot, ...]
    subjects: Subjects
    risks: Risks | None
    limits: Limits

    @property
    def log_risk(self) -> dict[str, float]:
        """By key of the store; empty where no risks were asked for."""
        return {} if self.risks is None else dict(self.risks.log_risk)


def given_of(asked: Asked) -> Given:
    """Everything that was asked for, opened and checked.

    Raises
    ------
    UsageError, TableError, SchemaError
        If store, table, model and run do not fit each other; if an entry has several live inputs, and `latest` was not asked for.
    NotCommittedError
        If the store has not what is named.
    CohortError
        If a model can score nobody.
    """
    _check(asked)
    store = open_store(asked.store_url)
    check_rule(store.location, asked.ids)
    snapshots = tuple(snapshot_of(store, one, latest=asked.latest) for one in asked.views)
    ids = [snapshot.view_id for snapshot in snapshots]
    if twice := sorted({one for one in ids if ids.count(one) > 1}):
        raise UsageError(f"view {', '.join(twice)} is named twice: name each view once with --view")
    subjects, risks = _known(asked, store, snapshots)
    limits = Limits(asked.rules, _permutations(snapshots, subjects, asked.rules), asked.near, asked.umap)
    return Given(store, snapshots, subjects, risks, limits)


def _check(asked: Asked) -> None:
    if not asked.views:
        raise UsageError("there is nothing to judge: name views with --view")
    if asked.model_url is not None and asked.run_url is not None:
        raise UsageError("risks come from a model or from a row of a run: give --model or --run, not both")
    if (asked.run_url is None) != (asked.row is None):
        raise UsageError("--run and --row go together: the run's folder, and the row whose out-of-fold risks are shown")
    if asked.groups and asked.clinical is None and asked.run_url is None:
        raise UsageError(f"--group {asked.groups[0]} is a column of a table: give it with --clinical")
    if asked.columns is not None and asked.clinical is None:
        raise UsageError("--config says what the columns of a table mean: give the table with --clinical")


def _known(asked: Asked, store: Store, snapshots: tuple[Snapshot, ...]) -> tuple[Subjects, Risks | None]:
    """Subjects and risks, from a table, a model and a run."""
    risks, cohort = None, Subjects()
    if asked.model_url is not None:
        risks = model_risks(asked.model_url, store, snapshots, asked.clinical, asked.ids)
    if asked.run_url is not None and asked.row is not None:
        risks, run = run_risks(asked.run_url, asked.row, store)
        groups = asked.groups if asked.clinical is None else ()
        cohort = subjects_of_cohort(run.cohort, run.config.columns, groups)
    if asked.clinical is None:
        return cohort, risks
    columns = asked.columns if asked.columns is not None or risks is None else risks.columns
    return joined(subjects_of_table(asked.clinical, columns, asked.groups, asked.ids), cohort), risks


def _permutations(snapshots: tuple[Snapshot, ...], subjects: Subjects, rules: Rules) -> int:
    """B for the tests of all views together."""
    places = (keys for snapshot in snapshots for keys in keys_by_place(snapshot).values())
    planned = (one for keys in places for one in comparisons([key.patient for key in keys], subjects, rules))
    return permutations_for(planned, rules)
