"""The extractor on a cluster with certificates, started as an operator does; who has none is refused, and so is other code."""

from contextlib import ExitStack
from types import SimpleNamespace

import certificates
import dask_cluster
import pytest
from distributed import Client
from rich.console import Console

from extractor import dispatch
from extractor.cluster import Cluster, connected
from extractor.config import ExtractConfig, views_of
from extractor.dispatch import run_on_cluster
from extractor.loading import load_networks
from extractor.phantom import write_cohort
from extractor.run import RunOptions, run
from extractor.table import read_study_table
from extractor.versions import versions
from extractor.work import StudyTask
from extractor.worker import StudyResult, StudyStage
from store_schema import create_store, open_store
from store_schema.errors import UsageError
from store_schema.testing import content_digests
from store_schema.tls import TlsFiles

SETTINGS = "{model: mini, weights: 'random:0', pet_units: suv, stride: 24, derive: [spine_dilated], layouts: [paper]}"
CONFIG = ExtractConfig(
    model="mini", weights="random:0", pet_units="suv", stride=24, derive=("spine_dilated",), layouts=("paper",)
)


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, n=3, seed=1, processes=0)
    (folder / "extract.yaml").write_text(SETTINGS)
    return folder / "studies.csv"


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return certificates.Authority.make(tmp_path_factory.mktemp("ca"), "Ward 7")


@pytest.fixture(scope="module")
def cluster(ca, tmp_path_factory):
    """A scheduler and one worker of `extractor worker`, each with a certificate of its own."""
    folder = tmp_path_factory.mktemp("cluster")
    with ExitStack() as stack:
        address = stack.enter_context(dask_cluster.scheduler(folder, ca.files("scheduler")))
        command = [dask_cluster.ours("extractor"), "worker", address, *dask_cluster.options(ca.files("worker"))]
        log = folder / "worker.log"
        stack.enter_context(dask_cluster.running(log, [*command, "--name", "ours", "--", "--nworkers", "1"]))
        yield SimpleNamespace(address=address, log=log)


def test_an_extraction_over_tls_makes_the_store_of_one_process(cluster, ca, studies, tmp_path):
    files = dict(zip(("ENGRAM_TLS_CA", "ENGRAM_TLS_CERT", "ENGRAM_TLS_KEY"), ca.files("client"), strict=True))
    arguments = [
        "run",
        str(studies),
        "--config",
        str(studies.with_name("extract.yaml")),
        "--store",
        str(tmp_path / "a"),
    ]
    done = dask_cluster.call("extractor", *arguments, "--scheduler", cluster.address, **files)
    assert done.returncode == 0, (done.stderr, cluster.log.read_text())
    assert not run(CONFIG, RunOptions(studies, str(tmp_path / "b"), jobs=0), console=Console(quiet=True)).failed
    digests = content_digests(open_store(tmp_path / "a"))
    assert digests == content_digests(open_store(tmp_path / "b"))
    assert len(digests) == 2 * 3


@pytest.mark.parametrize("scheme", ["tls", "tcp"])
def test_a_client_without_a_certificate_and_a_plain_one_are_refused_before_anything_is_extracted(
    cluster, studies, tmp_path, scheme
):
    address = cluster.address.replace("tls", scheme)
    said = {"tls": "no certificate was given: add --tls-ca", "tcp": "speaks TLS: call it tls://"}[scheme]
    options = RunOptions(studies, str(tmp_path / "store"), scheduler=address)
    with pytest.raises(UsageError, match=said):
        run(CONFIG, options, console=Console(quiet=True))
    assert not list(tmp_path.glob("store/commits/**/*.json"))


def test_a_client_of_another_ca_is_told_whose_certificate_it_met(cluster, tmp_path):
    other = TlsFiles(*certificates.Authority.make(tmp_path, "Ward 8").files("client"))
    with (
        pytest.raises(UsageError, match=r"is signed by “Ward 7”, and --tls-ca .* holds “Ward 8”"),
        connected(Cluster(cluster.address, tls=other)),
    ):
        pass


def test_a_worker_of_an_edited_source_tree_that_joins_a_run_is_given_nothing_and_refused_by_the_next(
    studies, tmp_path, monkeypatch
):
    """The same version, and one comment more."""
    said = []
    monkeypatch.setattr(dispatch.log, "warning", lambda text, *about: said.append(text % about))
    store = create_store(tmp_path / "store")
    spec, facts, _ = load_networks(CONFIG, store.url, device="cpu", looked_at_on="cpu")
    views = {layout: store.put_view(view) for layout, view in views_of(CONFIG, facts).items()}
    tasks = [StudyTask(row, CONFIG, views) for row in read_study_table(studies, CONFIG)]
    tree = dask_cluster.edited(tmp_path / "tree", "store_schema", "extractor")
    events: list[StudyStage | StudyResult] = []
    program = dask_cluster.ours("extractor")
    with ExitStack() as stack:
        address = stack.enter_context(dask_cluster.scheduler(tmp_path))
        ours = [program, "worker", address, "--name", "ours", "--", "--nworkers", "1"]
        stack.enter_context(dask_cluster.running(tmp_path / "ours.log", ours))

        def tell(event: StudyStage | StudyResult) -> None:
            if not events:
                other = [program, "worker", address, "--name", "edited", "--", "--nworkers", "1"]
                stack.enter_context(dask_cluster.running(tmp_path / "edited.log", other, PYTHONPATH=tree))
                with Client(address, set_as_default=False) as client:
                    client.wait_for_workers(2, timeout=dask_cluster.PATIENCE_S)
            events.append(event)

        here = Cluster(address, wait_s=dask_cluster.PATIENCE_S)
        run_on_cluster(tasks, spec, here, tell=tell)
        with pytest.raises(
            UsageError, match=rf"worker tcp://\S+ runs code \S+ \(the client {versions()['code'][:12]}\)"
        ):
            run_on_cluster(tasks, spec, here, tell=tell)
    assert [event.error for event in events if isinstance(event, StudyResult)] == [None] * 3
    assert {event.where for event in events if isinstance(event, StudyStage)} == {"ours"}
    assert any("is given no study: it runs code" in words for words in said)
