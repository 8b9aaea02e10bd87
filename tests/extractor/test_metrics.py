"""Figures of a run: what they count, how Prometheus and a textfile collector read them, and that they name no patient."""

import json
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from extractor.config import ExtractConfig
from extractor.metric_outlets import filed, served
from extractor.metrics import RunMetrics
from extractor.outcome import ItemOutcome
from extractor.phantom import write_cohort
from extractor.spent import Spent
from extractor.study import StudyFiles
from extractor.table import StudyRow
from extractor.work import StudyTask
from extractor.worker import DIED, StudyResult, StudyStage
from store_schema.errors import UsageError

SETTINGS = "model: mini\nweights: random:0\npet_units: suv\nstride: 16\nderive: [spine_dilated]\nlayouts: [paper]\n"
EXTRACTOR = str(Path(sys.executable).parent / "extractor")


def parsed(text: str) -> dict[str, float]:
    """Value of each series by its name, and the values of its labels."""
    return {
        " ".join([one.name.removeprefix("engram_extractor_"), *one.labels.values()]): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if not one.name.endswith("_created")
    }


def scraped(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        return parsed(answer.read().decode())


def task(patient: str) -> StudyTask:
    return StudyTask(StudyRow(2, patient, StudyFiles(patient, "ct.nii", None, {}), {}), ExtractConfig(), {})


def outcome(patient: str, result: str, modality: str = "PET") -> ItemOutcome:
    return ItemOutcome(patient, modality, "spine", "paper", result, "why")


class Run:
    """Figures of a run whose events a test makes up."""

    def __init__(self, tmp_path: Path) -> None:
        self.now_s, self.path = 100.0, tmp_path / "m.prom"
        self.metrics = RunMetrics("1.2.3", clock=lambda: self.now_s)

    def end(self, patient: str, *results: str, spent: Spent | None = None, error: str | None = None) -> None:
        outcomes = [outcome(patient, result) for result in results]
        self.metrics.result(StudyResult(task(patient), (), error, spent or Spent()), outcomes)

    def __getitem__(self, name: str) -> float:
        with filed(self.metrics.registry, self.path):
            pass
        return parsed(self.path.read_text())[name]


@pytest.fixture
def told(tmp_path) -> Run:
    return Run(tmp_path)


def test_studies_are_counted_by_what_became_of_all_their_items(told):
    aside = [
        outcome("held", "done"),
        outcome("refused", "failed"),
        outcome("gone", "withdrawn"),
        outcome("half", "withdrawn"),
        outcome("mixed", "failed"),
    ]
    told.metrics.planned({"paper": "mini-1"}, aside, {"mixed", "half", "bad", "same"})
    assert told["studies_remaining"] == 4
    told.end("mixed", "committed")
    told.end("half", "committed", "done")
    told.end("bad", "failed", "failed", error=DIED)
    told.end("same", "superseded")
    assert told["studies_remaining"] == 0
    found = {name: told[f"studies_total {name}"] for name in ("committed", "held", "failed", "withdrawn")}
    assert found == {"committed": 1, "held": 2, "failed": 3, "withdrawn": 1}
    assert told["entries_total PET committed"] == 2
    assert told["entries_total PET failed"] == 4
    assert told["info 1.2.3"] == told["view_info paper mini-1"] == 1


def test_what_runs_one_after_another_made_is_counted_together(told):
    for view in ("padding-2", "padding-5"):
        told.metrics.planned({"paper": view}, [outcome("a", "done")], {"b"})
        told.end("b", "committed")
    assert told["studies_total held"] == told["studies_total committed"] == 2
    assert told["view_info paper padding-2"] == told["view_info paper padding-5"] == 1


def test_seconds_slices_and_memory_are_those_that_workers_measured(told):
    told.metrics.planned({}, [], {"a", "b"})
    told.end("a", "committed", spent=Spent(1.5, 4.0, 0.5, slices=40, gpu_peak_bytes=7_000))
    told.end("b", "committed", spent=Spent(0.5, 2.0, 0.5, slices=20, gpu_peak_bytes=5_000))
    assert told["stage_seconds_sum load"] == 2
    assert told["stage_seconds_sum embed"] == 6
    assert told["stage_seconds_count write"] == 2
    assert told["slices_encoded_total"] == 60
    assert told["gpu_peak_memory_bytes"] == 7_000


def test_without_a_gpu_there_is_no_figure_of_its_memory(told):
    told.metrics.planned({}, [], {"a"})
    told.end("a", "committed", spent=Spent(1, 1, 1))
    with pytest.raises(KeyError):
        told["gpu_peak_memory_bytes"]


def test_studies_in_hand_and_those_that_wait_again_are_told_with_the_time_of_the_last_progress(told):
    told.metrics.planned({}, [], {"a", "b"})
    told.metrics.stage(StudyStage(task("a"), "loading"))
    told.now_s = 160.0
    told.metrics.stage(StudyStage(task("b"), "loading"))
    told.metrics.stage(StudyStage(task("a"), "embedding", "cuda:1"))
    assert (told["studies_working load"], told["studies_working embed"]) == (1, 1)
    assert (told["started_timestamp_seconds"], told["last_progress_timestamp_seconds"]) == (100, 160)
    told.metrics.stage(StudyStage(task("b"), None))
    assert (told["studies_working load"], told["studies_requeued_total"]) == (0, 1)
    assert told["ended_timestamp_seconds"] == 0
    told.metrics.ended()
    assert (told["studies_working embed"], told["ended_timestamp_seconds"]) == (0, 160)


def test_a_port_that_is_taken_is_refused():
    registry = RunMetrics("1").registry
    with served(registry, "127.0.0.1", 0) as port:
        assert scraped(port)["info 1"] == 1
        with (
            pytest.raises(UsageError, match=f"--metrics-port {port}: nothing can listen on 127.0.0.1"),
            served(registry, "127.0.0.1", port),
        ):
            pass
    with pytest.raises(OSError, match="refused"):
        scraped(port)


def test_a_file_that_cannot_be_written_is_refused_and_one_that_cannot_be_later_on_is_a_warning(tmp_path, caplog):
    registry, folder = RunMetrics("1").registry, tmp_path / "folder"
    with pytest.raises(UsageError, match="its folder must be there"), filed(registry, folder / "m.prom"):
        pass
    folder.mkdir()
    with filed(registry, folder / "m.prom"):
        (folder / "m.prom").unlink()
        folder.rmdir()
    assert "the metrics file could not be written" in caplog.text


def test_who_reads_the_file_finds_a_whole_state_at_any_time_and_may_read_it(told):
    registry, path = told.metrics.registry, told.path
    whole, reads = True, 0
    with filed(registry, path, every_s=0.001):
        inode, inodes, until = path.stat().st_ino, set(), time.monotonic() + 1.0
        while time.monotonic() < until:
            text = path.read_text()
            whole &= text.endswith("\n") and parsed(text)["studies_remaining"] >= 0
            inodes.add(path.stat().st_ino)
            reads += 1
    assert whole
    assert reads > 10
    assert len(inodes | {inode}) > 1, "it is another file each time"
    assert list(path.parent.iterdir()) == [path], "nothing is left beside it"
    assert path.stat().st_mode & 0o444 == 0o444 & ~_umask(), "the collector is another user"


def _umask() -> int:
    import os  # noqa: PLC0415 - asking for it sets it

    found = os.umask(0)
    os.umask(found)
    return found


def test_the_file_is_not_written_more_often_than_told(told):
    with filed(told.metrics.registry, told.path, every_s=60.0):
        before = told.path.stat().st_mtime_ns
        told.metrics.planned({"paper": "v"}, [], {"a"})
        time.sleep(0.1)
        assert told.path.stat().st_mtime_ns == before
    assert parsed(told.path.read_text())["studies_remaining"] == 1, "the last state is kept"


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> dict:
    """A run of three studies, one of which fails, as Prometheus and a log collector saw it."""
    folder = tmp_path_factory.mktemp("run")
    write_cohort(folder, n=3, seed=1, processes=0)
    (folder / "small.yaml").write_text(SETTINGS)
    bad = next(folder.glob("**/*P002_ct*.nii.gz"))
    bad.write_bytes(bad.read_bytes()[:1000])
    arguments = ["run", "studies.csv", "--store", "store", "--config", "small.yaml", "--jobs", "1", "--no-pack"]
    told = ["--metrics-port", "0", "--metrics-file", "m.prom", "--log-format", "json"]
    seen: dict = {"scrapes": [], "lines": []}
    with subprocess.Popen(
        [EXTRACTOR, *arguments, *told], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        reader = threading.Thread(target=lambda: seen.update(stdout=process.stdout.read()))
        reader.start()
        for line in process.stderr:
            seen["lines"].append(line)
            event = json.loads(line)
            if event["event"] == "metrics":
                port = event["port"]
            if event["event"] in {"study", "study_stage"}:
                seen["scrapes"].append(scraped(port))
        reader.join()
    return seen | {"status": process.returncode, "file": (folder / "m.prom").read_text(), "folder": folder}


def test_a_run_is_scraped_while_it_works(running):
    remaining = [scrape["studies_remaining"] for scrape in running["scrapes"]]
    assert {1, 2} & set(remaining), "in the middle"
    assert remaining == sorted(remaining, reverse=True)
    middle = next(scrape for scrape in running["scrapes"] if scrape["studies_remaining"] in {1, 2})
    assert middle["ended_timestamp_seconds"] == 0
    assert middle["started_timestamp_seconds"] <= middle["last_progress_timestamp_seconds"]
    assert sum(middle[f"studies_total {name}"] for name in ("committed", "failed")) in {1, 2}


def test_at_its_end_a_run_leaves_its_figures_in_the_file(running):
    assert running["status"] == 1
    found = parsed(running["file"])
    assert found["studies_total committed"] == 2
    assert found["studies_total failed"] == 1
    assert found["entries_total PET committed"] == found["entries_total CT committed"] == 2
    assert found["studies_remaining"] == 0
    assert found["slices_encoded_total"] > 0
    assert found["stage_seconds_count embed"] >= 2
    assert found["stage_seconds_sum load"] > 0
    assert found["ended_timestamp_seconds"] > found["started_timestamp_seconds"]
    assert [name for name in found if name.startswith("view_info paper mini-untrained-")]
    assert "_created" not in running["file"]


def test_a_run_tells_nothing_but_json_lines_and_names_no_patient_by_them(running):
    events = [json.loads(line) for line in running["lines"]]
    named = {event["event"] for event in events}
    assert named >= {"started", "metrics", "encoder", "plan", "study_stage", "study", "failure", "summary", "ended"}
    (failure,) = [event for event in events if event["event"] == "failure"]
    assert (failure["line"], failure["items"], failure["level"]) == (3, 2, "error")
    assert failure["message"].startswith("ImageError")
    assert events[-1]["exit_status"] == 1
    for said in ("".join(running["lines"]), running["file"], running["stdout"]):
        assert "P00" not in said
        assert str(running["folder"]) not in said
    assert "line 3" in running["stdout"], "results name the line of the table beside JSON lines"
