"""Spreads studies over the workers of a Dask cluster and survives their deaths; with `cluster` and `at_worker` all that knows Dask.

What travels is a study's small description, one a Dask task, to a worker that this module chose; never a tensor, model, credential
or signature, and sealed where patients have pseudonyms. A worker process opens store and network once and keeps them; where it
has several threads, it loads and writes studies while another is in the network.
"""

from __future__ import annotations

import logging
import queue
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distributed import Client, Future, KilledWorker

from extractor.at_worker import About, about, on_worker
from extractor.cluster import Cluster, connected
from extractor.errands import Answer, Errand
from extractor.sealing import Envelope, envelope, key_lack
from extractor.spent import Stage
from extractor.versions import versions
from extractor.waiting import Waiting
from extractor.work import StudyTask
from extractor.worker import NO_WORKER, StudyResult, StudyStage, Told, WorkerSpec, reason_of
from store_schema.errors import UsageError
from store_schema.origin import differing

OVERLAP = 3
"""Studies that a worker has at most: one loads, one is in the network, one is written."""
POLL_S = 1.0
"""How often the scheduler is asked which workers there are."""
ANSWER_S = 30.0
"""How long the result of a finished study, which lies on its worker, may take to come."""
ASK_S = 30.0
"""How long the scheduler may take to say which workers there are."""
ASK_WORKERS_S, ASK_AGAIN_S = 300.0, 10.0
"""How long workers may take to say what they run, which some load for it; and one that did not the last time."""
AGAIN_S, AGAIN_MOST_S = 5.0, 60.0
"""After how long a worker that could not be asked is asked again, at first, and twice as long each time until this."""
RUN_AGAIN = "run the same command again, what is committed is kept"
SCHEDULER_LOST = f"the Dask scheduler was lost: {RUN_AGAIN}"
SCHEDULER_STILL = "the Dask scheduler could not be asked which workers there are for"

log = logging.getLogger(__name__)

Look = Callable[[], Mapping[str, str]]
"""Gives the versions that a process runs."""


def run_on_cluster(
    tasks: Sequence[StudyTask], spec: WorkerSpec, cluster: Cluster, *, tell: Told, look: Look = versions
) -> None:
    """Extracts every study on the cluster, and tells stages and results as they come; calls of `tell` never overlap.

    A study that raises, or whose worker dies twice, is a result with an error: the others go on. A study that was on a worker when
    it died is done once the others are, alone on its worker, so that the one that kills is known. Workers may come and go.

    Where the network runs on a GPU, only workers that declare the resource GPU are used, and their tasks ask for the whole of it.

    Raises
    ------
    UsageError
        If the scheduler cannot be reached, wants other certificates, has no worker of use, or a worker runs other code or libraries
        than this process, or holds not the secret by which studies are sealed.
    """
    if not tasks:
        return
    with connected(cluster) as client:
        sealing = envelope(spec.sealed_with)
        _Run(client, Waiting(list(tasks), tell), spec, sealing, cluster.wait_s, tell, look()).run()


class _News(NamedTuple):
    """What reached this process: a stage of an errand, or its end."""

    key: str
    stage: Stage | None


@dataclass
class _Place:
    """One worker process."""

    address: str
    name: str
    worker_id: str
    slots: int
    """Studies that it may have at once."""
    resources: Mapping[str, float] | None
    serving: bool = True
    """False where the worker is about to end."""
    held: dict[str, StudyTask] = field(default_factory=dict)
    """Studies that it was given and that have no result, by the key of their errand."""


class _Unfit(NamedTuple):
    """Why a worker is given nothing."""

    why: str
    wrong: bool
    """Whether it is set up wrongly, rather than for other work."""


@dataclass
class _Away:
    """A worker that the scheduler has and that could not be asked what it runs."""

    why: str
    pause_s: float
    again_s: float
    """When it is asked again."""


