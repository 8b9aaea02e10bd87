"""A study table full of planted ids, and a search that finds one in whatever form it stands; tests nothing."""

from __future__ import annotations

import base64
import csv
import json
import pickle
import pickletools
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import numpy as np

from extractor.phantom import write_cohort
from extractor.volumes import read_volume

PATIENTS = ("KOWALSKA-ŻOFIA", "NOWAKOWSKI-JÓZEF", "WIŚNIEWSKA-HELENA")
"""Of the table: of a DICOM study, of files that are sound, and of a study whose PET is damaged."""
VISIT, FOLDER, FILE = "WIZYTA-ONKOLOGIA", "DABROWSKA_JANINA", "ZIELINSKI_MAREK"
DICOM_ID, DICOM_NAME, DICOM_STUDY = "HOSP-7654321", "LEWANDOWSKA^IRENA", "1.2.826.0.1.3680043.10.777.20260110.4711"
NAMES = (*PATIENTS, VISIT, FOLDER, FILE, DICOM_ID, DICOM_NAME, DICOM_STUDY, "WISNIEWSKA-HELENA")
CONFIG = "model: mini\nweights: random:0\npet_units: suv\nstride: 16\nderive: [spine_dilated]\nlayouts: [paper]\n"
SHORTEST = 8
"""Bytes of a form that is sought: what is shorter stands in random data by chance."""
ROLES = ("ct", "pet", "label_map")


def write_studies(folder: Path, dicom: ModuleType, place: Callable[[Path], str] = str) -> Path:
    """The study table, and its files in a folder that is called by a patient; `place` puts files elsewhere and says where.

    The first study's images are DICOM series; the last one's PET is damaged.
    """
    write_cohort(folder / "phantom", n=2, seed=3, processes=0)
    found = [
        {role: folder / "phantom" / row[role] for role in ROLES}
        for row in csv.DictReader((folder / "phantom" / "studies.csv").read_text().splitlines())
    ]
    named = folder / FOLDER
    named.mkdir()
    rows = [{"patient": PATIENTS[0], "study": VISIT, "label_map": str(found[0]["label_map"])}]
    for role in ("ct", "pet"):
        rows[0][role] = str(_series(dicom, found[0][role], named / f"{FILE}_{role}", role.upper()))
    for patient in PATIENTS[1:]:
        rows.append({"patient": patient, "study": VISIT})
        for role in ROLES:
            path = named / f"{FILE}_{patient}_{role}.nii.gz"
            whole = found[1][role].read_bytes()
            path.write_bytes(whole[:5000] if patient == PATIENTS[2] and role == "pet" else whole)
            rows[-1][role] = place(path)
    return write_table(folder / "studies.csv", rows)


def write_table(path: Path, rows: Iterable[Mapping[str, str]]) -> Path:
    """A study table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=["patient", "study", *ROLES])
        writer.writeheader()
        writer.writerows(rows)
    return path


def _series(dicom: ModuleType, image: Path, folder: Path, role: str) -> Path:
    """An image as a DICOM series whose headers name a patient."""
    volume = read_volume(str(image))
    low = 1024 if role == "CT" else 0
    values = np.maximum(volume.array_zyx / (1 if role == "CT" else dicom.BQML_TO_SUV), -low)
    slope = 1.0 if role == "CT" else float(values.max()) / 60_000

    def change(header: Any, _rank: int) -> None:
        header.PatientID, header.PatientName, header.StudyInstanceUID = DICOM_ID, DICOM_NAME, DICOM_STUDY

    dicom.write_series(
        folder,
        np.round((values + low) / slope).astype(np.uint16),
        role=role,
        spacing_xyz_mm=volume.grid.spacing_xyz_mm,
        origin_xyz_mm=volume.grid.origin_xyz_mm,
        slope=lambda _: slope,
        change=change,
        name=lambda rank: f"{FILE}-{rank:03d}.dcm",
    )
    return folder


def forms(text: str) -> set[bytes]:
    """How a text may stand somewhere: in several encodings and cases, escaped, percent-encoded, in hex, and in base64."""
    spelled = {
        unicodedata.normalize(form, one) for form in ("NFC", "NFD") for one in (text, text.lower(), text.upper())
    }
    found: set[bytes] = set()
    for one in spelled:
        plain = {one.encode(), one.encode("utf-16-le"), one.encode("utf-16-be"), one.encode("iso8859-2", "replace")}
        found |= plain | {quote(one).encode(), quote(one, safe="").encode(), json.dumps(one)[1:-1].encode()}
        found |= {form for data in plain for form in (data.hex().encode(), data.hex().upper().encode())}
        found |= {_inner_base64(data, offset, encode) for data in plain for offset in range(3) for encode in _BASE64}
    return {form for form in found if len(form) >= SHORTEST}


_BASE64 = (base64.b64encode, base64.urlsafe_b64encode)


def _inner_base64(data: bytes, offset: int, encode: Callable[[bytes], bytes]) -> bytes:
    """What of a text's base64 does not depend on what stands around it; `offset`: of the text within a group of three bytes."""
    return encode(b"\0" * offset + data)[4 if offset else 0 : -4]


def leaks(texts: Iterable[str], places: Mapping[str, bytes]) -> list[str]:
    """Places that hold a text in any form, in what they hold packed too."""
    sought = [(text, form) for text in texts for form in forms(text)]
    return sorted(
        {
            f"{text} in {place}"
            for place, data in places.items()
            for part in parts(data)
            for text, form in sought
            if form in part
        }
    )


def parts(data: bytes, *, depth: int = 6) -> Iterator[bytes]:
    """The data itself, and what is packed in it: strings of a pickle, and base64, each again as deep as it goes."""
    yield data
    if depth:
        for inner in _unpacked(data):
            yield from parts(inner, depth=depth - 1)


def _unpacked(data: bytes) -> Iterator[bytes]:
    if data.startswith(b"\x80") and data.endswith(b"."):
        for _, argument, _ in pickletools.genops(data):
            if isinstance(argument, str):
                yield argument.encode("utf-8", "surrogatepass")
            elif isinstance(argument, bytes | bytearray):
                yield bytes(argument)
    elif len(data) >= 24 and len(data) % 4 == 0 and not data.translate(None, _BASE64_LETTERS):
        yield base64.b64decode(data.translate(bytes.maketrans(b"-_", b"+/")))


_BASE64_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_="


def things(thing: object) -> Iterator[object]:
    """An object and all that it holds, at any depth; bytes are looked into as pickles too."""
    waiting, seen = [thing], dict[int, object]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        # Held, so that no other thing gets its number.
        seen[id(one)] = one
        yield one
        waiting += _held(one)


def _held(thing: object) -> list[object]:
    if isinstance(thing, Mapping):
        return [*thing.keys(), *thing.values()]
    if isinstance(thing, list | tuple | set | frozenset):
        return list(thing)
    if isinstance(thing, bytes) and thing.startswith(b"\x80") and thing.endswith(b"."):
        return [pickle.loads(thing)]
    if isinstance(thing, str | bytes | int | float | type | ModuleType | None):
        return []
    if isinstance(thing, partial):
        return [thing.func, *thing.args, thing.keywords]
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*getattr(thing, "__dict__", {}).values(), *(getattr(thing, name, None) for name in slots)]
