"""Spreads studies over processes of this machine and survives the death of one; knows a study only as a task.

Each process is started by spawn (forked ones would inherit locks), works for one device, and asks for its next studies when its
loader is free: nothing is queued in it that another process could do. Whatever speaks of a study travels in an envelope.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import batched
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal, NoReturn

from extractor.pipeline import Group, work_through
from extractor.sealing import Envelope, envelope
from extractor.waiting import Waiting
from extractor.work import StudyTask
from extractor.worker import MAX_DEATHS, NO_WORKER, StudyResult, StudyStage, Told, WorkerSpec, reason_of, worker
from store_schema.errors import EngramError
from store_schema.files import remember, remembered

END_S = 20.0
"""How long a process that was told to end may take to write what it has embedded, before it is killed."""

Message = tuple[Literal["ready", "next", "broken", "told"], Any]
"""From a process: it is ready; it asks for a study; it cannot work, and why; something happened to a study, in an envelope."""

Send = Callable[..., None]
"""Sends a message's kind, and its content if it has any."""
NO_MORE = b""
"""What ends a process: no envelope is empty."""


@dataclass(frozen=True)
class Processes:
    """How many processes work, and for what devices."""

    jobs: int
    """0 works in this process."""
    devices: tuple[str, ...] = ("cpu",)
    """Dealt to the processes in turn."""
    prefetch: bool = True
    """Whether a process loads its next studies while some are embedded."""
    at_once: int = 1
    """Studies that go through a process's network side by side."""


def run_studies(tasks: Sequence[StudyTask], spec: WorkerSpec, processes: Processes, *, tell: Told) -> None:
    """Extracts every study, and tells stages and results as they come; calls of `tell` never overlap.

    A study that raises, or whose process dies twice, is a result with an error: the others go on. A study that was in a process
    when it died waits until all others are done, and then runs alone, so that the one that kills is known.

    When the call ends early (Ctrl-C), what is embedded is still written and what is committed stands.

    Raises
    ------
    UsageError
        If studies are to be sealed, and this process holds not the secret.
    """
    if processes.jobs == 0:
        load = worker(replace(spec, device=processes.devices[0]))
        groups = batched(tasks, processes.at_once)
        work_through(groups, load, _one_at_a_time(tell), prefetch=processes.prefetch)
    else:
        _Pool(Waiting(list(tasks), tell), spec, envelope(spec.sealed_with), processes, tell).run()


def _one_at_a_time(tell: Told) -> Told:
    lock = threading.Lock()

    def told(event: StudyStage | StudyResult) -> None:
        with lock:
            tell(event)

    return told


# In the process that has the plan


