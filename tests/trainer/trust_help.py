"""Plants a store whose views hold a known share of the signal, for tests of what controls tell; knows no model."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from store_schema import Entry, EntryKey, Layout, Prompt, Store, ViewSpec, create_store
from store_schema.records import Source

SIDE = 8
CONTROLS = ("random_boxes", "elsewhere", "constant")
SHARES = {
    "base": 1.0,
    "random_boxes": 0.0,
    "elsewhere": 0.0,
    "constant": 0.0,
    "encoder": 0.5,
    "upfront.paper": 0.5,
    "sequential.pooled": 1.0,
    "padding": 1.0,
}
"""Of the signal, by view."""


def draw(n: int, seed: int) -> pd.DataFrame:
    """Patients whose outcome follows z far more than in the ordinary cohort, so that few tell views apart."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    onset = 36 * (rng.exponential(size=n) * np.exp(-3 * z)) ** (1 / 1.2)
    censored = rng.uniform(20, 300, n)
    return pd.DataFrame(
        {
            "patient": [f"P{row:03d}" for row in range(n)],
            "age": rng.normal(60, 10, n).round(),
            "stage": rng.choice(["I", "II", "III"], n),
            "months": np.ceil(np.minimum(onset, censored)),
            "event": (onset <= censored).astype(int),
            "z": z,
            "log_hazard": 3 * z,
        }
    )


def base_view(tiny: ViewSpec) -> ViewSpec:
    """The view of a study's rows: sequential prompts, the paper's layout."""
    layout = Layout(name="paper", shape=(2, 4, SIDE, SIDE))
    return tiny.model_copy(update={"layout": layout, "flags": {"fill_hole_area": 0}})


def perturbed(base: ViewSpec, kind: str, **flags: object) -> ViewSpec:
    """As `extractor perturb` calls it."""
    told = {**base.flags, "perturbation": kind, **{f"perturbation_{name}": value for name, value in flags.items()}}
    suffix = "".join(
        f"-{value:g}mm" if name == "size_mm" else f"-seed{value}" for name, value in flags.items() if value
    )
    return base.model_copy(update={"name": f"{base.name}-{kind}{suffix}", "flags": told})


def encoder_view(base: ViewSpec, aggregate: str = "last2") -> ViewSpec:
    """As `baselines: [hiera-last2]` or `[hiera]` makes it."""
    last = aggregate == "last2"
    layout = Layout(
        name="last2-map" if last else "vector",
        shape=(2, 1, SIDE, SIDE) if last else (1, 6, 1, 1),
        dtype=None if last else "float32",
    )
    prompt = Prompt(kind="none", mode="slices", stride=base.prompt.stride)
    flags = {"baseline": "hiera", "crop": "slice", "aggregate": aggregate, "read": "top level of the neck"}
    name = f"{base.name}-hiera" + ("-last2" if last else "")
    return base.model_copy(update={"name": name, "layout": layout, "prompt": prompt, "flags": flags})


def other_way(base: ViewSpec, mode: str, layout: str) -> ViewSpec:
    """The same in another mode, or packed in another layout."""
    shape = {"paper": (2, 4, SIDE, SIDE), "pooled": (1, 4, SIDE, SIDE), "thirds": (3, 4, SIDE, SIDE)}[layout]
    prompt = base.prompt.model_copy(update={"mode": mode})
    changed = {"name": f"{base.name}-{mode}-{layout}", "prompt": prompt, "layout": Layout(name=layout, shape=shape)}
    return base.model_copy(update=changed)


def planted_views(base: ViewSpec) -> dict[str, ViewSpec]:
    """A view of every kind that a study is held against, by the names of `SHARES`."""
    return {
        "base": base,
        "random_boxes": perturbed(base, "random_boxes", seed=0),
        "elsewhere": perturbed(base, "elsewhere", seed=0),
        "constant": perturbed(base, "constant"),
        "encoder": encoder_view(base),
        "upfront.paper": other_way(base, "upfront", "paper"),
        "sequential.pooled": other_way(base, "sequential", "pooled"),
        "padding": perturbed(base, "padding", size_mm=5.0),
    }


def fill(
    store: Store,
    view: ViewSpec,
    table: pd.DataFrame,
    share: float,
    *,
    seed: int,
    noise: float = 1.0,
    modalities: tuple[str, ...] = ("PET",),
    roi: str = "spine",
    sources: Sequence[Source] = (),
) -> str:
    """Entries of a view that hold so much of each patient's z, the rest noise of their own."""
    view_id = store.put_view(view)
    for row, (patient, z) in enumerate(zip(table["patient"], table["z"], strict=True)):
        for place, modality in enumerate(modalities):
            entry = planted_entry(view, share * z, [seed, row, place], noise)
            digest = hashlib.sha256(entry.arrays["memory"].tobytes() + patient.encode()).hexdigest()
            store.publish(view_id, EntryKey(patient, modality, roi), entry, input_sha256=digest, sources=sources)
    return view_id


def planted_entry(view: ViewSpec, signal: float, seed: list[int], noise: float) -> Entry:
    """Noise with a blob as bright as the signal, which is as noisy as `noise` in all of it."""
    rng = np.random.default_rng(seed)
    memory = rng.normal(size=view.layout.shape).astype(np.float32)
    value = np.float32(signal + noise * rng.normal())
    if memory.shape[-1] == 1:
        memory[:, :3] += value
        return Entry({"memory": memory}, {"valid": [True]})
    memory[..., 2:5, 3:6] += value
    arrays = {"memory": memory.astype(np.float16), "mean_map": memory.mean(axis=(0, 1)).astype(np.float32)}
    return Entry(arrays, {"valid": [True] * memory.shape[0]})


def plant(
    folder: Path,
    tiny: ViewSpec,
    table: pd.DataFrame,
    *,
    names: Sequence[str] = tuple(SHARES),
    modalities: tuple[str, ...] = ("PET",),
) -> tuple[Store, ViewSpec]:
    """A store with these views and a clinical table beside it; gives the store and the base."""
    folder.mkdir(parents=True, exist_ok=True)
    store, base = create_store(folder / "store"), base_view(tiny)
    for seed, (name, view) in enumerate(planted_views(base).items()):
        if name in names:
            # what is only padded shows the same patients
            own = 0 if name == "padding" else seed
            share = SHARES[name]
            noise = (1.0 - share**2) ** 0.5 if share < 1.0 else 0.17 if name == "padding" else 0.15
            fill(store, view, table, share, seed=own, noise=noise, modalities=modalities)
    table.drop(columns=["z", "log_hazard"]).to_csv(folder / "clinical.csv", index=False)
    return store, base


def study_settings(kit_settings: dict[str, Any], base: ViewSpec, **changes: Any) -> dict[str, Any]:
    """A study of one quick row on the base's maps, pixel by pixel."""
    given = {name: value for name, value in kit_settings.items() if name != "models"}
    row = {
        "origin": ["PET"],
        "mask": ["spine"],
        "model": ["MedSAM2"],
        "downsampling": ["flatten"],
        "settings": {"hidden": []},
    }
    fit = {"epochs": 30, "min_epochs": 1, "min_validation_events": 2, "learning_rate": 0.01}
    return {**given, "fit": fit, "views": {"MedSAM2": base.view_id}, "rows": [row], **changes}
