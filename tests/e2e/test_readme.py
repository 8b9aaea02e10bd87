"""Every command and every piece of code in the README runs as it stands there."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from extractor.phantom import write_cohort
from extractor.phantom_table import clinical_table, draw_factors
from extractor.regions import derive_regions
from extractor.segmenter import load_segmenter, save_checkpoint
from extractor.volumes import read_labels, write_image

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PATIENTS = 30


OWN_VIEW = "mini-untrained-sequential-paper"
"""What the README's view is called with the checkpoint that a test can make: a mini one with random weights."""


def blocks(language: str, section: str = "") -> list[str]:
    """Blocks of one language in the section of a heading (``##``), or in the whole README."""
    text = re.split(r"^## ", README, flags=re.MULTILINE)
    chosen = [one for one in text if one.startswith(f"{section}\n")] if section else text
    return [block for one in chosen for block in re.findall(rf"```{language}\n(.*?)```", one, flags=re.DOTALL)]


def commands(section: str, which: int = 0) -> list[str]:
    """Command lines of a section's block, on the view that a test can make."""
    return blocks("bash", section)[which].replace("medsam2-sequential-paper", OWN_VIEW).strip().splitlines()


def environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def call(command: str, folder: Path, **more: str) -> str:
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment() | more, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A user's own folder: images, masks, tables, settings from the README, and a checkpoint of the name it gives."""
    folder = tmp_path_factory.mktemp("own")
    write_cohort(folder, n=PATIENTS, seed=11)
    rows = []
    for row in pd.read_csv(folder / "studies.csv").itertuples():
        spine = derive_regions(read_labels(str(folder / row.label_map)), wanted=("spine_dilated",))["spine_dilated"]
        write_image(spine.array_zyx, spine.grid, folder / f"images/{row.patient}_spine.nii.gz")
        rows.append([row.patient, row.ct, row.pet, f"images/{row.patient}_spine.nii.gz"])
    with (folder / "studies.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["patient", "ct", "pet", "spine"], *rows])
    extract, cross_validate, study = blocks("yaml")
    (folder / "extract.yaml").write_text(extract + "model: mini\nstride: 16\n")
    for name, settings in (("cv.yaml", cross_validate), ("study.yaml", study)):
        renamed = settings.replace("medsam2-sequential-paper", OWN_VIEW)
        (folder / name).write_text(renamed + "fit: {epochs: 2, min_epochs: 1, min_validation_events: 1}\n")
    save_checkpoint(load_segmenter("mini", "random:3"), folder / "MedSAM2_latest.pt")
    return folder


def look_around(folder: Path) -> None:
    """The commands that look before and after a run, on the first studies of the table and a feature table of their own."""
    whole = (folder / "studies.csv").read_text()
    (folder / "studies.csv").write_text("\n".join(whole.splitlines()[:3]) + "\n")
    (folder / "radiomics.csv").write_text(
        "patient,modality,roi,volume_ml,mean\nP001,PET,spine,12.5,\nP002,PET,spine,13,2\n"
    )
    for line in commands("Looking before and after a run"):
        call(f"{line} --model mini" if " doctor " in line else line, folder)
    for page in ("look/inspect.html", "regions/index.html", "gallery.html"):
        shown = (folder / page).read_text()
        assert {"P001", "P002", "spine"} <= set(re.findall(r"\w+", shown)), page
        pictures = re.findall(r'<img[^>]* src="([^"]+)"', shown)
        assert len(pictures) >= 2, page
        # Held by the page itself, or lying beside it.
        assert all(one.startswith("data:image/") or (folder / page).parent.joinpath(one).is_file() for one in pictures)
    (folder / "studies.csv").write_text(whole)


def study_and_predict(folder: Path) -> None:
    """The commands of the section on studies, and what they leave."""
    others = clinical_table(draw_factors(80, 12), 12)
    others["patient"] = "B" + others["patient"]
    others.to_csv(folder / "hospital-b.csv", index=False)
    for line in commands("Tuning, studies, and models for patients to come"):
        call(line, folder)
    for table, rows in (("table-1", 8), ("table-2", 1), ("table-3", 4)):
        assert len(pd.read_csv(folder / "study" / "tables" / f"{table}.csv")) == rows
    page = (folder / "study" / "report.html").read_text()
    assert "Optimism of clinical-cox" in page
    assert len(pd.read_csv(folder / "scores.csv")) == PATIENTS
    assert len(pd.read_csv(folder / "validation" / "predictions.csv")) == 80
    assert "on another cohort" in (folder / "validation" / "report.html").read_text()


def disturb(folder: Path) -> None:
    """The commands that disturb embeddings, and what they leave."""
    for line in commands("What disturbs embeddings and risks"):
        call(line, folder)
    assert set(pd.read_csv(folder / "robustness" / "risks.csv")["patient"]) == {
        f"P{n:03d}" for n in range(1, PATIENTS + 1)
    }
    assert "padding 5 mm" in (folder / "robustness" / "report.html").read_text()


def explain(folder: Path) -> None:
    """The commands that show where a model looks, and what they leave."""
    for line in commands("Where a model looks"):
        call(line, folder)
    assert set(pd.read_csv(folder / "explained/deltas.csv")["modality"]) == {"PET", "CT"}
    assert ">P001</h3>" in (folder / "explained/report.html").read_text()


def trust(folder: Path) -> None:
    """The commands that tell how far to trust a model, and what they leave."""
    for line in commands("How far to trust a model"):
        call(line, folder)
    assert "<h1>Quality of embeddings</h1>" in (folder / "quality" / "report.html").read_text()
    assert 'href="trust/index.html"' in (folder / "study" / "report.html").read_text()


def share(folder: Path) -> None:
    """The commands that share the store, with the service running on a free port as a user would start it."""
    section = "Sharing a store over HTTP"
    serve = [str(Path(sys.executable).with_name("feature-store")), "serve", "--port", "0"]
    server = subprocess.Popen(
        serve, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        assert re.fullmatch(r"engram_[0-9a-f]{12}_[A-Za-z0-9_-]{43}\n", server.stdout.readline())
        url = re.search(r"http://[0-9.:]+", server.stdout.readline())
        assert url is not None
        for line in commands(section):
            call(line, folder)
        key = re.search(
            r"engram_\w{12}_[A-Za-z0-9_-]{43}",
            call("feature-store admin keys create myeloma --label w --scope write", folder),
        )
        assert key is not None
        for line in commands(section, 1):
            told = call(line, folder, SERVICE=url[0], ENGRAM_API_KEY=key[0])
        assert "ublished" in told
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert server.returncode == 0


@pytest.mark.timeout(1800)
def test_the_four_commands_run_on_a_users_own_folder_and_the_python_on_their_store(folder):
    lines = commands("On your own data")
    assert len(lines) == 4
    for line in lines:
        call(line, folder)
    (code,) = blocks("python")
    call(f'"{sys.executable}" -W error -c "$CODE"', folder, CODE=code)
    assert (folder / "run" / "report.html").stat().st_size > 10_000
    study_and_predict(folder)
    disturb(folder)
    explain(folder)
    trust(folder)
    share(folder)
    look_around(folder)
    for line in commands("Looking after a store"):
        call(line, folder)


def test_make_demo_and_make_test_run_what_the_readme_says():
    def planned(target: str) -> str:
        return subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "tests/e2e/demo.sh" in planned("demo")
    assert "pytest" in planned("test")
    for target in ("demo", "test"):
        assert f"make {target}" in README


def test_every_command_of_the_readme_is_a_console_script():
    scripts = re.search(r"\[project\.scripts\]\n(.*?)\n\n", (ROOT / "pyproject.toml").read_text(), flags=re.DOTALL)
    assert scripts is not None
    known = {line.split("=")[0].strip() for line in scripts.group(1).splitlines()}
    assert not re.findall(r"^```(?!bash$|yaml$|python$|$)", README, flags=re.MULTILINE)
    for block in blocks("bash"):
        assert {line.split()[0] for line in block.strip().splitlines()} <= known
