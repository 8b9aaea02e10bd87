"""Every command of the operator's guide runs here, or is taken apart by the program that it calls, and what it names exists."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from distributed.cli.dask_scheduler import main as dask_scheduler

import extractor.cli
import services.cli
import store_schema.cli
import trainer.cli

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "deploy" / "README.md").read_text()
BIN = Path(sys.executable).parent
KUBECTL = BIN / "kubectl"
NOBODY = "http://127.0.0.1:1"
"""An API server that there is not."""
PROGRAMS: dict[str, click.Command] = {
    "extractor": extractor.cli.main,
    "trainer": trainer.cli.main,
    "feature-store": services.cli.main,
    "store-schema": store_schema.cli.main,
}


def sections() -> dict[str, str]:
    """Text of each heading (``##``)."""
    found = re.split(r"^## ", GUIDE, flags=re.MULTILINE)[1:]
    return {one.partition("\n")[0]: one for one in found}


def commands(section: str = "") -> list[str]:
    """Command lines of the blocks of a section, or of all."""
    text = sections()[section] if section else GUIDE
    return [
        line for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL) for line in block.strip().splitlines()
    ]


def of_kubectl() -> list[list[str]]:
    return [shlex.split(line) for line in commands() if line.startswith("kubectl ")]


def pod_specs(document: object) -> Iterator[dict]:
    """Specifications of pods anywhere in a resource."""
    if isinstance(document, dict):
        if "containers" in document:
            yield document
        for value in document.values():
            yield from pod_specs(value)


