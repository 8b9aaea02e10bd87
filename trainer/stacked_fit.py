"""Fits many networks of one architecture at once, each as if alone; knows nothing of folds, stores or other architectures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from store_schema.errors import TaskError
from trainer.fit import rate_share
from trainer.loss import RiskSets
from trainer.model import SurvivalModel
from trainer.spec import FitConfig, ModelSpec
from trainer.stacked_loss import StackedRiskSets
from trainer.stacked_memory import Layout, rounded
from trainer.stacked_network import Individual, StackedNetwork, Vectors
from trainer.stopping import Course, FitRecord, divergence

BETAS = (0.9, 0.999)
EPSILON = 1e-8
CLIP_EPSILON = 1e-6
"""Beside the norm of the slope when it is clipped, as in torch."""
COMPACT_BELOW = 0.75
"""Share of a stack's networks still being fitted below which the others are taken out."""


class StackedPart(NamedTuple):
    """Patients of one network."""

    vectors: Sequence[Float[Tensor, "patient ..."]]
    """What enters of them: the vectors or images of each modality, then covariates."""
    sets: RiskSets

    @property
    def patients(self) -> int:
        """How many they are."""
        return len(self.sets.order)


@dataclass(frozen=True, eq=False)
class StackedJob:
    """One network of a stack and all that fitting it needs, on the device."""

    network: SurvivalModel
    """With the weights of the start; left as it is."""
    spec: ModelSpec
    config: FitConfig
    course: Course
    """Says when the fit is over; moved on by it."""
    stream: torch.Generator
    """Of dropout; drawn from by the fit."""
    train: StackedPart
    """Patients that are fitted."""
    watch: StackedPart | None
    """Patients that are watched, one with the event among them."""


@dataclass(frozen=True, eq=False)
class Weighed:
    """A network whose fit is over."""

    record: FitRecord
    """How it went."""
    state: Mapping[str, Tensor]
    """Weights and running statistics of its best epoch, on the CPU."""


def fit_stack(jobs: Sequence[StackedJob]) -> list[Weighed | TaskError]:
    """Fit every job's network; all are of one architecture, and all watch patients or none does.

    The numbers of a network follow from its own job and from how many rows the longest of the jobs has; not from its place, nor
    from when the others stop or diverge. A fit that diverges is answered by its error.

    References
    ----------
    Loshchilov and Hutter 2019 (AdamW); torch/optim/adamw.py.
    """
    return _Fit(jobs).run()


@dataclass(frozen=True, eq=False)
class _Memory:
    """All numbers of a stack that outlive a step: parameters, running statistics, moments of the slopes."""

    values: Float[Tensor, "model number"]
    statistics: Float[Tensor, "model statistic"]
    first: Float[Tensor, "model number"]
    second: Float[Tensor, "model number"]

    @classmethod
    def of(cls, jobs: Sequence[StackedJob], layout: Layout) -> Self:
        # many jobs start from one network
        networks = {id(job.network): job.network for job in jobs}
        starts = {key: layout.read(network.state_dict()) for key, network in networks.items()}
        read = [starts[id(job.network)] for job in jobs]
        device = jobs[0].train.vectors[0].device
        values, statistics = (torch.stack(numbers).to(device) for numbers in zip(*read, strict=True))
        return cls(values, statistics, torch.zeros_like(values), torch.zeros_like(values))

    def models(self, index: Int[Tensor, " kept"]) -> Self:
        return type(self)(self.values[index], self.statistics[index], self.first[index], self.second[index])


class _Side(NamedTuple):
    """Patients of every network that are fitted, or that are watched."""

    vectors: Vectors
    sets: StackedRiskSets

    @classmethod
    def of(cls, parts: Sequence[StackedPart], jobs: Sequence[StackedJob], rows: int) -> Self:
        vectors = Vectors.of([part.vectors for part in parts], rows, modalities=len(jobs[0].spec.modalities))
        ties = [job.config.ties for job in jobs]
        device = parts[0].vectors[0].device
        return cls(vectors, StackedRiskSets.of([part.sets for part in parts], ties=ties, rows=rows, device=device))


