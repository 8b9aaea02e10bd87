"""The pointing game: where the map of a model peaks that was fitted to a planted lesion's uptake, and of models fitted to others'.

A hit, fixed before anything was measured: the peak of the absolute map (the middle of all voxels that share its maximum) lies
inside the lesion (half of its peak uptake or more) or within half a patch of it. The chance rate is the share of voxels under
patches that the view can see which would count as a hit.

`make soak` prints the table that tests/benchmarks/RESULTS.md holds; its files stay in soak-out/ and a rerun resumes.
ENGRAM_POINTING names the games to play, with commas between.

References
----------
Zhang et al. 2018, International Journal of Computer Vision 126:1084 (pointing game, with a tolerance about the object).
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nibabel
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from store_schema import EntryKey, open_store
from trainer.config import parse_config
from trainer.deltas import Asker, deltas
from trainer.dispatch import Workers
from trainer.explain_results import ExplainedPatient, parse_explained
from trainer.explaining import ExplainOptions, explain
from trainer.features import array_read
from trainer.final import fit_final
from trainer.occluded_entries import occlusions_of, read_occluded
from trainer.plan import Inputs
from trainer.predicting import Newcomers, pairs, pinned
from trainer.run import cross_validate
from trainer.saved import read_model
from trainer.sensitivity_map import voxel_map

FOLDER = Path(__file__).resolve().parents[2] / "soak-out" / "pointing"
ROI, SEED, STRIDE = "marrow", 4, 4
TRAINED, NEW, SHUFFLES = 600, 200, 5
EXTRACT = """
model: mini
weights: "random:0"
pet_units: suv
modalities: [PET]
stride: {stride}
mode: {mode}
layouts: [{layout}]
"""


@dataclass(frozen=True)
class Game:
    """One row of the table."""

    mode: str
    layout: str
    where: str
    """Spots in the last two kept slices (`low`) or in any (`any`)."""
    size_mm: float = 40.0
    stride_mm: float = 40.0
    fill: str = "38"
    """The grey level of marrow without spots, or `mean`."""
    head: str = "pca"

    @property
    def name(self) -> str:
        """Of its row and folder."""
        told = [
            self.mode,
            self.layout,
            self.where,
            f"{self.size_mm:g}by{self.stride_mm:g}",
            self.fill,
            self.head,
        ]
        return "-".join(told)

    @property
    def cohort(self) -> str:
        """Of the phantoms, which games share."""
        return self.where

    @property
    def model(self) -> dict[str, object]:
        """Settings of the model; a `paper` map of the narrow network is an enlarged one of 8×8."""
        images = {"modalities": ["PET"], "roi": ROI, "pool": 8 if self.layout == "paper" else 1}
        return {
            "name": "image", "kind": "network", "view": f"mini-untrained-{self.mode}-{self.layout}", "images": images,
            "head": self.head, "components": 16, "hidden": [], "dropout": 0,
        }  # fmt: skip


GAMES = (
    Game("upfront", "paper", "low"),
    Game("upfront", "paper", "low", fill="mean"),
    Game("upfront", "pooled", "any"),
    Game("sequential", "paper", "low"),
)


class Table:
    """A played game: for each model and patient, whether the map peaks at the lesion."""

    def __init__(
        self, folder: Path, game: Game, phantoms: ModuleType, *, trained: int = TRAINED, new: int = NEW
    ) -> None:
        self.folder, self.game, self.trained = folder, game, trained
        self.cohort = folder / game.cohort
        self.out = folder / game.name
        self.radius_mm = phantoms.HALF_MM + game.size_mm / 2
        self._phantoms, self._count = phantoms, trained + new

    def embedded(self, run) -> None:
        """Phantoms, their embeddings, and those of the patients who are looked at with patches hidden."""
        if not (self.cohort / "truth.csv").exists():
            self._phantoms.write_cohort(self.cohort, n=self._count, seed=SEED, where=self.game.where, stride=STRIDE)
        self.out.mkdir(parents=True, exist_ok=True)
        config = self.out / "extract.yaml"
        config.write_text(EXTRACT.format(mode=self.game.mode, layout=self.game.layout, stride=STRIDE))
        told = (str(self.cohort / "studies.csv"), "--store", str(self.store), "--config", str(config))
        run("extractor", "run", *told)
        only = [word for patient in self.newcomers for word in ("--patient", patient)]
        rules = (
            "--size-mm",
            f"{self.game.size_mm:g}",
            "--stride-mm",
            f"{self.game.stride_mm:g}",
            "--fill",
            self.game.fill,
        )
        run("extractor", "occlude", *told, *rules, *only, "--scratch", str(self.out / "scratch"))

    @property
    def store(self) -> Path:
        """Of the cohort, which games share."""
        return self.cohort / "store"

    @property
    def occluded(self) -> str:
        """The occlusion view of the game."""
        store, game = open_store(str(self.store)), self.game
        told = {"occlusion_size_mm": game.size_mm, "occlusion_stride_mm": game.stride_mm, "occlusion_fill": game.fill}
        begin = f"mini-untrained-{game.mode}-{game.layout}-occluded"
        views = [store.view(one) for one in store.view_ids() if one.startswith(begin)]
        (view,) = [one.view_id for one in views if told.items() <= one.flags.items()]
        return view

    @property
    def truth(self) -> pd.DataFrame:
        """Where the spot lies that drives the hazard, and its uptake."""
        spots = pd.read_csv(self.cohort / "truth.csv")
        return spots[spots["drives"]].set_index("patient")

    @property
    def newcomers(self) -> list[str]:
        """Patients who are looked at: they have the lesion, and no model was fitted to them."""
        lesion = self.truth["uptake_suv"][self.trained :]
        return list(lesion.index[lesion > 0])

    def fitted(self, shuffle: int | None) -> tuple[str, float]:
        """A model of the first patients' outcomes, or of those dealt to them anew, and its c-index in cross-validation."""
        name = "true" if shuffle is None else f"shuffle-{shuffle}"
        table = pd.read_csv(self.cohort / "clinical.csv")[: self.trained]
        if shuffle is not None:
            order = np.random.default_rng([SEED, 8, shuffle]).permutation(len(table))
            table = table.assign(**{column: table[column].to_numpy()[order] for column in ("months", "event")})
        table.to_csv(self.out / f"{name}.csv", index=False)
        settings = parse_config(
            {
                "columns": {"time": "months", "time_unit": "months", "event": "event"},
                "splits": {"folds": 5},
                "fit": {"epochs": 200, "learning_rate": 0.01},
                "permuted_control": None,
                "models": [self.game.model],
            }
        )
        inputs, quiet = Inputs(self.out / f"{name}.csv", str(self.store)), Console(file=io.StringIO())
        report = cross_validate(
            settings, inputs, out=str(self.out / f"run-{name}"), workers=Workers(number=0), console=quiet
        )
        (row,) = [row for row in report.results.rows if row.label == "image"]
        model = self.out / f"model-{name}"
        if not model.exists():
            fit_final(report.folder.url, "image", out=str(model))
        return str(model), float(row.mean)

    def explained(self) -> tuple[dict[str, ExplainedPatient], float]:
        """Records of the patients who are looked at, by the true model; and its c-index."""
        model, c = self.fitted(None)
        options = ExplainOptions(model, Newcomers(str(self.store)), self.occluded, tuple(self.newcomers))
        found = explain(options, out=str(self.out / "explained"), told=lambda done, of: None).found
        assert found.failures == {}
        place = self.out / "explained/patients"
        return {one: parse_explained((place / f"{one}.json").read_bytes(), where=one) for one in found.patients}, c

    def hits(self, records: dict[str, ExplainedPatient]) -> pd.Series:
        """Whether the true model's maps peak at the lesion, read from the files that were written."""
        found = {}
        for patient, record in records.items():
            image = nibabel.load(self.out / "explained" / record.images[0].absolute_map)
            found[patient] = self._near(patient, peak_mm(np.nan_to_num(image.get_fdata()), image.affine))
        return pd.Series(found)

    def shuffled(self, shuffle: int) -> float:
        """Share of hits of a model of shuffled outcomes, its deltas taken as `trainer explain` takes them but without pictures."""
        card, trained = read_model(self.fitted(shuffle)[0])
        store, snapshot = pinned(card, Newcomers(str(self.store)))
        occlusions = occlusions_of(store, snapshot.view, self.occluded, pairs(card.model))
        asker, name, found = Asker(card, trained, snapshot.view.layout), array_read(card.model), []
        for patient in self.newcomers:
            key = EntryKey(patient, "PET", ROI)
            stored = snapshot.read(key, arrays=(name,)).arrays[name]
            mine = snapshot.commit(key).input_sha256
            one = read_occluded(card.model, occlusions, key, stored, input_sha256=mine)
            hidden = {"baseline": one.baseline, "embeddings": one.embeddings, "unseen": len(one.told.unseen_zyx)}
            changes = deltas(asker, pd.DataFrame(index=[patient]), {"PET": stored}, modality="PET", **hidden)
            found.append(self._points(patient, one.boxes, np.abs(changes), one.grid))
        return float(np.mean(found))

    def chance(self, records: dict[str, ExplainedPatient]) -> float:
        """Share of the voxels under patches that can be seen which would count as a hit, over all maps."""
        return float(np.mean([self._share(patient, record) for patient, record in records.items()]))

    def brightest(self, records: dict[str, ExplainedPatient]) -> float:
        """Hits by the patch that changes the embedding itself most, whatever a model makes of it."""
        store = open_store(str(self.store))
        view, found = self.occluded, []
        for patient, record in records.items():
            entry = store.read(view, EntryKey(patient, "PET", ROI)).arrays
            apart = entry["occluded_mean_map"].astype(float) - entry["mean_map"]
            boxes = [patch.box_zyx for patch in record.images[0].seen]
            sizes = np.linalg.norm(apart.reshape(len(apart), -1), axis=1)
            found.append(self._points(patient, boxes, sizes, record.images[0].grid))
        return float(np.mean(found))

    def _points(self, patient: str, boxes, scores: np.ndarray, grid) -> bool:
        values = np.nan_to_num(voxel_map(boxes, scores, grid.shape_zyx).transpose(2, 1, 0))
        return bool(self._near(patient, peak_mm(values, lps_to_ras(grid))))

    def _share(self, patient: str, record: ExplainedPatient) -> float:
        image = record.images[0]
        covered = ~np.isnan(voxel_map([p.box_zyx for p in image.seen], np.zeros(len(image.seen)), image.grid.shape_zyx))
        places = np.argwhere(covered.transpose(2, 1, 0))
        return float(self._near(patient, nibabel.affines.apply_affine(lps_to_ras(image.grid), places)).mean())

    def _near(self, patient: str, place_ras_mm: np.ndarray) -> np.ndarray:
        x, y, z = self.truth.loc[patient, ["x_mm", "y_mm", "z_mm"]]
        return np.linalg.norm(place_ras_mm - (-x, -y, z), axis=-1) <= self.radius_mm


