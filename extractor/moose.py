"""Has MOOSE segment the bones of a CT with the `moosez` command line, and checks what it wrote; knows no table.

A process of its own, since MOOSE sets torch and its threads up its own way, and may live in another environment than ours. Its exit
status says little: it is 0 when no image was found. So what counts is whether each label map is there and is what its name says.

References
----------
moosez 3.2.2: `moosez.py` (`-d MAIN_DIRECTORY -m MODEL …`, a folder a subject, images named by their modality), `models.py` (the
names of what is written, `organ_indices_to_json`), `file_utilities.py` (`moosez-TIME/segmentations`).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from extractor.label_sets import LABEL_SETS, LabelFile, map_column
from extractor.reading import read_ct
from extractor.regions import check_label_map
from extractor.study import StudyFiles
from extractor.volumes import Grid, read_labels, write_image
from store_schema.errors import GeometryError, MaskError, StudyError, UsageError

LABEL_SET = "moose_3"
PROGRAM = "moosez"
LOG = "moosez.log"
SUBJECT, STEM = "study", "CT_study"
"""MOOSE takes an image for a CT by the first letters of its name."""
SAID_CHARACTERS = 600
_STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def find_moose(program: str | None = None) -> str:
    """Path of the `moosez` program: the one that is named, or the first on the PATH.

    Raises
    ------
    UsageError
        If there is none; says how to get it.
    """
    found = shutil.which(program or PROGRAM)
    if found is None:
        raise UsageError(
            f"{program or PROGRAM} is not there, or cannot be run: MOOSE segments the bones. Install it beside Engram "
            "(pip install 'engram[moose]'), or in an environment of its own (pip install 'moosez>=3.1') and name its program with "
            "--moosez PATH. Label maps of TotalSegmentator or of MOOSE that you have already need no such step: name them in the "
            "study table."
        )
    return found


def model_of(part: str) -> str:
    """What MOOSE calls the model of a part: clin_ct_vertebrae."""
    return f"clin_ct_{part}"


def segment(files: StudyFiles, folder: Path, *, program: str, parts: Sequence[str]) -> dict[str, Any]:
    """Writes label_map_PART.nii.gz of each part, and MOOSE's log, into the folder.

    Raises
    ------
    StudyError
        If the CT cannot be read, MOOSE fails or writes no label map, or one is not what the `moose_3` label set says; names the
        next step.
    """
    ct = read_ct(files.ct)
    with tempfile.TemporaryDirectory(prefix="engram-moose-") as main:
        subject = Path(main, SUBJECT)
        subject.mkdir()
        write_image(ct.array_zyx, ct.grid, subject / f"{STEM}.nii.gz")
        said = _run(program, Path(main), parts)
        for part in parts:
            made = _label_map(subject, part, said)
            _check(made, part, ct.grid)
            shutil.copyfile(made, folder / f"{map_column(part)}.nii.gz")
    (folder / LOG).write_text(said, encoding="utf-8")
    return {"label_maps": {part: f"{map_column(part)}.nii.gz" for part in parts}, "label_set": LABEL_SET}


def _run(program: str, main: Path, parts: Sequence[str]) -> str:
    """What MOOSE said while it worked on every subject of a folder."""
    command = [program, "-d", str(main), "-m", *(model_of(part) for part in parts)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    said = _STYLE.sub("", done.stdout.decode(errors="replace"))
    if done.returncode != 0:
        raise StudyError(f"{_ended(program, done.returncode)}. {_next_step(parts)} {_last(said)}")
    return said


def _ended(program: str, status: int) -> str:
    return (
        f"{program} ended with exit status {status}"
        if status > 0
        else f"{program} was ended by signal {-status} (memory?)"
    )


def _next_step(parts: Sequence[str]) -> str:
    models = " ".join(model_of(part) for part in parts)
    return (
        f"It downloads the weights of its models by itself: without a network run `{PROGRAM} -md {models}` once where there is "
        "one, and take the folder that it names along."
    )


def _last(said: str) -> str:
    return f"It said last: {' '.join(said.split())[-SAID_CHARACTERS:]}" if said.strip() else "It said nothing."


def _label_map(subject: Path, part: str, said: str) -> Path:
    """The label map that MOOSE wrote for a part."""
    name = f"clin_CT_{part}_segmentation_{STEM}.nii.gz"
    made = sorted(subject.glob(f"moosez-*/segmentations/{name}"))
    if not made:
        raise StudyError(
            f"{PROGRAM} wrote no {name}, although it ended without an error: expected moosez 3.x. {_next_step((part,))} "
            f"{_last(said)}"
        )
    return made[-1]


def _check(made: Path, part: str, grid: Grid) -> None:
    """Refuses a label map whose numbers mean something else than ours, or that lies elsewhere than the CT."""
    names = made.with_name(f"clin_CT_{part}_organ_indices.json")
    file = LABEL_SETS[LABEL_SET][part]
    if names.exists():
        _check_names(names, file, part)
    labels = read_labels(str(made))
    if labels.grid.sha256() != grid.sha256():
        raise GeometryError(
            f"{PROGRAM} wrote the label map of {model_of(part)} on another grid than the CT's: expected {grid.size_xyz} voxels of "
            f"{grid.spacing_xyz_mm} mm, got {labels.grid.size_xyz} of {labels.grid.spacing_xyz_mm} mm."
        )
    check_label_map(labels, LABEL_SET, part)


def _check_names(path: Path, file: LabelFile, part: str) -> None:
    """Compares what MOOSE says its labels mean with the `moose_3` label set."""
    told = json.loads(path.read_text(encoding="utf-8"))["organ_indices"]
    theirs = {int(label): str(about["name"]) for label, about in told.items() if int(label) > 0}
    differing = [label for label in sorted({*theirs, *file.bones}) if theirs.get(label) != file.bones.get(label)]
    if differing:
        first = differing[0]
        raise MaskError(
            f"this {PROGRAM} calls label {first} of {model_of(part)} '{theirs.get(first)}', and the {LABEL_SET} label set "
            f"'{file.bones.get(first)}' ({len(differing)} labels differ): its models are newer than this program knows. Install a "
            "moosez between 3.0 and 3.2."
        )
