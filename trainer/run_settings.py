"""Settings of a run beside its models: how patients are dealt, what results are held against, which rows are compared."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainer.model_config import Settings


class SplitSettings(Settings):
    """How patients are dealt into outer folds; see `trainer.splits.make_splits`.

    Attributes
    ----------
    folds
        Parts of the cohort; each is the test part once.
    repeats
        Dealings of the whole cohort.
    method
        ``blocks``: sort by event and time, deal neighbours at random. ``quantiles``: as in the paper.
    seed
        Of outer and inner splits.
    by_centre
        Keep each centre in one fold; needs `columns: centre`.
    leave_one_centre_out
        As many folds as there are centres, each of one centre: how models do where they were not made. Needs
        `columns: centre`.
    """

    folds: Annotated[int, Field(ge=2)] = 5
    repeats: Annotated[int, Field(ge=1)] = 1
    method: Literal["blocks", "quantiles"] = "blocks"
    seed: Annotated[int, Field(ge=0)] = 0
    by_centre: bool = False
    leave_one_centre_out: bool = False

    @property
    def of_centres(self) -> bool:
        """Whether folds are made of whole centres."""
        return self.by_centre or self.leave_one_centre_out

    @model_validator(mode="after")
    def _centres_say_how_many(self) -> Self:
        if self.leave_one_centre_out and (self.repeats, self.folds) != (1, type(self).model_fields["folds"].default):
            raise ValueError(
                "with leave_one_centre_out the centres are the folds, and there is one way to deal them: leave `folds` and "
                "`repeats` out"
            )
        return self


class PermutedControl(Settings):
    """Models that are also fitted on permuted outcomes, where they must be at chance.

    Attributes
    ----------
    models
        Their names.
    repeats
        Permutations; from 19 on, a permutation p is computed (protocol section 6 uses 199).
    seed
        Of the permutations.
    """

    models: Annotated[tuple[str, ...], Field(min_length=1)]
    repeats: Annotated[int, Field(ge=1)] = 1
    seed: Annotated[int, Field(ge=0)] = 0


PERMUTATIONS = 199
"""Of a permutation p, unless others are asked for (protocol section 6)."""


class Oracle(Settings):
    """Risks that are known because the outcomes were simulated with them.

    Attributes
    ----------
    table
        Table with a column `patient` and the oracle's; none where they stand in the clinical table. The command line's
        --oracle wins.
    columns
        Each is a log-risk; higher is worse.
    """

    table: str | None = None
    columns: Annotated[tuple[str, ...], Field(min_length=1)] = ("log_hazard",)


class ContrastSettings(Settings):
    """Two models whose c-indices are compared on the same folds; a positive difference favours the first.

    Attributes
    ----------
    first, second
        Names of models.
    """

    first: str
    second: str

    @model_validator(mode="after")
    def _two(self) -> Self:
        if self.first == self.second:
            raise ValueError(f"a contrast needs two models, got {self.first} twice")
        return self

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"{self.first} − {self.second}"
