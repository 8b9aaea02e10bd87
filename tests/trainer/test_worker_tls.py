"""The trainer on a cluster with certificates, started as an operator does; who has none is refused, and so is other code."""

from contextlib import ExitStack
from types import SimpleNamespace

import certificates
import dask_cluster
import pandas as pd
import pytest
from distributed import Client, Security

from store_schema.errors import UsageError
from store_schema.tls import TlsFiles
from store_schema.worker_limits import limits_here, split
from trainer import dispatch
from trainer.cluster import connected
from trainer.dispatch import Workers, run_tasks
from trainer.jobs import first_jobs
from trainer.plan import Inputs, make_plan
from trainer.run_folder import RunFolder
from trainer.run_record import keep_plan
from trainer.versions import versions
from trainer.worker_command import PROGRAM


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return certificates.Authority.make(tmp_path_factory.mktemp("ca"), "Ward 7")


@pytest.fixture(scope="module")
def cluster(ca, tmp_path_factory):
    """A scheduler and the workers of `trainer worker`, each with a certificate of its own."""
    folder = tmp_path_factory.mktemp("cluster")
    with ExitStack() as stack:
        address = stack.enter_context(dask_cluster.scheduler(folder, ca.files("scheduler")))
        command = [dask_cluster.ours("trainer"), "worker", address, *dask_cluster.options(ca.files("worker"))]
        log = folder / "worker.log"
        stack.enter_context(dask_cluster.running(log, [*command, "--local-directory", str(folder / "scratch")]))
        yield SimpleNamespace(address=address, log=log)


def tls(authority, name="client") -> TlsFiles:
    return TlsFiles(*authority.files(name))


def test_a_run_over_tls_gives_the_numbers_of_one_process(cluster, ca, cohort_folder, write_config, tmp_path):
    inputs = ["--store", str(cohort_folder / "store"), "--clinical", str(cohort_folder / "clinical.csv")]
    inputs += ["--config", str(write_config())]
    where = {
        "here": ["--workers", "0"],
        "there": ["--scheduler", cluster.address, *dask_cluster.options(ca.files("analyst"))],
    }
    for name, options in where.items():
        done = dask_cluster.call("trainer", "cv", *inputs, "--out", str(tmp_path / name), *options)
        assert done.returncode == 0, (done.stderr, cluster.log.read_text())
    here, there = (pd.read_csv(tmp_path / name / "risks.csv") for name in where)
    pd.testing.assert_frame_equal(here, there, check_exact=True)
    assert len(here) == 2 * 40


def test_workers_hold_what_the_limits_say_and_never_pause(cluster, ca):
    def memory_of(dask_worker) -> tuple[object, ...]:
        import os  # noqa: PLC0415 - a function that travels whole

        manager = dask_worker.memory_manager
        found = (manager.memory_target_fraction, manager.memory_spill_fraction, manager.memory_pause_fraction)
        profiles = (dask_worker.profile_history.maxlen, dask_worker.periodic_callbacks["profile-cycle"].callback_time)
        return (*found, os.environ["OMP_NUM_THREADS"], os.environ["MALLOC_MMAP_THRESHOLD_"], *profiles)

    with connected(cluster.address, tls(ca), 60) as client:
        about = client.sync(client.scheduler.identity, n_workers=-1)["workers"].values()
        told = client.run(memory_of)
    assert {one["nthreads"] for one in about} == {1}
    shares = split(limits_here(), "cpu", gpu_threads=PROGRAM.gpu_threads, least_bytes=PROGRAM.least_bytes)
    assert {one["memory_limit"] for one in about} == {shares.memory_bytes}
    assert set(told.values()) == {(False, False, False, "1", "33554432", 60, 10_000.0)}


def refused(address, files=None) -> str:
    with pytest.raises(UsageError) as caught, connected(address, files, 30):
        pass
    return str(caught.value)


def test_a_client_without_a_certificate_is_told_so(cluster):
    assert "no certificate was given: add --tls-ca, --tls-cert, --tls-key" in refused(cluster.address)


def test_a_client_of_another_ca_is_told_whose_certificate_it_met(cluster, tmp_path):
    other = certificates.Authority.make(tmp_path / "other", "Ward 8")
    told = refused(cluster.address, tls(other))
    assert "is signed by “Ward 7”, and --tls-ca" in told
    assert "holds “Ward 8”" in told


def test_a_client_that_knows_the_ca_and_has_no_certificate_of_it_is_told_that_the_scheduler_refuses_it(
    cluster, ca, tmp_path
):
    _, cert, key = certificates.Authority.make(tmp_path / "other", "Ward 8").files("client")
    told = refused(cluster.address, TlsFiles(str(ca.folder / "ca.pem"), cert, key))
    assert f"refuses the certificate {cert}" in told


def test_a_plain_client_is_told_that_the_scheduler_speaks_tls(cluster):
    plain = cluster.address.replace("tls://", "tcp://")
    assert f"the scheduler at {plain} speaks TLS" in refused(plain)


def test_the_scheduler_itself_lets_neither_plain_nor_foreign_clients_in(cluster, tmp_path):
    ca, cert, key = certificates.Authority.make(tmp_path / "other", "Ward 8").files("client")
    foreign = Security(require_encryption=True, tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key)
    with pytest.raises(OSError, match="TLS"):
        Client(cluster.address, security=foreign, timeout=3, set_as_default=False)
    with pytest.raises(OSError, match=r"TCP|trying to connect"):
        Client(cluster.address.replace("tls://", "tcp://"), timeout=3, set_as_default=False)


def test_certificates_at_a_scheduler_without_them_are_told_so(ca, tmp_path):
    with dask_cluster.scheduler(tmp_path) as plain:
        told = refused(plain.replace("tcp://", "tls://"), tls(ca))
    assert "does not speak TLS" in told


@pytest.fixture
def stranger(ca, tmp_path):
    """Address of a cluster whose one worker runs an edited source tree of the same version."""
    tree = dask_cluster.edited(tmp_path / "tree", "store_schema", "trainer")
    with ExitStack() as stack:
        address = stack.enter_context(dask_cluster.scheduler(tmp_path))
        command = [dask_cluster.ours("trainer"), "worker", address, "--", "--nworkers", "1"]
        stack.enter_context(dask_cluster.running(tmp_path / "worker.log", command, PYTHONPATH=tree))
        yield address


def test_a_worker_of_an_edited_source_tree_is_refused_and_one_that_joins_after_the_check_does_nothing(
    stranger, cohort_folder, config, tmp_path, monkeypatch
):
    plan = make_plan(config(), Inputs(cohort_folder / "clinical.csv", str(cohort_folder / "store")))
    folder = RunFolder.open(str(tmp_path / "run"))
    keep_plan(plan, folder)
    tasks = plan.tasks(first_jobs(plan.config, permutations=plan.splits, folds=len(plan.splits[0])), folder.url)[:2]
    other = rf"runs code [0-9a-f]{{12}} \(the client {versions()['code'][:12]}\)"
    with pytest.raises(UsageError, match=rf"worker tcp://\S+ {other}"):
        run_tasks(tasks, Workers(scheduler=stranger, wait_s=180), on_done=lambda outcome: None)
    monkeypatch.setattr(dispatch, "_check_workers", lambda client: None)
    outcomes = run_tasks(tasks, Workers(scheduler=stranger, wait_s=180), on_done=lambda outcome: None)
    assert all("TaskError: this worker runs code" in (outcome.error or "") for outcome in outcomes)
    assert not list((tmp_path / "run").glob("tasks/*"))
