"""A dry run over studies that are all done: it opens no image, and takes one listing a view and one read of a commit an entry.

The store is simulated: commits that name the fingerprints of small files which are no images at all, so that whoever read one
would fail. `make bench ARGS=tests/benchmarks/test_dry_run.py` does it for 10,000 studies and prints seconds and memory.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from extractor.config import ExtractConfig, views_of
from extractor.loading import load_networks
from extractor.plan import make_plan, sources_of
from extractor.table import StudyRow, read_study_table
from store_schema import EntryKey, Store, create_store, open_store
from store_schema.commits import commit_path
from store_schema.records import CommitRecord
from store_schema.testing import digest_of

CONFIG = ExtractConfig(model="mini", weights="random:0", pet_units="suv", layouts=("paper",))
WATCHED = """
import atexit, json, pathlib, re, sys, time
images, told = sys.argv.pop(1), pathlib.Path(sys.argv.pop(1))
opened, began_s = [], time.perf_counter()

def watch(event, given):
    if event == "open" and str(given[0]).startswith(images):
        opened.append(str(given[0]))

def tell():
    peak_kb = int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
    did = {"opened": len(opened), "seconds": time.perf_counter() - began_s, "peak_mb": peak_kb / 1024}
    # That the watch sees anything is shown by one image opened here.
    next(pathlib.Path(images).iterdir()).open().close()
    told.write_text(json.dumps(did | {"seen": len(opened) - did["opened"]}))

sys.addaudithook(watch)
atexit.register(tell)
from extractor.cli import main
sys.argv[0] = "extractor"
main()
"""
"""The command line, with a count of the images that its process opened."""


class Done:
    """A cohort of which every entry is committed."""

    def __init__(self, folder: Path, studies: int) -> None:
        self.images, self.table, self.url = folder / "images", folder / "studies.csv", str(folder / "store")
        self.images.mkdir()
        names = [[f"{i}-{role}.nii.gz" for role in ("ct", "pet", "tumour")] for i in range(studies)]
        for name in (name for row in names for name in row):
            (self.images / name).write_bytes(b"no image")
        lines = [f"P{i:05d},{','.join(f'images/{name}' for name in row)}" for i, row in enumerate(names)]
        self.table.write_text("\n".join(["patient,ct,pet,tumour", *lines]) + "\n")
        self.rows = read_study_table(self.table, CONFIG)
        self.store = create_store(self.url)
        _, facts, _ = load_networks(CONFIG, self.url, device="cpu", looked_at_on="cpu")
        self.views = {"paper": self.store.put_view(views_of(CONFIG, facts)["paper"])}
        for row in self.rows:
            for modality in CONFIG.modalities:
                self._commit(row, EntryKey(row.patient, modality, "tumour"))

    def _commit(self, row: StudyRow, key: EntryKey) -> None:
        record = CommitRecord(
            view=self.views["paper"], patient=key.patient, modality=key.modality, roi=key.roi, number=0, attempt="0" * 32,
            input_sha256=digest_of("input"), content_sha256=digest_of("content"), arrays={}, attributes={}, objects={},
            sources=sources_of(row, key.modality, key.roi), written_at="2026-01-01T00:00:00+00:00",
        )  # fmt: skip
        place = Path(self.url, commit_path(self.views["paper"], key, 0))
        place.parent.mkdir(parents=True, exist_ok=True)
        # Without a sync: the time of the disk is not what is measured.
        place.write_bytes(record.to_bytes())


def dry_run(done: Done, folder: Path) -> tuple[int, str, dict[str, float]]:
    """Exit status, what was printed, and what the process did."""
    (folder / "settings.yaml").write_text("model: mini\nweights: random:0\npet_units: suv\nlayouts: [paper]\n")
    options = ["run", done.table, "--store", done.url, "--config", folder / "settings.yaml", "--dry-run"]
    command = [sys.executable, "-c", WATCHED, done.images, folder / "told.json", *options]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert "Traceback" not in ran.stderr
    return ran.returncode, ran.stdout, json.loads((folder / "told.json").read_text())


def check_all_done(done: Done, folder: Path) -> dict[str, float]:
    status, printed, did = dry_run(done, folder)
    studies = len(done.rows)
    assert status == 0
    assert re.search(rf"done\s*│\s*{2 * studies}\s*│\s*{studies}\s*│\s*committed from these very files", printed)
    assert not re.search(r"│ (new|changed|refused|stale)", printed)
    assert (did["opened"], did["seen"]) == (0, 1)
    return did


@pytest.fixture(scope="module")
def some(tmp_path_factory) -> Done:
    return Done(tmp_path_factory.mktemp("done"), 500)


def test_a_dry_run_over_studies_that_are_done_opens_no_image(some, tmp_path):
    check_all_done(some, tmp_path)


class Counting:
    """A location that counts what is asked of another one."""

    def __init__(self, other: object) -> None:
        self._other, self.asked = other, {}

    def __getattr__(self, name: str) -> object:
        found = getattr(self._other, name)
        if not callable(found):
            return found

        def counted(*args: object, **options: object) -> object:
            self.asked[name] = self.asked.get(name, 0) + 1
            return found(*args, **options)

        return counted


def test_a_plan_of_done_studies_asks_once_for_each_entry_and_lists_once_a_view(some):
    store = open_store(some.url)
    counting = Counting(store.location)
    plan = make_plan(some.rows, views=some.views, store=Store(counting, store.record), config=CONFIG)
    assert {item.state for item in plan} == {"done"}
    print(counting.asked)
    assert counting.asked["get"] <= 2 * len(some.rows) + 2
    assert sum(counting.asked.values()) <= 2 * len(some.rows) + 10


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_a_dry_run_over_ten_thousand_studies(tmp_path_factory, tmp_path):
    did = check_all_done(Done(tmp_path_factory.mktemp("done"), 10_000), tmp_path)
    print(
        f"\n10,000 studies, 20,000 entries done: {did['seconds']:.1f} s, peak {did['peak_mb']:.0f} MB, no image opened"
    )
