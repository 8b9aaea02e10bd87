"""A writer in a process of its own, to be raced or killed: publishes entries and says what became of each.

python writer.py loop URL VIEW PREFIX          publishes PREFIX000000, PREFIX000001, … until it is killed
python writer.py race URL VIEW INPUT SEED GO   waits for the file GO, then publishes all keys in an order of its own
"""

import json
import random
import sys
import time
from itertools import count
from pathlib import Path

from store_schema import EntryKey, open_store
from store_schema.testing import digest_of, example_entry

RACE_KEYS = [EntryKey(f"P{i:02d}", "PET", "spine") for i in range(12)]


def say(**values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def loop(url: str, view: str, prefix: str) -> None:
    store = open_store(url)
    say(ready=True)
    for i in count():
        key = EntryKey(f"{prefix}{i:06d}", "PET", "spine")
        store.publish(view, key, example_entry(i), input_sha256=digest_of(str(i)))
        say(key=str(key), seed=i)


def race(url: str, view: str, text: str, seed: str, go: str) -> None:
    store = open_store(url)
    keys = RACE_KEYS.copy()
    random.Random(int(seed)).shuffle(keys)
    say(ready=True)
    while not Path(go).exists():
        time.sleep(0.001)
    for key in keys:
        publication = store.publish(view, key, example_entry(int(text)), input_sha256=digest_of(text))
        say(key=str(key), outcome=publication.outcome, number=publication.commit.number)


if __name__ == "__main__":
    {"loop": loop, "race": race}[sys.argv[1]](*sys.argv[2:])
