"""The command that starts workers says what the limits say, and each of several processes gets a GPU of its own."""

import asyncio
import json
import shlex
import subprocess
import sys
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner
from distributed import preloading

from store_schema import worker_gpu
from store_schema.allocator import KEPT_BYTES
from store_schema.errors import UsageError
from store_schema.tls import TlsFiles
from store_schema.worker_command import WorkerOptions, become, command, environment, shown
from store_schema.worker_gpu import dask_setup, gpu_of
from store_schema.worker_limits import Split
from store_schema.worker_options import Program, start_workers, worker_options

PROCESSOR = Split(2, 1, 4 << 30)
TWO_GPUS = Split(2, 3, 8 << 30, ("0", "MIG-1"))


def of(arguments: list[str], option: str) -> list[str]:
    return [arguments[at + 1] for at, one in enumerate(arguments) if one == option]


def test_workers_of_a_processor_have_one_thread_their_share_of_memory_and_no_gpu():
    made = command(PROCESSOR, WorkerOptions("tcp://a:1"))
    assert made[:6] == [sys.executable, "-P", "-m", "dask", "worker", "tcp://a:1"]
    assert (of(made, "--nworkers"), of(made, "--nthreads"), of(made, "--memory-limit")) == (
        ["2"],
        ["1"],
        ["4294967296"],
    )
    assert "--no-dashboard" in made
    assert not {"--resources", "--name", "--tls-key"} & set(made)


def test_workers_of_gpus_declare_one_each_and_are_called_so_that_each_finds_its_own():
    made = command(TWO_GPUS, WorkerOptions("tcp://a:1"))
    assert of(made, "--resources") == ["GPU=1"]
    assert of(made, "--name") != of(command(TWO_GPUS, WorkerOptions("tcp://a:1")), "--name")
    variables = environment(TWO_GPUS, ["m"])
    assert variables["ENGRAM_WORKER_GPUS"] == "0,MIG-1"
    assert variables["DASK_DISTRIBUTED__WORKER__PRELOAD"] == "['store_schema.worker_gpu', 'm']"


def test_what_is_asked_for_is_passed_on():
    options = WorkerOptions(
        "tls://a:1",
        TlsFiles("ca", "cert", "key"),
        local_directory="/scratch",
        name="n",
        host="h",
        dashboard_port=8787,
        death_timeout_s=7,
        more=("--worker-port", "1:2"),
    )
    made = command(PROCESSOR, options)
    told = {option: of(made, option) for option in ("--tls-ca-file", "--tls-cert", "--tls-key", "--local-directory")}
    assert list(told.values()) == [["ca"], ["cert"], ["key"], ["/scratch"]]
    assert [of(made, option) for option in ("--name", "--host", "--dashboard-address", "--death-timeout")] == [
        ["n"],
        ["h"],
        [":8787"],
        ["7"],
    ]
    assert made[-2:] == ["--worker-port", "1:2"]


