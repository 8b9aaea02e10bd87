"""Publishing a run: the same records when done twice or cut off, nothing where it is refused, and the commands that do it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from store_schema.errors import AlreadyExistsError, BackendError, InvalidKeyError, NotCommittedError, UsageError
from store_schema.records import sha256
from store_schema.testing import BlindLocation, FailingLocation, HookedLocation
from trainer.cli import main
from trainer.publishing import publish_run, run_id_of
from trainer.report.reading import read_run
from trainer.run_folder import RunFolder

from . import publishing_help
from .publishing_help import records_in, summary_in

copied, store = publishing_help.copied, publishing_help.store

# Publishing twice


def test_publishing_twice_is_the_same_record(named_run, store):
    first = publish_run(str(named_run.run), store, clock=lambda: "2031-01-01T00:00:00Z")
    before = records_in(store, first.run_id)
    second = publish_run(str(named_run.run), store, clock=lambda: "2032-01-01T00:00:00Z")
    assert (first.before, second.before, second.run_id) == (False, True, first.run_id)
    assert records_in(store, first.run_id) == before
    assert store.run_ids() == [first.run_id]


def test_the_id_is_the_runs_own_wherever_its_folder_lies(named_run, copied):
    here, there = (RunFolder.open(str(place)) for place in (named_run.run, copied))
    assert run_id_of(read_run(here), here) == run_id_of(read_run(there), there)
    assert re.fullmatch(r"search-[0-9a-f]{16}", run_id_of(read_run(here), here))
    record = (copied / "run.json").read_text()
    (copied / "run.json").write_text(record.replace('"started_at": "20', '"started_at": "21'))
    assert run_id_of(read_run(here), here) != run_id_of(read_run(there), there)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("writes", [3, -1])
def test_a_publishing_that_was_cut_off_is_invisible_and_done_by_the_next(named_run, published_run, store, writes, when):
    writes = len(published_run.records) - 1 if writes < 0 else writes
    failing = FailingLocation(store.location, writes=writes, when=when)
    try:
        publish_run(str(named_run.run), replace(store, location=failing), clock=lambda: "2031-01-01T00:00:00Z")
    except BackendError:
        assert "trainer.json" not in store.run_names(published_run.made.run_id)
    made = publish_run(str(named_run.run), store, clock=lambda: "2032-01-01T00:00:00Z")
    assert made.run_id == published_run.made.run_id
    assert records_in(store, made.run_id).keys() == published_run.records.keys()


def test_a_rival_who_publishes_the_same_run_meanwhile_does_no_harm(named_run, store):
    def rival(path: str, _: bytes) -> None:
        if path.endswith("trainer.json"):
            assert not publish_run(str(named_run.run), store, clock=lambda: "2031-01-01T00:00:00Z").before

    made = publish_run(str(named_run.run), replace(store, location=HookedLocation(store.location, rival)))
    assert made.before
    summary = summary_in(store, made.run_id)
    assert summary.published_at == "2031-01-01T00:00:00Z"


def test_a_drawing_that_another_library_made_stays_and_is_the_one_that_is_digested(named_run, published_run, store):
    run_id = published_run.made.run_id
    store.put_run(run_id, "report.html", b"<p>drawn otherwise</p>")
    publish_run(str(named_run.run), store)
    summary = summary_in(store, run_id)
    assert summary.records["report.html"].sha256 == sha256(b"<p>drawn otherwise</p>")


def test_another_run_under_the_same_id_is_refused(named_run, copied, store, change_results):
    publish_run(str(named_run.run), store, run_id="mine")
    change_results(copied, notes=["another run"])
    before = records_in(store, "mine")
    with pytest.raises(AlreadyExistsError, match="another run of the id mine"):
        publish_run(str(copied), store, run_id="mine")
    assert records_in(store, "mine") == before


def test_a_store_that_cannot_list_is_published_into_as_well(named_run, store):
    made = publish_run(str(named_run.run), replace(store, location=BlindLocation(store.location)))
    assert not made.before
    assert publish_run(str(named_run.run), replace(store, location=BlindLocation(store.location))).before


# What is refused


def test_incomplete_and_unfinished_runs_are_refused(copied, store, tmp_path, change_results):
    failure = {"task_id": "", "label": "cox, fold 0", "reason": "KOWALSKA-003 failed"}
    change_results(copied, complete=False, failures=[failure])
    with pytest.raises(UsageError, match="incomplete"):
        publish_run(str(copied), store)
    with pytest.raises(NotCommittedError, match="holds no finished run"):
        publish_run(str(tmp_path / "nothing"), store)
    assert store.run_ids() == []


@pytest.mark.parametrize("run_id", ["", "../x", "a/b", ".hidden", "a b", "x" * 65])
def test_what_cannot_name_a_run_is_refused_before_anything_is_written(named_run, store, run_id):
    with pytest.raises(InvalidKeyError):
        publish_run(str(named_run.run), store, run_id=run_id)
    assert store.run_ids() == []


# The commands


@pytest.fixture
def call(cohort_folder, write_config, kit, tmp_path):
    """Calls `trainer cv` on covariates alone, in this process."""

    def cv(*more: str, store: Path | None = None, models=None):
        config = write_config(models=models or [kit.settings["models"][0]])
        given = ["--config", str(config), "--clinical", str(cohort_folder / "clinical.csv")]
        to = [] if store is None else ["--store", str(store)]
        run = ["--out", str(tmp_path / "run"), "--workers", "0"]
        return CliRunner().invoke(main, ["cv", *given, *to, *run, *more])

    return cv


def test_a_run_is_published_by_its_own_command_and_a_rerun_finds_it_there(call, store, tmp_path):
    place = tmp_path / "published"
    first = call("--publish", store=place)
    assert first.exit_code == 0, first.output
    (run_id,) = store.run_ids()
    assert f"published {run_id} in {place}" in first.stdout
    again = call("--publish", store=place)
    assert again.exit_code == 0, again.output
    assert "(it was there before)" in again.stdout
    later = CliRunner().invoke(main, ["publish", str(tmp_path / "run"), "--store", str(place)])
    assert later.exit_code == 0, later.output
    assert later.stdout == f"published {run_id} in {place} (it was there before)\n"
    named = CliRunner().invoke(main, ["publish", str(tmp_path / "run"), "--store", str(place), "--run-id", "mine"])
    assert named.stdout == f"published mine in {place}\n"
    assert store.run_ids() == sorted([run_id, "mine"])


def test_nothing_is_published_unless_it_is_asked_for(call, store, tmp_path):
    assert call(store=tmp_path / "published").exit_code == 0
    assert store.run_ids() == []


@pytest.mark.parametrize("more", [("--publish",), ("--publish", "--latest")])
def test_publishing_without_a_store_is_refused_before_anything_runs(call, more, tmp_path):
    result = call(*more)
    assert result.exit_code == 2
    assert "--publish needs the feature store" in result.stderr
    assert not (tmp_path / "run").exists()


def test_publishing_where_there_is_no_store_is_refused_before_anything_runs(call, tmp_path):
    result = call("--publish", store=tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "StoreNotFoundError" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["search", "study"])
def test_every_command_that_fits_refuses_to_publish_without_a_store(command, write_config, cohort_folder, tmp_path):
    config = str(write_config())
    told = {"search": ["--config", config], "study": [config]}[command]
    given = ["--clinical", str(cohort_folder / "clinical.csv"), "--out", str(tmp_path / "run"), "--publish"]
    result = CliRunner().invoke(main, [command, *told, *given])
    assert result.exit_code == 2
    assert "--publish needs the feature store" in result.stderr


def test_a_plan_has_nothing_to_publish(write_config, cohort_folder, store, tmp_path):
    given = ["--clinical", str(cohort_folder / "clinical.csv"), "--out", str(tmp_path / "run")]
    to = ["--store", str(tmp_path / "published"), "--publish", "--plan"]
    result = CliRunner().invoke(main, ["study", str(write_config()), *given, *to])
    assert result.exit_code == 2
    assert "--plan keeps nothing" in result.stderr
    assert store.run_ids() == []


def test_a_publishing_that_fails_leaves_the_results_and_says_how_to_publish_them(call, store, tmp_path):
    place = tmp_path / "published"
    # where the store would make the folder of its runs
    (place / "runs").write_text("in the way")
    failed = call("--publish", store=place)
    assert failed.exit_code == 1
    assert "c, mean" in failed.stdout
    assert "not published: BackendError" in failed.stderr
    assert f"trainer publish {tmp_path / 'run'} --store {place}" in failed.stderr
    assert "Traceback" not in failed.output
    assert (tmp_path / "run" / "results.json").is_file()
    (place / "runs").unlink()
    later = CliRunner().invoke(main, ["publish", str(tmp_path / "run"), "--store", str(place)])
    assert later.exit_code == 0, later.output
    assert len(store.run_ids()) == 1


def test_an_incomplete_run_is_not_published(call, store, kit, cohort_folder, tmp_path):
    hopeless = {
        "name": "net",
        "kind": "network",
        "clinical": True,
        "fit": {"learning_rate": 1e30, "clip_norm": None, "epochs": 3, "min_epochs": 1, "min_validation_events": 2},
    }
    result = call("--publish", store=tmp_path / "published", models=[kit.settings["models"][0], hopeless])
    assert result.exit_code == 1
    assert "not published: the run is incomplete" in result.stderr
    assert store.run_ids() == []


def test_the_help_says_what_is_left_out():
    told = " ".join(CliRunner().invoke(main, ["publish", "--help"]).stdout.split())
    for said in ("Left out", "gate weights", "write scope", "nothing is published"):
        assert said in told
    assert "--publish" in CliRunner().invoke(main, ["cv", "--help"]).stdout
