"""What `train.py` does itself, with programs and a cluster that stand in for Slurm's and Dask's."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import click
import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "deploy" / "slurm" / "train.py"
SAY = 'echo "$AWS_SECRET_ACCESS_KEY" >"$SEEN/trainer"; echo "$@" >>"$SEEN/trainer"; exit 3'


@pytest.fixture
def train(monkeypatch) -> Iterator[ModuleType]:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("engram_test_train", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


class Cluster:
    """Two jobs; a worker comes after so many looks, if at all."""

    scheduler_address = "tls://127.0.0.1:8786"

    def __init__(self, looks: int | None) -> None:
        self.looks, self.workers = looks, {name: SimpleNamespace(job_id=str(name)) for name in (41, 42)}

    def scale(self, *, jobs: int) -> None:
        assert jobs == len(self.workers)

    def wait_for_workers(self, _count: int, timeout: float) -> None:
        assert timeout > 0
        if self.looks == 0:
            return
        if self.looks is not None:
            self.looks -= 1
        raise TimeoutError


@pytest.fixture
def files(train, tmp_path):
    return train.Certificates(*(tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem")))


def told(monkeypatch, environment: dict[str, str]) -> None:
    """Puts variables of the programs that stand in, and others, into the environment of this process."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_the_trainer_gets_its_credentials_from_the_file_that_jobs_read(
    train, files, stand_in, seen, tmp_path, monkeypatch
):
    credentials = tmp_path / "credentials"
    credentials.touch(mode=0o600)
    credentials.write_text("AWS_SECRET_ACCESS_KEY='a key, of this file'\n")
    told(monkeypatch, stand_in(trainer=SAY) | {"ENGRAM_ENVIRONMENT": str(credentials)})
    monkeypatch.setattr(train.sys, "executable", str(tmp_path / "bin" / "python"))
    before = dict(os.environ)
    assert train.run(["cv", "--out", "a b"], Cluster(looks=0), files, 2, "logs") == 3
    key, words = (seen / "trainer").read_text().splitlines()
    assert key == "a key, of this file"
    assert words.startswith("cv --out a b --scheduler=tls://127.0.0.1:8786 --tls-ca=")
    assert dict(os.environ) == before


@pytest.mark.parametrize(("mode", "said"), [(0o640, "chmod 600"), (None, "there is no file")])
def test_a_file_of_credentials_that_jobs_would_refuse_is_refused_before_anything_is_submitted(
    train, tmp_path, monkeypatch, mode, said
):
    file = tmp_path / "credentials"
    if mode is not None:
        file.touch()
        file.chmod(mode)
    monkeypatch.setenv("ENGRAM_ENVIRONMENT", str(file))
    with pytest.raises(click.UsageError, match=said):
        train.main(["--cores=1", "--memory=1GiB", "--", "cv"], standalone_mode=False)


def test_jobs_that_all_ended_without_a_worker_end_the_wait(train, stand_in, monkeypatch):
    told(monkeypatch, stand_in(squeue="echo 7"))
    with pytest.raises(click.ClickException, match=r"no worker came.*logs in engram-logs"):
        train.wait_for_worker(Cluster(looks=None), "engram-logs")


@pytest.mark.parametrize("squeue", ["echo 42", "echo 7; exit 1"], ids=["a job waits", "Slurm does not answer"])
def test_a_worker_is_waited_for_as_long_as_a_job_may_bring_one(train, stand_in, monkeypatch, squeue):
    told(monkeypatch, stand_in(squeue=squeue))
    cluster = Cluster(looks=5)
    train.wait_for_worker(cluster, "engram-logs")
    assert cluster.looks == 0
