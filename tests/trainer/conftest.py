"""A small cohort with a planted signal: a store of mean maps, a clinical table, the truth, and a config."""

import copy
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from store_schema import Encoder, Entry, EntryKey, Intensity, Layout, Prompt, Store, ViewSpec, create_store
from store_schema.published import PublishedCurves, PublishedRun
from trainer.cohort import Cohort
from trainer.config import RunConfig, parse_config
from trainer.dispatch import Workers
from trainer.model_config import FittedModel
from trainer.part_data import PartData
from trainer.plan import Inputs
from trainer.preprocess import PreprocessRules
from trainer.publishing import publish_run
from trainer.report.reading import read_run
from trainer.results import RunResults, parse_results
from trainer.run import CvReport, cross_validate
from trainer.run_folder import RunFolder
from trainer.splits import make_splits
from trainer.stored_images import StoredImages

SIDE, PATIENTS = 8, 40
VIEW = ViewSpec(
    name="tiny",
    encoder=Encoder(name="tiny", image_size=64, weights_sha256="0" * 64, trained=False),
    intensity={"PET": Intensity(unit="SUV", low=0, high=10, outside=0)},
    prompt=Prompt(kind="box", mode="sequential", stride=2),
    layout=Layout(name="pooled", shape=(1, 4, SIDE, SIDE)),
    precision="float32",
    recipe=1,
    grid="ct",
)
SHORT = {"epochs": 3, "min_epochs": 1, "min_validation_events": 2}
CONFIG: dict[str, Any] = {
    "columns": {
        "time": "months",
        "time_unit": "months",
        "event": "event",
        "continuous": ["age"],
        "categorical": ["stage"],
    },
    "splits": {"folds": 3},
    "fit": SHORT,
    "permuted_control": None,
    "models": [
        {"name": "cox", "kind": "ridge_cox"},
        {
            "name": "image",
            "kind": "network",
            "view": "tiny",
            "images": {"roi": "spine"},
            "fusion": "gate",
            "hidden": [4],
        },
    ],
}


def draw(n: int = PATIENTS, seed: int = 0) -> pd.DataFrame:
    """Patients with a signal z in images and an age that matters."""
    rng = np.random.default_rng(seed)
    z, age = rng.normal(size=n), rng.normal(60, 10, n).round()
    log_hazard = 1.5 * z + 0.05 * (age - 60)
    onset = 36 * (rng.exponential(size=n) * np.exp(-log_hazard)) ** (1 / 1.2)
    censored = rng.uniform(12, 140, n)
    return pd.DataFrame(
        {
            "patient": [f"P{row:03d}" for row in range(n)],
            "age": age,
            "stage": rng.choice(["I", "II", "III"], n),
            "months": np.ceil(np.minimum(onset, censored)),
            "event": (onset <= censored).astype(int),
            "z": z,
            "log_hazard": log_hazard,
        }
    )


def entry(z: float, seed: list[int]) -> Entry:
    """Noise with a blob as bright as the signal."""
    rng = np.random.default_rng(seed)
    memory = rng.normal(size=(1, 4, SIDE, SIDE)).astype(np.float32)
    memory[:, :, 2:5, 3:6] += np.float32(z)
    return Entry({"memory": memory.astype(np.float16), "mean_map": memory.mean(axis=(0, 1))}, {"valid": [True]})


def fill(store: Store, table: pd.DataFrame, *, seed: int = 0) -> str:
    view = store.put_view(VIEW)
    for row, (patient, z) in enumerate(zip(table["patient"], table["z"], strict=True)):
        for channel, modality in enumerate(("PET", "CT")):
            made = entry(z if modality == "PET" else 0.3 * z, [seed, row, channel])
            digest = hashlib.sha256(made.arrays["mean_map"].tobytes()).hexdigest()
            store.publish(view, EntryKey(patient, modality, "spine"), made, input_sha256=digest)
    return view


@pytest.fixture(scope="session")
def cohort_folder(tmp_path_factory) -> Path:
    """`store`, `clinical.csv`, `truth.csv`; tests that write copy what they change."""
    folder = tmp_path_factory.mktemp("cohort")
    table = draw()
    fill(create_store(folder / "store"), table)
    table.drop(columns=["z", "log_hazard"]).to_csv(folder / "clinical.csv", index=False)
    table[["patient", "z", "log_hazard"]].to_csv(folder / "truth.csv", index=False)
    return folder


@pytest.fixture
def config() -> Callable[..., RunConfig]:
    """Makes the small config with some settings replaced."""
    return lambda **changes: parse_config({**copy.deepcopy(CONFIG), **changes})


@pytest.fixture
def write_config(tmp_path) -> Callable[..., Path]:
    """Writes the small config, with some settings replaced, as a file."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "cv.yaml"
        path.write_text(yaml.safe_dump({**copy.deepcopy(CONFIG), **changes}))
        return path

    return write


@pytest.fixture(scope="session")
def make_part() -> Callable[..., PartData]:
    """Makes the data of one fold, of four fifths training patients, from arrays that stand for a store's."""

    def make(
        model: FittedModel,
        table: pd.DataFrame,
        arrays: dict[str, np.ndarray] | None = None,
        *,
        features: tuple[str, ...] = (),
        permuted: int | None = None,
    ) -> PartData:
        patients = tuple(table["patient"])
        frame = table[["age", "stage"]].set_axis(pd.Index(patients, dtype=object), axis=0)
        time, event = table["months"].to_numpy(dtype=float), table["event"].to_numpy() == 1
        cohort = Cohort(patients, time, event, frame, "months", patients)
        cohort = cohort if permuted is None else cohort.permuted([permuted])
        return PartData.of(
            model,
            cohort=cohort,
            fold=make_splits(cohort, folds=5, seed=1).fold(0),
            stream=(0,),
            split_seed=1,
            rules=PreprocessRules(),
            images=None if arrays is None else StoredImages(arrays, features),
        )

    return make


