"""Settings of a search: which values a setting may take, how many points are tried and by which folds; draws none of them."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Mode = Literal["nested", "paper", "both"]


class Range(BaseModel):
    """Values that a searched setting may take; exactly one of the four.

    Attributes
    ----------
    range
        Evenly between two numbers.
    log
        Evenly in the logarithm between two positive numbers.
    integer
        Whole numbers from the first to the second, both included.
    choice
        One of these values, of any kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    range: tuple[float, float] | None = None
    log: tuple[float, float] | None = None
    integer: tuple[int, int] | None = None
    choice: tuple[Any, ...] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [name for name in ("range", "log", "integer", "choice") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of range, log, integer and choice, got {', '.join(given) or 'none'}")
        ends = self.range or self.log or self.integer
        if ends is not None and not ends[0] < ends[1]:
            raise ValueError(f"{given[0]}: expected the lower end first, got {list(ends)}")
        if self.log is not None and not self.log[0] > 0:
            raise ValueError(f"log: expected positive numbers, got {list(self.log)}")
        if self.choice is not None and len(self.choice) < 2:
            raise ValueError(f"choice: expected two values at least, got {list(self.choice)}")
        return self

    def value(self, u: float) -> Any:
        """Value at the place `u` of the range, in [0, 1)."""
        if self.choice is not None:
            return self.choice[int(u * len(self.choice))]
        if self.integer is not None:
            low, high = self.integer
            return low + int(u * (high - low + 1))
        if self.log is not None:
            return float(self.log[0] * (self.log[1] / self.log[0]) ** u)
        assert self.range is not None
        return self.range[0] + u * (self.range[1] - self.range[0])


Searched = dict[str, Range]
"""Ranges by the dotted name of the setting, such as ``fit.learning_rate`` or ``images.roi``."""


class SearchSettings(BaseModel):
    """How the models that declare a `search` are tuned.

    Attributes
    ----------
    points
        Settings that are tried for each model, a power of 2: rows of a scrambled Sobol table.
    seed
        Of the table.
    mode
        ``nested`` (default): for each outer fold the settings are chosen by cross-validation inside its training part.
        ``paper``: those with the best mean c on the reported folds themselves, which is optimistic and flagged so.
        ``both``: both, and the optimism between them.
    inner_folds
        Parts of the training part by which nested settings are chosen.
    keep
        Early pruning: the share of each model's settings that go on after the first fold (inner, or the paper's way outer), by
        their c there. None (default): every setting is tried on every fold. Two go on at least. It may lose the best setting.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.4.1 (tuned on the reported folds); Cawley and Talbot 2010; protocol section 6.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    points: Annotated[int, Field(ge=1)] = 16
    seed: Annotated[int, Field(ge=0)] = 0
    mode: Mode = "nested"
    inner_folds: Annotated[int, Field(ge=2)] = 3
    keep: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _power_of_two(self) -> Self:
        if self.points & (self.points - 1):
            raise ValueError(f"points: a Sobol table is even only with 1, 2, 4, 8, … rows, got {self.points}")
        return self