class _Stack:
    """Networks under way, one step after another."""

    def __init__(self, jobs: Sequence[StackedJob], layout: Layout, memory: _Memory, rows: "_RowCounts") -> None:
        self.memory = memory
        self._layout = layout
        self._slopes = torch.zeros_like(memory.values)
        self._optimiser = _AdamW(jobs, layout, memory)
        self._penalty = memory.values.new_tensor([job.config.l2 for job in jobs]).unsqueeze(1)
        self._penalised = any(job.config.l2 for job in jobs)
        train = _Side.of([job.train for job in jobs], jobs, rows.train)
        watched = [job.watch for job in jobs if job.watch is not None]
        watch = _Side.of(watched, jobs, rows.watch) if watched else None
        individual = Individual(
            shares=[job.spec.dropout for job in jobs],
            momenta=[job.spec.norm_momentum for job in jobs],
            streams=[job.stream for job in jobs],
            counts=[job.train.patients for job in jobs],
        )
        self._sets, self._watch_sets = train.sets, None if watch is None else watch.sets
        vectors = (train.vectors, None if watch is None else watch.vectors)
        self._network = StackedNetwork(jobs[0].spec, self, individual, train=vectors[0], watch=vectors[1])

    def value(self, name: str) -> Float[Tensor, "model ..."]:
        """Parameter or running statistic of every network."""
        place = self._layout.parameters.get(name)
        return (
            self._layout.statistics[name].of(self.memory.statistics) if place is None else place.of(self.memory.values)
        )

    def slope(self, name: str) -> Float[Tensor, "model ..."]:
        """How every network's loss grows with a parameter of its own."""
        return self._layout.parameters[name].of(self._slopes)

    def step(self, epoch: int) -> tuple[Float[Tensor, " model"], Float[Tensor, " model"]]:
        """Loss of each network and norm of its slope before this step, which is taken."""
        risk = self._network.forward()
        losses, slope = self._sets.losses_and_slopes(risk)
        self._network.backward(slope.to(risk.dtype))
        if self._penalised:
            losses += self._penalise()
        norms = torch.linalg.vector_norm(self._slopes, dim=1)
        self._optimiser.step(self._slopes, norms, epoch)
        return losses, norms.double()

    def watch(self) -> Float[Tensor, " model"] | None:
        """Loss of each network over the patients that it watches, in evaluation mode."""
        return None if self._watch_sets is None else self._watch_sets.losses(self._network.watch())

    def _penalise(self) -> Float[Tensor, " model"]:
        start = self._layout.survival
        head = self.memory.values[:, start:]
        self._slopes[:, start:].addcmul_(head, 2 * self._penalty)
        return (self._penalty.squeeze(1) * head.square().sum(1)).double()


class _AdamW:
    """Clipping, decoupled decay of weights and Adam, with each network's own settings."""

    def __init__(self, jobs: Sequence[StackedJob], layout: Layout, memory: _Memory) -> None:
        self._memory = memory
        self._plans = [(job.config.schedule, job.config.epochs) for job in jobs]
        self._rate = torch.tensor([[job.config.learning_rate] for job in jobs], dtype=torch.float64)
        self._clip = memory.values.new_tensor([job.config.clip_norm or math.inf for job in jobs]).unsqueeze(1)
        self._decay = torch.tensor([[job.config.weight_decay] for job in jobs], dtype=torch.float64)
        self._decayed = layout.decayed.to(memory.values.device).bool()

    def step(self, slopes: Float[Tensor, "model number"], norms: Float[Tensor, " model"], epoch: int) -> None:
        """Move the values down these slopes, which are clipped in place."""
        memory, (beta, beta_square) = self._memory, BETAS
        shares = {plan: rate_share(plan[0], epoch, epochs=plan[1]) for plan in set(self._plans)}
        rate = self._rate * torch.tensor([[shares[plan]] for plan in self._plans], dtype=torch.float64)
        slopes.mul_((self._clip / (norms.unsqueeze(1) + CLIP_EPSILON)).clamp_(max=1.0))
        left, length = ((1 - rate * self._decay), rate / (1 - beta**epoch))
        memory.values.mul_(torch.where(self._decayed, left.to(slopes), 1.0))
        memory.first.lerp_(slopes, 1 - beta)
        memory.second.mul_(beta_square).addcmul_(slopes, slopes, value=1 - beta_square)
        spread = memory.second.sqrt().div_(math.sqrt(1 - beta_square**epoch)).add_(EPSILON)
        memory.values.addcmul_(memory.first / spread, length.to(slopes), value=-1)


