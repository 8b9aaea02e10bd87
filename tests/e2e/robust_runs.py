"""Perturbed extractions and their judgement by the programs, for tests of robustness, and their tables; asserts nothing."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk  # noqa: N813 - the usual name

from store_schema import Store, open_store
from trainer.robustness.results import PerturbedView, Robustness, Spread

Run = Callable[..., None]
"""Takes a program and its arguments, and fails where it does not end well."""
Kinds = Sequence[tuple[str, tuple[float, ...]]]
"""Kinds and their sizes; none for the negative controls."""
SUVMAX, VOLUME = 0.8, 0.5
"""Weights of both, as logarithms standardised over the patients, in the planted log-hazard."""
SHAPE, SCALE_MONTHS = 1.2, 36.0


# Real patients


def real_patients() -> list[Path]:
    """Folders of the soft-tissue-sarcoma patients, fewest slices with tumour first."""
    root = os.environ.get("ENGRAM_REAL_DATA")
    if not root:
        pytest.skip("ENGRAM_REAL_DATA is not set: no real PET/CT")
    folders = [path for path in Path(root, "sts").iterdir() if path.is_dir()]
    return sorted(folders, key=lambda folder: (_slices(folder), folder.name))


def _slices(folder: Path) -> int:
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "MASK_CT.nii.gz")))
    return int((mask != 0).any(axis=(1, 2)).sum())


def write_studies(patients: Sequence[Path], folder: Path, **settings: Any) -> None:
    """The table of these patients, and the settings of their extraction by an untrained network."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "studies.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["patient", "ct", "pet", "tumour"])
        for one in sorted(patients):
            writer.writerow([one.name, one / "CT.nii.gz", one / "PET.nii.gz", one / "MASK_CT.nii.gz"])
    write_settings(folder, pet_units="suv", **settings)


def write_settings(folder: Path, **settings: Any) -> None:
    """Settings of an extraction, as JSON, which is YAML."""
    chosen = {"weights": "random:0", "layouts": ["paper"], **settings}
    (folder / "extract.yaml").write_text(json.dumps(chosen))


def planted_outcomes(patients: Sequence[Path], seed: int = 0) -> pd.DataFrame:
    """Months and events drawn from a hazard on what the tumour takes up; the patients' own times are not known.

    Log-hazard 0.8 z(ln SUVmax) + 0.5 z(ln metabolic volume), Weibull of shape 1.2 and scale 36 months, censoring uniform over 12 to
    120 months, whole months.
    """
    drawn, chosen = np.random.default_rng(seed), sorted(patients)
    z = pd.DataFrame([_uptake(one) for one in chosen]).apply(lambda one: (one - one.mean()) / one.std()).to_numpy()
    months = SCALE_MONTHS * drawn.weibull(SHAPE, len(z)) * np.exp(-z @ [SUVMAX, VOLUME] / SHAPE)
    censored = drawn.uniform(12, 120, len(z))
    return pd.DataFrame(
        {
            "patient": [one.name for one in chosen],
            "months": np.ceil(np.minimum(months, censored)).astype(int),
            "event": (months <= censored).astype(int),
        }
    )


def _uptake(folder: Path) -> tuple[float, float]:
    """ln SUVmax and ln volume in ml, on the PET's own grid."""
    pet, mask = (sitk.ReadImage(str(folder / name)) for name in ("PET.nii.gz", "MASK_PET.nii.gz"))
    inside = sitk.GetArrayFromImage(mask) != 0
    volume_ml = inside.sum() * np.prod(pet.GetSpacing()) / 1000
    return float(np.log(sitk.GetArrayFromImage(pet)[inside].max())), float(np.log(volume_ml))


# Programs


def store_of(folder: Path) -> Store:
    """The store that everything is extracted into."""
    return open_store(str(folder / "store"))


def base_view(store: Store) -> str:
    """The view that nothing disturbs."""
    (view,) = (one for one in store.view_ids() if "perturbation" not in store.view(one).flags)
    return view


def extract(run: Run, folder: Path, kinds: Kinds, *, judged: str = "studies.csv") -> str:
    """The base view of all studies, and each kind and size of those that are judged; says how long each took."""
    where = ("--store", str(folder / "store"), "--config", str(folder / "extract.yaml"), "--jobs", "0")
    _timed("undisturbed", run, "extractor", "run", str(folder / "studies.csv"), *where)
    for kind, sizes in kinds:
        asked = [word for size in sizes for word in ("--size", f"{size:g}")]
        name = f"{kind} {' '.join(f'{size:g}' for size in sizes)}"
        _timed(name, run, "extractor", "perturb", str(folder / judged), *where, "--kind", kind, *asked)
    return base_view(store_of(folder))


