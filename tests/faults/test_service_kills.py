"""The service killed under load, and its database restarted under it: nothing acknowledged is lost, and the catalogue agrees."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest

from store_schema import EntryKey, create_store, open_store
from store_schema.errors import BackendError
from store_schema.testing import digest_of, example_entry, example_view

FEW, MANY = 3, int(os.environ.get("ENGRAM_SERVICE_KILLS", "50"))
WRITERS = 2
READY_S = 90
FEATURE_STORE = Path(sys.executable).with_name("feature-store")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """`feature-store serve` as a process of its own, on a port that stays."""

    def __init__(self, folder, environment):
        self.port, self.folder = free_port(), folder
        self.environment = os.environ | environment | {"ENGRAM_SERVICE_DATA": str(folder / "data")}
        self.process = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [str(FEATURE_STORE), "serve", "--port", str(self.port), "--reconcile-s", "1"]
        log = (self.folder / "log").open("a")
        self.process = subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL, stderr=log)
        log.close()
        self.wait(200)

    def admin(self, *words):
        done = subprocess.run(
            [str(FEATURE_STORE), "admin", *words], env=self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    def ready(self):
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return answer.status
        except URLError as error:
            return getattr(error, "code", 0)
        except OSError:
            return 0

    def wait(self, status):
        until = time.monotonic() + READY_S
        while self.ready() != status:
            assert time.monotonic() < until, (self.folder / "log").read_text()[-2000:]
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.1)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0

    def entries(self, key):
        """Every entry that the catalogue names, by page."""
        found, cursor = {}, ""
        while cursor is not None:
            path = f"{self.url}/v1/projects/default/entries?limit=1000" + (f"&cursor={cursor}" if cursor else "")
            request = urllib.request.Request(path, headers={"Authorization": f"Bearer {key}"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                page = json.load(answer)
            found |= {
                f"{one['patient']}/{one['modality']}/{one['roi']}": one["content_sha256"] for one in page["items"]
            }
            cursor = page["next"]
        return found


class Load:
    """Writers that publish through the service, one new entry after the other, each until it is acknowledged."""

    def __init__(self, server, view):
        self._server, self._view = server, view
        self.told, self.failures = {}, []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()

    def _write(self, number):
        store, count = None, 0
        while not self._stop.is_set():
            key, seed = EntryKey(f"W{number}-{count}", "CT", "spine"), count % 40
            try:
                store = store or open_store(f"{self._server.url}/v1/projects/default")
                done = store.publish(self._view, key, example_entry(seed), input_sha256=digest_of(str(key)))
            except BackendError as error:
                # The service is away: the same entry once more, as a run that is started again does.
                self.failures.append(str(error))
                continue
            self.told[key] = (seed, done.commit.content_sha256)
            count += 1

    def wait_for(self, more):
        """Until so many more entries were acknowledged."""
        enough, until = len(self.told) + more, time.monotonic() + READY_S
        while len(self.told) < enough:
            assert time.monotonic() < until, self.failures[-3:]
            time.sleep(0.02)


def prepare(tmp_path, monkeypatch, environment):
    server = Server(tmp_path, environment)
    store = create_store(tmp_path / "data" / "stores" / "default")
    view = store.put_view(example_view())
    server.admin("migrate")
    server.admin("projects", "create", "default")
    out = server.admin("keys", "create", "default", "--label", "load", "--scope", "write")
    key = re.search(r"engram_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", out)[0]
    monkeypatch.setenv("ENGRAM_API_KEY", key)
    server.start()
    return server, store, view, key


def check(server, store, view, key, told):
    """What was acknowledged is there and whole; the catalogue names exactly what the store holds."""
    for entry, (seed, digest) in told.items():
        read = store.read(view, entry)
        assert read.commit.content_sha256 == digest
        assert all((read.arrays[name] == values).all() for name, values in example_entry(seed).arrays.items())
    report = store.verify()
    assert report.findings == ()
    held = {str(entry): store.current(view, entry).content_sha256 for entry in store.keys(view)}
    until = time.monotonic() + READY_S
    while (found := server.entries(key)) != held:
        assert time.monotonic() < until, set(found) ^ set(held)
        time.sleep(0.5)
    assert {str(entry) for entry in told} <= set(held)


def kill_server(tmp_path, monkeypatch, times):
    server, store, view, key = prepare(tmp_path, monkeypatch, {})
    moments = random.Random(7)
    with Load(server, view) as load:
        for _ in range(times):
            load.wait_for(5)
            time.sleep(moments.uniform(0, 0.3))
            server.kill()
            server.start()
        load.wait_for(5)
    check(server, store, view, key, load.told)
    server.stop()
    return load


@pytest.mark.timeout(900)
def test_a_service_killed_under_load_loses_nothing_acknowledged(tmp_path, monkeypatch):
    load = kill_server(tmp_path, monkeypatch, FEW)
    assert len(load.told) >= 5 * (FEW + 1)


@pytest.mark.soak
def test_a_service_killed_many_times_loses_nothing_acknowledged(tmp_path, monkeypatch):
    load = kill_server(tmp_path, monkeypatch, MANY)
    print(
        f"{MANY} kills of the service under {WRITERS} writers: {len(load.told)} entries acknowledged, none lost; verify clean"
    )


def restart_database(tmp_path, monkeypatch, postgres_server, times):
    # The server's own user must get there, which tmp_path does not allow.
    folder = Path(tempfile.mkdtemp(prefix="engram-postgres-"))
    folder.chmod(0o755)
    folder /= "server"
    database = postgres_server.start(folder)
    try:
        name = "engram_faults"
        environment = {"ENGRAM_SERVICE_DATABASE_URL": database.make_database(name)}
        server, store, view, key = prepare(tmp_path, monkeypatch, environment)
        pid = server.process.pid
        with Load(server, view) as load:
            for turn in range(times):
                load.wait_for(5)
                (postgres_server.kill if turn % 2 == 0 else postgres_server.stop)(folder)
                server.wait(503)
                time.sleep(0.5)
                postgres_server.restart(folder)
                server.wait(200)
            load.wait_for(5)
        assert server.process.poll() is None
        assert server.process.pid == pid  # nobody restarted the service
        check(server, store, view, key, load.told)
        server.stop()
        return load
    finally:
        postgres_server.kill(folder)
        shutil.rmtree(folder.parent)


@pytest.mark.timeout(900)
def test_a_database_restarted_under_load_is_waited_for(tmp_path, monkeypatch, postgres_server):
    load = restart_database(tmp_path, monkeypatch, postgres_server, 2)
    assert len(load.told) >= 15


@pytest.mark.soak
def test_a_database_restarted_many_times_is_waited_for(tmp_path, monkeypatch, postgres_server):
    times = MANY // 5
    load = restart_database(tmp_path, monkeypatch, postgres_server, times)
    print(
        f"{times} ends of PostgreSQL under {WRITERS} writers: {len(load.told)} entries acknowledged, none lost; verify clean"
    )