class _RowCounts(NamedTuple):
    """Rows of a stack, padding among them; 0 where nobody is watched."""

    train: int
    watch: int


class _Fit:
    """A stack under way, the weights of every network's best epoch so far, and the answers of those that are over."""

    def __init__(self, jobs: Sequence[StackedJob]) -> None:
        self._jobs = jobs
        self._layout = Layout.of(jobs[0].network)
        watched = [job.watch.patients for job in jobs if job.watch is not None]
        self._rows = _RowCounts(rounded(max(job.train.patients for job in jobs)), rounded(max(watched, default=0)))
        memory = _Memory.of(jobs, self._layout)
        self._best = memory.values.clone(), memory.statistics.clone()
        self._stack = _Stack(jobs, self._layout, memory, self._rows)
        self._place = dict(enumerate(range(len(jobs))))
        self._answers: dict[int, Weighed | TaskError] = {}

    def run(self) -> list[Weighed | TaskError]:
        """Answers of all jobs, in their order."""
        epoch = 0
        while self._place:
            epoch += 1
            losses, norms = self._stack.step(epoch)
            self._hear(losses, norms, self._stack.watch())
            self._part()
        return [self._answers[job] for job in range(len(self._jobs))]

    def _hear(
        self, losses: Float[Tensor, " model"], norms: Float[Tensor, " model"], watched: Float[Tensor, " model"] | None
    ) -> None:
        """Note what an epoch left of each network: its error, or its losses and, if they are its best so far, its weights."""
        table = torch.stack((losses, norms) if watched is None else (losses, norms, watched))
        finite = torch.isfinite(table).all(0).tolist()
        numbers = table.tolist()
        heard = [None] * len(finite) if watched is None else numbers[2]
        kept: list[int] = []
        for job, at in self._place.items():
            of = self._jobs[job]
            if not finite[at]:
                self._answers[job] = _divergence(of, numbers[0][at], numbers[1][at], heard[at])
            elif of.course.hear(numbers[0][at], heard[at]):
                kept.append(job)
        self._keep(kept)

    def _keep(self, jobs: Sequence[int]) -> None:
        if jobs:
            memory, into = self._stack.memory, torch.tensor(jobs)
            places = torch.tensor([self._place[job] for job in jobs])
            for best, now in zip(self._best, (memory.values, memory.statistics), strict=True):
                best.index_copy_(0, into.to(best.device), now.index_select(0, places.to(best.device)))

    def _part(self) -> None:
        """Answer for those that are over, and take them out of the stack when they are many."""
        for job in [job for job in self._place if job in self._answers or self._jobs[job].course.over]:
            del self._place[job]
            if job not in self._answers:
                self._answers[job] = self._weighed(job)
        if 0 < len(self._place) < COMPACT_BELOW * len(self._stack.memory.values):
            index = torch.tensor(list(self._place.values()), device=self._stack.memory.values.device)
            jobs = [self._jobs[job] for job in self._place]
            self._stack = _Stack(jobs, self._layout, self._stack.memory.models(index), self._rows)
            self._place = {job: place for place, job in enumerate(self._place)}

    def _weighed(self, job: int) -> Weighed:
        record = self._jobs[job].course.record()
        values, statistics = (best[job] for best in self._best)
        return Weighed(record, self._layout.state(values, statistics, steps=record.best_epoch))


def _divergence(job: StackedJob, loss: float, norm: float, watched: float | None) -> TaskError:
    epoch = job.course.epoch + 1
    error = divergence(loss, norm, epoch=epoch, config=job.config)
    if error is None and watched is not None:
        error = divergence(watched, 0.0, epoch=epoch, config=job.config)
    assert error is not None
    return error
