"""Several processes on one folder, one of them killed: every input is committed once, and what is visible is whole."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from store_schema import Store
from store_schema.testing import digest_of, example_view

WRITER = """
import json, sys
from store_schema import EntryKey, open_store
from store_schema.testing import digest_of, example_entry
store = open_store(sys.argv[1])
outcomes = []
for i in range(int(sys.argv[3])):
    key = EntryKey(f"p{i % 4}", "CT", "skeleton")
    result = store.publish(sys.argv[2], key, example_entry(i), input_sha256=digest_of(f"input {i}"))
    print(json.dumps([i, result.outcome]), flush=True)
"""
INPUTS = 12


def _writer(store: Store, view: str, inputs: int = INPUTS) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, store.url, view, str(inputs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_on_overlapping_keys_commit_every_input_once(store: Store) -> None:
    view = store.put_view(example_view())
    writers = [_writer(store, view) for _ in range(3)]
    killed = _writer(store, view, 10_000)
    deadline = time.monotonic() + 60
    while not list(Path(store.url, "commits").rglob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    outputs = [writer.communicate(timeout=120)[0] for writer in writers]
    seen_by_killed = killed.communicate(timeout=10)[0]
    outcomes = [json.loads(line) for output in outputs for line in output.splitlines()]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert len(outcomes) == 3 * INPUTS
    committed = {commit.input_sha256: commit.attempt for key in store.keys(view) for commit in store.history(view, key)}
    report = store.verify()
    assert report.ok
    assert len(committed) == report.commits >= INPUTS
    assert {digest_of(f"input {i}") for i in range(INPUTS)} <= set(committed)
    acknowledged = [i for i, outcome in outcomes if outcome == "committed"]
    acknowledged += [json.loads(line)[0] for line in seen_by_killed.splitlines() if '"committed"' in line]
    assert len(acknowledged) == len(set(acknowledged))
    assert {digest_of(f"input {i}") for i in acknowledged} <= set(committed)