def test_workers_compute_on_one_thread_keep_freed_memory_and_are_never_paused():
    made = environment(PROCESSOR, ["one.module", "another"])
    assert made["DASK_DISTRIBUTED__WORKER__PRELOAD"] == "['one.module', 'another']"
    assert {made[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")} == {"1"}
    assert made["MALLOC_TRIM_THRESHOLD_"] == str(KEPT_BYTES)
    assert made["DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE"] == "False"
    assert worker_gpu.VARIABLE not in made


def test_the_shown_command_can_be_given_to_a_shell():
    words = shlex.split(shown(["python", "a b"], {"X": "1 2"}))
    assert words == ["env", "X=1 2", "python", "a b"]


def test_this_process_becomes_the_command_and_ends_as_it_does():
    code = (
        "import sys; from store_schema.worker_command import become;"
        "become([sys.executable, '-c', 'import os, sys; print(os.getpid(), os.environ[\"X\"]); sys.exit(7)'], {'X': 'y'})"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        said, _ = process.communicate()
    assert said.split() == [str(process.pid), "y"]
    assert process.returncode == 7


BECOMES = """
import sys
from store_schema.errors import UsageError
from store_schema.events import json_lines, tell
from store_schema.worker_command import become
with json_lines():
    print("before", file=sys.stderr)
    try:
        become(["/no/python"], {})
    except UsageError as error:
        tell("error", message=str(error))
    become([sys.executable, "-c", "import sys; [print('heard', file=sys.stderr) for _ in range(2)]"], {})
"""


def test_the_command_is_heard_on_stderr_after_json_lines():
    done = subprocess.run([sys.executable, "-c", BECOMES], capture_output=True, text=True, check=False, timeout=50)
    before, error, *after = done.stderr.splitlines()
    assert json.loads(before)["message"] == "before"
    assert "/no/python cannot be started" in json.loads(error)["message"]
    assert (after, done.returncode) == (["heard", "heard"], 0)


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(UsageError, match="/no/python cannot be started: No such file"):
        become(["/no/python"], {})


@pytest.mark.parametrize(
    ("name", "listed", "gpu"), [("node-1-0", "4,5", "4"), ("node-1", "4,5", "5"), ("tcp://10.0.0.1:3", "7", "7")]
)
def test_a_worker_has_the_gpu_of_its_number(name, listed, gpu):
    assert gpu_of(name, listed) == gpu


@pytest.mark.parametrize(("name", "listed"), [("node", "0,1"), ("node-2", "0,1"), ("node-0", "")])
def test_a_worker_without_a_gpu_of_its_own_does_not_start(name, listed, monkeypatch, capsys):
    """Dask logs what a module raises when a worker starts, and goes on."""
    monkeypatch.setenv("ENGRAM_WORKER_GPUS", listed)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    modules = preloading.process_preloads(SimpleNamespace(name=name), ["store_schema.worker_gpu"], [])
    with pytest.raises(SystemExit) as ended:
        asyncio.run(modules.start())
    assert ended.value.code == 1
    assert f"worker {name} has no GPU of its own" in capsys.readouterr().err
    assert worker_gpu.os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"


def test_a_worker_process_sees_its_gpu_alone(monkeypatch):
    monkeypatch.setenv("ENGRAM_WORKER_GPUS", "2,3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    dask_setup(SimpleNamespace(name="n-1"))
    assert worker_gpu.os.environ["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.fixture
def printed():
    """Calls a program's `worker --print` with options, and gives what it printed as words."""

    @click.command()
    @worker_options
    def worker(**given):
        start_workers(Program(("m",), 3, 1 << 30), given, checked=lambda address, tls: tls)

    def call(*options: str, **variables: str) -> list[str]:
        done = CliRunner().invoke(worker, options, env=variables, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return shlex.split(done.stdout)

    return call


def test_the_command_line_prints_what_it_would_run(printed):
    words = printed("tcp://10.0.0.1:1", "--device", "cuda", "--print", CUDA_VISIBLE_DEVICES="6")
    assert words[0] == "env"
    assert "ENGRAM_WORKER_GPUS=6" in words
    assert of(words, "--nthreads") == ["3"]


def test_certificates_come_from_the_environment_too_and_options_of_dask_follow_two_dashes(printed):
    files = {"ENGRAM_TLS_CA": "a", "ENGRAM_TLS_CERT": "b", "ENGRAM_TLS_KEY": "c"}
    words = printed("tls://h:1", "--print", "--", "--nanny-port", "5", **files)
    assert words[-2:] == ["--nanny-port", "5"]
    assert [of(words, option) for option in ("--tls-ca-file", "--tls-cert", "--tls-key")] == [["a"], ["b"], ["c"]]


def test_modules_of_ones_own_would_keep_these_workers_from_loading_theirs():
    with pytest.raises(UsageError, match="--preload would take the place"):
        WorkerOptions("tcp://a:1", more=("--preload=mine",))


@pytest.mark.parametrize("option", ["--nworkers", "--resources", "--name"])
def test_what_would_change_which_worker_has_which_gpu_is_refused(option):
    for more in ((option, "3"), (f"{option}=3",)):
        options = WorkerOptions("tcp://a:1", more=more)
        with pytest.raises(UsageError, match=f"{option} after -- would change which worker has which GPU"):
            command(TWO_GPUS, options)
        assert command(PROCESSOR, options)[-len(more) :] == list(more)