@dataclass
class _Process:
    """One place for a process; it gets another one when its process dies."""

    spec: WorkerSpec
    envelope: Envelope
    process: BaseProcess
    connection: Connection
    asks: bool = False
    ready: bool = False
    failed_starts: int = 0
    """Processes in a row, in this place, that died before they could work."""
    held: list[StudyTask] = field(default_factory=list)
    """Studies that it was given and that have no result."""

    @classmethod
    def started(cls, spec: WorkerSpec, sealing: Envelope, *, prefetch: bool) -> _Process:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_main, args=(spec, there, prefetch), daemon=True)
        process.start()
        there.close()
        place = cls(spec, sealing, process, here)
        # What a presigned address hides goes to these processes alone, past every task, log and record.
        place._send(sealing.close(remembered()))
        return place

    def give(self, group: Group) -> None:
        """The next studies; none ends the process. One that died meanwhile is noticed when it is listened to."""
        self.asks = False
        self.held += group
        self._send(self.envelope.close(tuple(group)) if group else NO_MORE)

    def _send(self, data: bytes) -> None:
        with suppress(OSError):
            self.connection.send_bytes(data)

    def end(self, *, at_once: bool) -> None:
        """Lets the process end: with what it was given, or with what it has embedded."""
        if at_once:
            self.process.terminate()
        else:
            self.give(())
        self.process.join(END_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


@dataclass
class _Pool:
    """Studies that wait, and processes that work."""

    waiting: Waiting
    spec: WorkerSpec
    envelope: Envelope
    processes: Processes
    tell: Told
    places: list[_Process] = field(default_factory=list)
    why_none: str = "run with --jobs 0 to see why"

    def run(self) -> None:
        finished = False
        try:
            specs = [replace(self.spec, device=device) for device in self.processes.devices]
            for number in range(min(self.processes.jobs, len(self.waiting.tasks))):
                self.places.append(self._start(specs[number % len(specs)]))
            while self.waiting or any(place.held for place in self.places):
                self._serve()
                self._listen()
            finished = True
        finally:
            for place in self.places if not finished else ():
                # All are told before one is waited for.
                place.process.terminate()
            for place in self.places:
                place.end(at_once=not finished)

    def _start(self, spec: WorkerSpec) -> _Process:
        return _Process.started(spec, self.envelope, prefetch=self.processes.prefetch)

    def _serve(self) -> None:
        """Gives studies to the processes that ask; they share this machine's memory, so that a suspect shares it with none."""
        for place in self.places:
            held = [task for other in self.places for task in other.held]
            if place.asks and (group := self._group(held)):
                place.give(group)

    def _group(self, held: Sequence[StudyTask]) -> list[StudyTask]:
        """The next studies for a process, so many that the others have as many; none where none may be worked on now."""
        share = -(-len(self.waiting.tasks) // max(1, len(self.places)))
        group: list[StudyTask] = []
        while len(group) < min(self.processes.at_once, share):
            task = self.waiting.take(beside=[*held, *group])
            if task is None:
                break
            group.append(task)
        return group

    def _listen(self) -> None:
        """Waits until a process tells something or dies."""
        ready = wait([place.connection for place in self.places])
        for place in [place for place in self.places if place.connection in ready]:
            try:
                message: Message = place.connection.recv()
            except (EOFError, OSError):
                self._died(place)
            else:
                self._take(place, message)

    def _take(self, place: _Process, message: Message) -> None:
        kind, content = message
        if kind == "ready":
            place.ready, place.failed_starts = True, 0
        elif kind == "next":
            place.asks = True
        elif kind == "broken":
            self.why_none = content
        else:
            self._happened(place, self.envelope.open(content))

    def _happened(self, place: _Process, event: StudyStage | StudyResult) -> None:
        if isinstance(event, StudyStage):
            self.tell(replace(event, where=self._name(place)))
            return
        held = next(task for task in place.held if task.row.patient == event.task.row.patient)
        place.held.remove(held)
        self.tell(event)

    def _name(self, place: _Process) -> str:
        """What tells the place from the others: its device, where there are several."""
        return place.spec.device if len(self.processes.devices) > 1 else ""

    def _died(self, place: _Process) -> None:
        """Counts a death against the studies that the process had, and fills its place where there is work."""
        place.process.join()
        place.connection.close()
        self.places.remove(place)
        self.waiting.died(place.held)
        failed_starts = 0 if place.ready else place.failed_starts + 1
        # A place in which no process can even start is given up: they would be started for ever.
        if self.waiting and failed_starts < MAX_DEATHS:
            self.places.append(replace(self._start(place.spec), failed_starts=failed_starts))
        elif not self.places:
            self.waiting.give_up(f"{NO_WORKER}: {self.why_none}")


# In the processes that work


def _main(spec: WorkerSpec, connection: Connection, prefetch: bool) -> None:
    """What a process does: studies until it is told to end, or until the one that started it is gone."""
    # Ctrl-C reaches every process of a terminal; the first one decides what becomes of the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    sending = threading.Lock()
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def send(kind: str, content: object = None) -> None:
        with sending:
            connection.send((kind, content))

    try:
        sealing = envelope(spec.sealed_with)
        remember(sealing.open(connection.recv_bytes()))
        load = worker(spec)
    except (EngramError, OSError, RuntimeError, MemoryError) as error:
        send("broken", reason_of(error))
        return
    send("ready")
    threading.Thread(target=_receive, args=(connection, inbox), daemon=True).start()
    try:
        told = partial(_tell, send, sealing)
        work_through(_asked(send, inbox, sealing), load, told, prefetch=prefetch)
    finally:
        # The loader may wait for a study that will not come.
        inbox.put(NO_MORE)


def _end(_number: int, _frame: object) -> NoReturn:
    """Ends this process in order: what is embedded is written first."""
    sys.exit(1)


def _tell(send: Send, sealing: Envelope, event: StudyStage | StudyResult) -> None:
    send("told", sealing.close(event))


def _asked(send: Send, inbox: queue.SimpleQueue[bytes], sealing: Envelope) -> Iterator[Group]:
    """Studies as they are asked for, a group at a time, until there is none."""
    while True:
        send("next")
        data = inbox.get()
        if data == NO_MORE:
            return
        group: Group = sealing.open(data)
        yield group


def _receive(connection: Connection, inbox: queue.SimpleQueue[bytes]) -> None:
    """Takes what the first process sends; when that is gone, this one ends too."""
    while True:
        try:
            data = connection.recv_bytes()
        except (EOFError, OSError):
            os.kill(os.getpid(), signal.SIGTERM)
            return
        inbox.put(data)
        if data == NO_MORE:
            return