@dataclass
class _Run:
    """Studies that wait, and workers that work."""

    client: Client
    waiting: Waiting
    spec: WorkerSpec
    envelope: Envelope
    wait_s: float
    tell: Told
    expected: Mapping[str, str]
    places: dict[str, _Place] = field(default_factory=dict)
    """By address."""
    futures: dict[str, Future] = field(default_factory=dict)
    unfit: dict[str, _Unfit] = field(default_factory=dict)
    """Workers that are given nothing, by address."""
    away: dict[str, _Away] = field(default_factory=dict)
    """Workers that could not be asked what they run, by address."""
    news: queue.SimpleQueue[_News] = field(default_factory=queue.SimpleQueue)
    call: str = field(default_factory=lambda: uuid.uuid4().hex)
    number: int = 0
    looked_s: float = float("-inf")
    asked_s: float = field(default_factory=time.monotonic)
    """When the scheduler last said which workers there are."""
    worked_s: float = field(default_factory=time.monotonic)
    """When there last was a worker."""

    def run(self) -> None:
        self._look_around()
        self._refuse_unfit()
        self.client.subscribe_topic(self._topic, self._hear)
        try:
            while self.waiting or self.futures:
                if self.client.status == "running":
                    self._look_around()
                    self._serve()
                elif self.client.status == "closed":
                    # It tried in vain to reach its scheduler again.
                    self._give_all_up(SCHEDULER_LOST)
                self._listen()
        finally:
            if self.client.status == "running":
                # What is being embedded ends by itself, and what is committed stands.
                self.client.cancel(list(self.futures.values()))
                self.client.unsubscribe_topic(self._topic)

    @property
    def _topic(self) -> str:
        return f"engram-{self.call}"

    def _look_around(self) -> None:
        """Finds out which workers came and went, once in a while."""
        if time.monotonic() - self.looked_s < POLL_S:
            return
        self.looked_s = time.monotonic()
        try:
            # Not `scheduler_info()`: what that gives is overwritten by the client's own looks, which ask for no worker.
            identity = self.client.sync(self.client.scheduler.identity, n_workers=-1, callback_timeout=ASK_S)
        except OSError:
            # The client finds out by itself whether its scheduler is gone, but not whether it stands still.
            if self.looked_s - self.asked_s > self.wait_s:
                self._give_all_up(f"{SCHEDULER_STILL} {self.wait_s:g} s: {RUN_AGAIN}")
            return
        self.asked_s = self.looked_s
        self._see(identity["workers"])

    def _see(self, present: Mapping[str, Mapping[str, Any]]) -> None:
        """Compares the workers that there are with those known."""
        for place in [place for place in self.places.values() if place.address not in present]:
            self._lost(place)
        self.unfit = {address: one for address, one in self.unfit.items() if address in present}
        self.away = {address: one for address, one in self.away.items() if address in present}
        for address, place in self.places.items():
            place.serving = present[address]["status"] == "running"
        self._meet({address: one for address, one in present.items() if address not in {*self.places, *self.unfit}})
        if self.places:
            self.worked_s = time.monotonic()
        elif self.looked_s - self.worked_s > self.wait_s:
            # Not the time that asking took: workers may load what they need meanwhile.
            self.waiting.give_up(f"{NO_WORKER}: {self._why_none()}")

    def _meet(self, new: Mapping[str, Mapping[str, Any]]) -> None:
        """Makes places of new workers that run what this process runs."""
        now = time.monotonic()
        due = [address for address, one in self.away.items() if address in new and one.again_s <= now]
        fresh = [address for address in new if address not in self.away]
        # One that could not be asked before is asked by itself, and not for long: studies wait meanwhile.
        answers = self._asked(fresh, ASK_WORKERS_S) | self._asked(due[:1], ASK_AGAIN_S)
        for address, answer in answers.items():
            if isinstance(answer, OSError):
                # It went, or its host is cut off.
                self._ask_later(address, answer)
                continue
            self.away.pop(address, None)
            there = new[address]
            if (unfit := self._unfit(there, answer)) is not None:
                self._set_aside(address, unfit)
                continue
            assert isinstance(answer, About)
            slots = min(OVERLAP, int(there["nthreads"]))
            resources = {"GPU": 1 / slots} if self._on_gpu else None
            self.places[address] = _Place(address, str(there["name"]), answer.worker_id, slots, resources)

    def _asked(self, addresses: list[str], patience_s: float) -> dict[str, object]:
        """What workers say of themselves, or the error for which they could not be asked."""
        if not addresses:
            return {}
        try:
            return dict(self.client.run(about, workers=addresses, on_error="return", callback_timeout=patience_s))
        except TimeoutError:
            # One that stands still keeps all of them from answering.
            return dict.fromkeys(addresses, TimeoutError(f"no answer for {patience_s:g} s"))
        except OSError as error:
            return dict.fromkeys(addresses, error)

    def _ask_later(self, address: str, error: OSError) -> None:
        """Asks a worker again after a pause, longer each time: asking one that is cut off takes its time."""
        before = self.away.get(address)
        if before is None:
            log.warning("worker %s is given no study until it can be asked what it runs: %s", address, reason_of(error))
        pause_s = AGAIN_S if before is None else min(2 * before.pause_s, AGAIN_MOST_S)
        # At the end, so that all have their turn.
        self.away.pop(address, None)
        self.away[address] = _Away(reason_of(error), pause_s, time.monotonic() + pause_s)

    @property
    def _on_gpu(self) -> bool:
        return self.spec.device.startswith("cuda")

    def _unfit(self, there: Mapping[str, Any], answer: object) -> _Unfit | None:
        """Why a worker can be given nothing; None where it can."""
        if self._on_gpu and there["resources"].get("GPU", 0) < 1:
            return _Unfit(
                "declares no GPU: start it with `extractor worker ADDRESS --device cuda`, one process a GPU",
                wrong=False,
            )
        if isinstance(answer, str):
            return _Unfit(f"cannot say what it runs: {answer}", wrong=True)
        if not isinstance(answer, About):
            return _Unfit(f"cannot import `extractor` ({answer}): install engram[extractor] there", wrong=True)
        if other := differing(answer.versions, self.expected):
            return _Unfit(f"runs {other}: install the same on workers and client", wrong=True)
        lack = key_lack(answer.key_fingerprint, self.spec.sealed_with)
        return None if lack is None else _Unfit(lack, wrong=True)

    def _set_aside(self, address: str, unfit: _Unfit) -> None:
        self.unfit[address] = unfit
        if unfit.wrong:
            log.warning("worker %s is given no study: it %s", address, unfit.why)

    def _refuse_unfit(self) -> None:
        """Refuses to begin beside a worker that is set up wrongly, or without any that fits."""
        for address, unfit in self.unfit.items():
            if unfit.wrong or not self.places:
                raise UsageError(f"worker {address} {unfit.why}")

    def _serve(self) -> None:
        """Gives studies to the workers that have room, in turns, so that few studies are spread over many workers."""
        for turn in range(OVERLAP):
            for place in self.places.values():
                if place.serving and len(place.held) <= turn < place.slots:
                    task = self.waiting.take(beside=list(place.held.values()))
                    if task is not None:
                        self._give(place, task)

    def _give(self, place: _Place, task: StudyTask) -> None:
        self.number += 1
        # A line of the table and no id: keys are shown on the scheduler's pages.
        key = f"study-line-{task.row.line}-{self.call}-{self.number}"
        errand = Errand(self.envelope.close(task), self.spec, place.worker_id, self._topic, key)
        future = self.client.submit(
            on_worker, errand, key=key, workers=[place.address], resources=place.resources, pure=False
        )
        place.held[key] = task
        self.futures[key] = future
        future.add_done_callback(lambda _: self.news.put(_News(key, None)))

    def _hear(self, event: tuple[float, Any]) -> None:
        """Takes what a worker says of a study; in a thread of Dask's."""
        key, stage = event[1]
        self.news.put(_News(key, stage))

    def _listen(self) -> None:
        """Waits until something happens to a study, but not for long."""
        try:
            news = self.news.get(timeout=POLL_S)
            while True:
                self._take_in(news)
                news = self.news.get_nowait()
        except queue.Empty:
            return

    def _take_in(self, news: _News) -> None:
        place = next((place for place in self.places.values() if news.key in place.held), None)
        if place is None:
            return
        if news.stage is None:
            self._ended(place, news.key)
        else:
            self.tell(StudyStage(place.held[news.key], news.stage, place.name))

    def _ended(self, place: _Place, key: str) -> None:
        answer = self._answer(key)
        if answer is None or answer.kind == "elsewhere":
            # Its worker died; another process may have the address now, and is met at the next look.
            self._lost(place)
            return
        task = place.held.pop(key)
        self._drop(key)
        if answer.kind == "done":
            self.tell(self._result(task, answer))
            return
        if answer.kind == "cancelled":
            self.waiting.put_back(task)
            return
        self._set_aside(place.address, _Unfit(f"cannot work: {answer.error}", wrong=True))
        for one in (task, *place.held.values()):
            self.waiting.put_back(one)
        self._leave(place)

    def _result(self, task: StudyTask, answer: Answer) -> StudyResult:
        if answer.made is None:
            return StudyResult(task, error=answer.error)
        outcomes, error, spent = self.envelope.open(answer.made)
        return StudyResult(task, outcomes, error, spent)

    def _answer(self, key: str) -> Answer | None:
        """What came of an errand that has ended; None where its worker died with it."""
        future = self.futures[key]
        if future.status in ("cancelled", "lost"):
            return Answer("cancelled")
        try:
            error = future.exception(timeout=ANSWER_S) if future.status == "error" else None
            answer = Answer("done", error=reason_of(error)) if error else future.result(timeout=ANSWER_S)
        except (TimeoutError, CancelledError):
            return None
        if isinstance(error, KilledWorker):
            return None
        assert isinstance(answer, Answer)
        return answer

    def _lost(self, place: _Place) -> None:
        """A worker is gone: its studies wait again, or are given up."""
        held = list(place.held.values())
        self._leave(place)
        self.waiting.died(held)

    def _leave(self, place: _Place) -> None:
        """Gives a worker nothing more; what it has is taken back."""
        self.places.pop(place.address)
        for key in list(place.held):
            self._drop(key)

    def _drop(self, key: str) -> None:
        """Lets the scheduler forget an errand."""
        self.futures.pop(key).cancel()

    def _give_all_up(self, why: str) -> None:
        """Nothing more can be done: what was not is for another run."""
        for place in self.places.values():
            for task in place.held.values():
                self.waiting.put_back(task)
        self.places.clear()
        self.futures.clear()
        self.waiting.give_up(why)

    def _why_none(self) -> str:
        found = [f"worker {address} {unfit.why}" for address, unfit in self.unfit.items()]
        found += [f"worker {address} could not be asked what it runs: {one.why}" for address, one in self.away.items()]
        return found[0] if found else f"the cluster had none for {self.wait_s:g} s"