@pytest.fixture(scope="session")
def tiny_view() -> ViewSpec:
    """Specification of the small view, to be changed."""
    return VIEW


def new_kit() -> SimpleNamespace:
    settings = copy.deepcopy(CONFIG)
    return SimpleNamespace(
        draw=draw, entry=entry, fill=fill, view=VIEW, settings=settings, short=SHORT, parse=parse_config
    )


@pytest.fixture
def kit() -> SimpleNamespace:
    """What makes other cohorts and stores than the shared one."""
    return new_kit()


@pytest.fixture(scope="session")
def shared_kit() -> SimpleNamespace:
    """The same for fixtures of a whole module; nobody changes it."""
    return new_kit()


@pytest.fixture
def cv(cohort_folder, config, tmp_path):
    """Runs the small cross-validation in this process, some settings or inputs replaced."""

    def run(name="run", *, inputs=None, workers=None, **changes) -> CvReport:
        given = {
            "clinical": cohort_folder / "clinical.csv",
            "store_url": str(cohort_folder / "store"),
            **(inputs or {}),
        }
        return cross_validate(
            config(**changes),
            Inputs(**given),
            out=str(tmp_path / name),
            workers=workers or Workers(number=0),
            console=Console(file=io.StringIO()),
        )

    return run


@pytest.fixture
def table(cohort_folder, tmp_path):
    """Writes the clinical table with something changed."""

    def write(change):
        frame = pd.read_csv(cohort_folder / "clinical.csv")
        change(frame)
        path = tmp_path / "changed.csv"
        frame.to_csv(path, index=False)
        return {"clinical": path}

    return write


@pytest.fixture(scope="session")
def named_run(shared_kit, tmp_path_factory) -> SimpleNamespace:
    """A finished run of every kind of row whose patients are called by names."""
    folder = tmp_path_factory.mktemp("named")
    table = shared_kit.draw(42)
    kin = ["NOWAK-1.a", "NOWAK-1.b", "NOWAK-2.a", "NOWAK-2.b"]
    table["patient"] = [*kin, *(f"KOWALSKA-{row:03d}" for row in range(36)), "WEGGELASSEN-901", "IMLAGER-902"]
    shared_kit.fill(create_store(folder / "store"), table)
    table["months"] = table["months"].where(table["patient"] != "WEGGELASSEN-901")
    listed = table[table["patient"] != "IMLAGER-902"]
    listed.drop(columns=["z", "log_hazard"]).to_csv(folder / "clinical.csv", index=False)
    table[["patient", "log_hazard"]].to_csv(folder / "truth.csv", index=False)
    image = {"kind": "network", "view": "tiny", "images": {"roi": "spine"}, "hidden": [4]}
    config = shared_kit.parse(
        {
            **{name: value for name, value in shared_kit.settings.items() if name != "models"},
            "search": {"mode": "paper", "points": 2},
            "models": [
                {"name": "cox", "kind": "ridge_cox"},
                {"name": "image", "fusion": "gate", **image},
                {"name": "both", "clinical": True, **image},
                {"name": "tuned", "kind": "ridge_cox", "search": {"penalty": {"choice": [1.0, 10.0]}}},
            ],
            "permuted_control": {"models": ["cox"], "repeats": 19},
            "oracle": {"table": str(folder / "truth.csv"), "columns": ["log_hazard"]},
        }
    )
    report = cross_validate(
        config,
        Inputs(folder / "clinical.csv", str(folder / "store")),
        out=str(folder / "run"),
        workers=Workers(number=0),
        console=Console(file=io.StringIO()),
    )
    assert report.results.complete
    assert [step.excluded for step in report.plan.cohort.flow if step.excluded] == [1]
    assert report.plan.cohort.only_in_store == ("IMLAGER-902",)
    return SimpleNamespace(folder=folder, run=folder / "run", config=config)


@pytest.fixture(scope="session")
def published_run(named_run, tmp_path_factory) -> SimpleNamespace:
    """The run in a store, with its records parsed."""
    store = create_store(tmp_path_factory.mktemp("published") / "store")
    made = publish_run(str(named_run.run), store, clock=lambda: "2031-02-03T04:05:06Z")
    records = {name: store.read_run(made.run_id, name) for name in store.run_names(made.run_id)}
    return SimpleNamespace(
        store=store,
        made=made,
        records=records,
        summary=PublishedRun.parse(records["trainer.json"], where="trainer.json"),
        curves=PublishedCurves.parse(records["km.json"], where="km.json"),
        results=parse_results((named_run.run / "results.json").read_bytes(), where=""),
        finished=read_run(RunFolder.open(str(named_run.run))),
    )


@pytest.fixture(scope="session")
def folded(cohort_folder, shared_kit, tmp_path_factory) -> Path:
    """A store of views, base and disturbed, in `store`, and in `run` a finished run of every kind of row on the base."""
    from .folds_help import make_folded  # noqa: PLC0415 - this file is also loaded alone

    return make_folded(tmp_path_factory.mktemp("folds"), cohort_folder, shared_kit)


@pytest.fixture
def change_results():
    """Changes members of a run folder's results.json."""

    def change(run: Path, **changes: Any) -> None:
        results = parse_results((run / "results.json").read_bytes(), where="")
        told = {**json.loads(results.to_json()), **changes}
        (run / "results.json").write_bytes(RunResults.model_validate(told).to_json())

    return change