def peak_mm(values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Millimetres of the middle of the voxels that share a map's maximum; nowhere where it is 0 throughout."""
    if values.max() == 0:
        return np.full(3, np.inf)
    return nibabel.affines.apply_affine(affine, np.argwhere(values >= values.max() * (1 - 1e-6)).mean(axis=0))


def lps_to_ras(grid) -> np.ndarray:
    """Affine of an axis-aligned grid."""
    affine = np.diag([-grid.spacing_xyz_mm[0], -grid.spacing_xyz_mm[1], grid.spacing_xyz_mm[2], 1.0])
    affine[:3, 3] = -grid.origin_xyz_mm[0], -grid.origin_xyz_mm[1], grid.origin_xyz_mm[2]
    return affine


def played(table: Table, run, shuffles: int = SHUFFLES) -> SimpleNamespace:
    """Rates of hits by the true model, by those of shuffled outcomes, by brightness, and by chance."""
    table.embedded(run)
    records, c = table.explained()
    hits, others = table.hits(records), [table.shuffled(shuffle) for shuffle in range(shuffles)]
    uptake = table.truth.loc[hits.index, "uptake_suv"]
    return SimpleNamespace(
        c=c, hits=float(hits.mean()), others=others, chance=table.chance(records), brightest=table.brightest(records),
        missed_suv=[round(float(one), 1) for one in uptake[~hits]],
    )  # fmt: skip


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("game", GAMES, ids=lambda game: game.name)
def test_a_map_peaks_at_the_lesion_that_drives_the_risk(game, run, load):
    asked = os.environ.get("ENGRAM_POINTING")
    if asked and game.name not in asked.split(","):
        pytest.skip(f"ENGRAM_POINTING asks for {asked}")
    found = played(Table(FOLDER, game, load("e2e", "pointing_phantoms")), run)
    others = ", ".join(f"{one:.2f}" for one in found.others)
    print(
        f"\n| {game.name} | {found.c:.3f} | {found.hits:.2f} | {np.mean(found.others):.2f} ({others}) | {found.brightest:.2f} | "
        f"{found.chance:.2f} | {found.missed_suv} |",
        flush=True,
    )
    assert found.hits >= 0.9
    assert found.hits > np.mean(found.others) + 0.2
    assert found.hits > found.chance + 0.2