def built(folder: str) -> list[dict]:
    done = subprocess.run([KUBECTL, "kustomize", ROOT / folder], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def test_every_block_is_of_bash_and_every_command_is_one_that_a_test_knows():
    assert not re.findall(r"^```(?!bash$|$)", GUIDE, flags=re.MULTILINE)
    known = {
        "kubectl",
        "deploy/k8s/wait-for-job.sh",
        "deploy/slurm/submit-extract.sh",
        "deploy/tls/make-certs.sh",
        "python",
        "dask",
        "pg_dump",
    } | PROGRAMS.keys()
    shell = {"touch", "chmod", "export"}
    assert {line.split()[0] for line in commands()} == (known | shell) - {"extractor", "trainer"}


@pytest.mark.parametrize("words", of_kubectl(), ids=lambda words: " ".join(words)[:80])
def test_kubectl_takes_every_command(words, tmp_path):
    """Options are looked at before a cluster is asked for, and one that kubectl does not know ends it there."""
    known = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    secret = words[3:5] == ["create", "secret"]
    if secret:
        words = [*filled(words, tmp_path), "--dry-run=client", "--output=yaml"]
    else:
        words = [*words[:1], f"--server={NOBODY}", *words[1:]]
    done = subprocess.run(
        [KUBECTL, *words[1:]], cwd=ROOT, env=known, capture_output=True, text=True, check=False, timeout=60
    )
    if "kustomize" in words or secret:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode != 0
        assert re.search(r"127\.0\.0\.1:1\b.*(refused|was refused)", done.stderr), done.stderr


def filled(words: list[str], folder: Path) -> list[str]:
    """A command with files in the place of FILE and of the certificates; a secret for TLS must hold a pair that fits."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    pair = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=test",
    ]
    if not key.exists():
        subprocess.run([*pair, "-keyout", key, "-out", cert], capture_output=True, check=True)
    return [
        re.sub(r"=(FILE|tls/\w+\.pem)$", lambda match, word=word: f"={key if word.startswith('--key') else cert}", word)
        for word in words
    ]


def secrets(folder: Path) -> dict[str, set[str]]:
    """Keys of each secret, as the guide's own commands make it."""
    found = {}
    for words in of_kubectl():
        if words[3:5] == ["create", "secret"]:
            command = [KUBECTL, *filled(words, folder)[1:], "--dry-run=client", "--output=yaml"]
            made = yaml.safe_load(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            assert made["metadata"]["namespace"] == "engram"
            found[made["metadata"]["name"]] = set(made["data"])
    return found


def steps() -> list[str]:
    """Folders of the overlays that are applied."""
    files = (ROOT / "deploy/k8s/overlays").rglob("kustomization.yaml")
    return [str(file.parent) for file in files if yaml.safe_load(file.read_text())["kind"] == "Kustomization"]


def read_by(resource: dict) -> Iterator[tuple[str, set[str]]]:
    """Secrets that a resource reads, and their keys."""
    if resource["kind"] == "Ingress":
        yield resource["spec"]["tls"][0]["secretName"], set()
    for pod in pod_specs(resource):
        for variable in pod["containers"][0].get("env", []):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                yield reference["name"], {reference["key"]}
        for volume in pod["volumes"]:
            if "secret" in volume:
                yield volume["secret"]["secretName"], {item["key"] for item in volume["secret"]["items"]}


def test_every_secret_that_a_manifest_reads_is_one_that_the_guide_makes(tmp_path):
    documented = secrets(tmp_path)
    read: dict[str, set[str]] = {"engram-pseudonym": {"ENGRAM_PSEUDONYM_KEY"}}
    for step in steps():
        for resource in built(step):
            for name, keys in read_by(resource):
                read.setdefault(name, set()).update(keys)
    assert read.keys() == documented.keys()
    for name, keys in read.items():
        assert keys <= documented[name], name
    table = re.findall(r"^\| `(engram-[\w-]+)` \|", sections()["Secrets"], flags=re.MULTILINE)
    assert sorted(table) == sorted(documented)


def test_every_resource_that_a_command_names_is_one_that_the_manifests_make():
    made: set[str] = set()
    for step in ("service", "extract", "complete", "cluster", "cv"):
        for resource in built(f"deploy/k8s/overlays/gpu/{step}"):
            made.add(f"{resource['kind'].lower()}/{resource['metadata']['name']}")
    made |= {"service/trainer-scheduler", "deployment/trainer-scheduler", "daskcluster trainer"}
    waits = [line.split()[1] for line in commands() if "wait-for-job.sh" in line]
    assert {f"job/{name}" for name in waits} == {name for name in made if name.startswith("job/")}
    for words in of_kubectl():
        named = [word for word in words if re.fullmatch(r"(job|deployment|service)/[\w-]+", word)]
        assert set(named) <= made, words
        if "-k" in words:
            assert (ROOT / words[words.index("-k") + 1] / "kustomization.yaml").is_file()
    assert "daskcluster/trainer" in made


def parse(program: str, words: list[str]) -> None:
    """Has a program's command line taken apart by itself; no option may be unknown."""
    command = PROGRAMS[program]
    while isinstance(command, click.Group):
        with click.Context(command) as context:
            _, command, words = command.resolve_command(context, words)
    with command.make_context(program, list(words)) as context:
        assert context.params


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A folder with the files that the commands name."""
    (tmp_path / "tls").mkdir()
    for name in ("studies.csv", "clinical.csv", "extract.yaml", "cv.yaml", "tls/ca.pem", "tls/cert.pem", "tls/key.pem"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("files")
def test_our_programs_take_every_command():
    lines = [line for line in commands() if line.split()[0] in PROGRAMS]
    inside = [line.partition(" -- ")[2] for line in commands("Kubernetes") if " exec " in line]
    assert len(inside) == 2
    for line in lines + inside:
        program, *words = shlex.split(line)
        parse(program, words)
    for line in commands("TLS"):
        if line.startswith("dask scheduler"):
            with dask_scheduler.make_context("dask", shlex.split(line)[2:]) as context:
                assert context.params["protocol"] == "tls"


@pytest.mark.usefixtures("files")
def test_the_programs_behind_slurms_scripts_take_what_they_are_given():
    (submit,) = [line for line in commands("SLURM") if "submit-extract.sh" in line]
    parse("extractor", ["run", *shlex.split(submit.partition(" -- ")[2]), "--shard", "1/8"])
    for line in commands("SLURM"):
        if "train.py" in line and " -- " in line:
            parse("trainer", [*shlex.split(line.partition(" -- ")[2]), "--scheduler=tls://head:8786"])


def test_the_job_that_train_py_prints_runs_trainer_worker_over_tls(tmp_path):
    (line,) = [line for line in commands("SLURM") if line.endswith("--print")]
    _, script, *words = shlex.split(line)
    done = subprocess.run(
        [sys.executable, ROOT / script, *words, "--host", "127.0.0.1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --cpus-per-task=16\n#SBATCH --mem=64G\n" in done.stdout
    last = shlex.split(done.stdout.strip().splitlines()[-1])
    assert last[:3] == ["srun", "--export=ALL", "--cpus-per-task=16"]
    assert last[4] == "worker"
    assert last[5].startswith("tls://127.0.0.1:")
    assert not list(tmp_path.glob(".engram-tls-*")), "certificates are left behind"


def test_credentials_of_slurm_are_the_owners_alone(tmp_path):
    lines = [line for line in commands("SLURM") if line.split()[0] in {"touch", "chmod", "export"}]
    shell = "; ".join([*lines, 'stat -c %a "$ENGRAM_ENVIRONMENT"'])
    done = subprocess.run(
        ["bash", "-euc", shell],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "600\n", done.stderr


def test_certificates_are_made_as_the_guide_says(tmp_path):
    (line,) = [line for line in commands("TLS") if "make-certs" in line]
    script, *words = shlex.split(line)
    subprocess.run([ROOT / script, *words], cwd=tmp_path, capture_output=True, check=True)
    assert {"ca.pem", "cert.pem", "key.pem", "ca-key.pem"} == {file.name for file in (tmp_path / "tls").iterdir()}


def test_every_file_and_heading_that_the_guide_links_is_there():
    for link in re.findall(r"\]\(([^)]+)\)", GUIDE):
        path, _, heading = link.partition("#")
        if path:
            assert (ROOT / "deploy" / path).exists(), link
        if heading:
            assert heading in {name.lower().replace(" ", "-") for name in sections()}, link
    for path in re.findall(r"`((?:overlays|components)/[\w-]+)`", GUIDE):
        assert (ROOT / "deploy/k8s" / path).is_dir(), path


def test_the_guide_names_every_overlay_and_component():
    for kind in ("overlays", "components"):
        for folder in (ROOT / "deploy/k8s" / kind).iterdir():
            if folder.name != "shards":
                assert f"`{kind}/{folder.name}`" in GUIDE, folder


def test_the_refusals_that_the_guide_explains_are_those_of_the_programs():
    symptoms = re.findall(r"^\| (.*?) \|", sections()["Troubleshooting"], flags=re.MULTILINE)[2:]
    quoted = {
        "names no part": "extractor",
        "no Dask scheduler answers": "store_schema",
        "has no worker": "trainer",
        "install the same": "trainer",
        "no worker declares a GPU": "trainer",
        "the worker that did it died": "trainer",
    }
    for words, package in quoted.items():
        assert any(words in symptom for symptom in symptoms), words
        assert any(words in file.read_text() for file in (ROOT / package).glob("*.py")), words


def test_train_py_tells_how_it_is_called():
    script = ROOT / "deploy/slurm/train.py"
    asked = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
    assert "Dask workers that are jobs of Slurm" in asked.stdout
    assert len(re.findall(r"^ +python train\.py --jobs", asked.stdout, flags=re.MULTILINE)) == 3, (
        "examples run into one"
    )