def fit_image_model(run: Run, folder: Path, clinical: Path, settings: dict[str, Any]) -> Path:
    """The model `image` of the settings, fitted on everybody in a table."""
    (folder / "cv.yaml").write_text(json.dumps(settings))
    inputs = ("--store", str(folder / "store"), "--clinical", str(clinical), "--config", str(folder / "cv.yaml"))
    _timed("fit", run, "trainer", "cv", *inputs, "--out", str(folder / "run"), "--workers", "0")
    if not (folder / "model").exists():
        run("trainer", "fit", str(folder / "run"), "--model", "image", "--out", str(folder / "model"))
    return folder / "model"


def judge(run: Run, folder: Path, *more: str) -> Robustness:
    """What `trainer robustness` finds of every perturbed view of the store."""
    store, out = store_of(folder), folder / "robustness"
    base = base_view(store)
    named = [word for view in store.view_ids() if view != base for word in ("--perturbed", view)]
    _timed(
        "judged", run, "trainer", "robustness", "--store", store.url, "--base", base, *named, *more, "--out", str(out)
    )
    return Robustness.model_validate_json((out / "robustness.json").read_text())


def _timed(name: str, run: Run, *words: str) -> None:
    began_s = time.perf_counter()
    run(*words)
    print(f"{name.strip()}: {time.perf_counter() - began_s:.0f} s", flush=True)


# Tables


def of_kind(found: Robustness, kind: str) -> list[PerturbedView]:
    """Views of a kind, by size."""
    return [view for view in found.views if view.kind == kind]


def icc_of(view: PerturbedView, modality: str) -> Spread:
    """ICC over the features of one modality, which has a region alone."""
    (one,) = (one for one in view.embeddings if one.modality == modality)
    assert one.icc is not None
    return one.icc


def moved_of(view: PerturbedView, modality: str) -> Spread:
    """Relative distance over patients in one modality."""
    (one,) = (one for one in view.embeddings if one.modality == modality)
    return one.relative_l2


def show(found: Robustness) -> None:
    """A row for each view: ICC over features and distance over patients, median [quartiles]; of risks with 95% intervals."""
    places = [f"{one.modality}: patients {one.patients}" for one in found.views[0].embeddings]
    print(f"\n{', '.join(places)}; {found.entries} entries")
    for view in found.views:
        print(f"| {' | '.join([view.label, *_embedding_cells(view), *_risk_cells(view)])} |")
    for note in found.notes:
        print(f"note: {note}")
    for kind in dict.fromkeys(view.kind for view in found.views):
        for modality in dict.fromkeys(one.modality for one in found.views[0].embeddings):
            medians = [icc_of(view, modality).median for view in of_kind(found, kind)]
            if len(medians) > 1:
                falls = "falls" if all(later <= earlier for earlier, later in pairwise(medians)) else "DOES NOT FALL"
                print(
                    f"ICC of {modality} {falls} with the size of {kind}: {', '.join(f'{one:.3f}' for one in medians)}"
                )


def _embedding_cells(view: PerturbedView) -> Iterable[str]:
    for one in view.embeddings:
        for spread in (one.icc, one.relative_l2):
            yield "–" if spread is None else f"{spread.median:.3f} [{spread.lower:.3f}, {spread.upper:.3f}]"


def _risk_cells(view: PerturbedView) -> Iterable[str]:
    if (risk := view.risk) is None:
        return
    number = risk.icc
    yield "–" if number.value is None else f"{number.value:.3f} [{number.low:.3f}, {number.high:.3f}]"
    yield "–" if risk.spearman is None else f"{risk.spearman:.3f}"
    yield f"{risk.mean_rank_change:.1f}"
    yield f"{risk.changed_group:.0%}"
    if risk.c.change is not None:
        yield f"{risk.c.change:+.3f} [{risk.c.low:+.3f}, {risk.c.high:+.3f}]"


def show_misplaced(folder: Path, kind: str) -> None:
    """How much of the misplaced boxes lies where it should not."""
    store = store_of(folder)
    (view,) = (one for one in store.view_ids() if store.view(one).flags.get("perturbation") == kind)
    told = [store.read(view, key).attributes["perturbation"] for key in store.keys(view)]
    shares, bones = np.concatenate([one["unwanted_share"] for one in told]), any(one["bones_known"] for one in told)
    print(
        f"{kind}: {len(shares)} boxes, bones {'known' if bones else 'not known'}; {np.mean(shares > 0):.0%} of them lie in part "
        f"where they should not, {shares.mean():.3f} of a box on average, {shares.max():.3f} at most"
    )
