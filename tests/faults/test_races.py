"""Eight processes that write the same keys at once: every input is committed exactly once, and nothing is mixed."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from store_schema import EntryKey, Store, create_store
from store_schema.testing import digest_of, example_entry, example_view

WRITER = Path(__file__).with_name("writer.py")
INPUTS = ["0", "1", "2", "3", "4", "5", "6", "6"]
"""Of each process; two have the same."""
REPEATS = int(os.environ.get("ENGRAM_RACES", "20"))


def raced(url: str, go: Path) -> tuple[Store, str, list[list[dict[str, object]]]]:
    """A store after the race, its view, and what each process said."""
    store = create_store(url)
    view = store.put_view(example_view())
    command = [sys.executable, str(WRITER), "race", url, view]
    writers = [
        subprocess.Popen([*command, text, str(i), str(go)], stdout=subprocess.PIPE, text=True)
        for i, text in enumerate(INPUTS)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert json.loads(writer.stdout.readline()) == {"ready": True}
    go.touch()
    said = [writer.communicate(timeout=300)[0].splitlines() for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * len(writers)
    return store, view, [[json.loads(line) for line in lines] for lines in said]


def check_race(url: str, go: Path) -> None:
    store, view, said = raced(url, go)
    keys = store.keys(view)
    assert len(keys) == 12
    for key in keys:
        history = store.history(view, key)
        assert [commit.number for commit in history] == list(range(len(history)))
        inputs = [commit.input_sha256 for commit in history]
        assert sorted(inputs) == sorted(map(digest_of, set(INPUTS)))
        outcomes = [next(line for line in lines if line["key"] == str(key)) for lines in said]
        assert Counter(line["outcome"] == "committed" for line in outcomes)[True] == len(set(INPUTS))
        twins = sorted(str(line["outcome"]) for line, text in zip(outcomes, INPUTS, strict=True) if text == "6")
        assert twins in [["committed", "done"], ["committed", "superseded"]]
        for commit in history:
            text = next(text for text in INPUTS if digest_of(text) == commit.input_sha256)
            read = store.read(view, key, number=commit.number).arrays
            assert all((read[name] == values).all() for name, values in example_entry(int(text)).arrays.items())
        committed = {str(line["number"]) for line in outcomes if line["outcome"] == "committed"}
        assert committed == {str(commit.number) for commit in history}
    check_back_and_forth(store, view, keys[0])
    report = store.verify()
    assert (report.ok, report.entries) == (True, 12)


def check_back_and_forth(store: Store, view: str, key: EntryKey) -> None:
    """A → B → A after the race: the first input is superseded, and comes back only on request."""
    history = store.history(view, key)
    first = history[0].input_sha256
    entry = example_entry(0)
    assert store.publish(view, key, entry, input_sha256=first).outcome == "superseded"
    assert len(store.history(view, key)) == len(history)
    again = store.publish(view, key, entry, input_sha256=first, make_current=True)
    assert (again.outcome, again.commit.number) == ("committed", len(history))


@pytest.mark.timeout(900)
def test_eight_processes_race_in_a_folder(tmp_path: Path) -> None:
    check_race(str(tmp_path / "store"), tmp_path / "go")


@pytest.mark.timeout(900)
def test_eight_processes_race_on_s3(s3_url: str, tmp_path: Path) -> None:
    check_race(s3_url, tmp_path / "go")


@pytest.mark.soak
def test_races_repeated(s3_url: str, tmp_path: Path) -> None:
    for turn in range(REPEATS):
        check_race(str(tmp_path / f"store-{turn}"), tmp_path / f"go-folder-{turn}")
        check_race(f"{s3_url}/{turn}", tmp_path / f"go-s3-{turn}")
        print(f"race {turn + 1} of {REPEATS}, folder and S3: every input once, nothing mixed", flush=True)
