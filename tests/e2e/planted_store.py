"""Makes a feature store with planted signals directly, without images: every view that the paper's study reads.

    python tests/e2e/planted_store.py FOLDER [PATIENTS [SEED]]

Factors, outcomes and covariates are those of the synthetic cohort (protocol section 7). Memories are 2 × 32 × 64 × 64 as of a
512-pixel network: smooth noise on a 32 × 32 grid, enlarged to 64, with the marrow's and the lesions' uptake as two patterns of
their own, in PET stronger than in CT, in the skeleton a little weaker than in the spine. The ResNet's vectors and the radiomic
features see the same factors through more noise.
"""

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from extractor.phantom_table import clinical_table, draw_factors, patient_ids, truth_table
from store_schema import Encoder, Entry, EntryKey, Intensity, Layout, Prompt, Store, ViewSpec, create_store

SIDE, CHANNELS, LAYERS = 32, 32, 2
FEATURES = tuple(f"feature_{number:02d}" for number in range(60))
STRENGTH = {
    ("PET", "spine_dilated"): 1.0,
    ("PET", "skeleton"): 0.8,
    ("CT", "spine_dilated"): 0.6,
    ("CT", "skeleton"): 0.5,
}
NOISE = 0.35


def view(name: str, layout: Layout) -> ViewSpec:
    return ViewSpec(
        name=name,
        encoder=Encoder(name=f"planted-{name}", image_size=512, weights_sha256="0" * 64, trained=False),
        intensity={"PET": Intensity(unit="SUV", low=0, high=10, outside=0)},
        prompt=Prompt(kind="box", mode="sequential", stride=2),
        layout=layout,
        precision="float32",
        recipe=1,
        grid="ct",
    )


VIEWS = {
    "medsam2": Layout(name="paper", shape=(LAYERS, CHANNELS, 2 * SIDE, 2 * SIDE)),
    "resnet50": Layout(name="vector", shape=(1, 2048, 1, 1)),
    "radiomics": Layout(name="features", shape=(1, len(FEATURES), 1, 1), dtype="float32", features=FEATURES),
}


def smooth(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Noise with a short range in plane, of unit variance."""
    noise = rng.normal(size=shape)
    mixed = noise + np.roll(noise, 1, -1) + np.roll(noise, 1, -2) + np.roll(noise, (1, 1), (-1, -2))
    return mixed / 2


def patterns() -> tuple[np.ndarray, ...]:
    """What everybody shares, what marrow uptake adds, and what lesions add."""
    rng = np.random.default_rng(7)
    row, column = np.mgrid[:SIDE, :SIDE] / SIDE
    spine = np.exp(-(((column - 0.5) / 0.08) ** 2)) * (row > 0.1)
    lesion = np.exp(-(((column - 0.5) / 0.06) ** 2) - ((row - 0.8) / 0.07) ** 2)
    weight = rng.normal(1.0, 0.5, (2, LAYERS, CHANNELS, 1, 1))
    return smooth(rng, LAYERS, CHANNELS, SIDE, SIDE), weight[0] * spine, weight[1] * lesion


def entries(index: int, marrow: float, lesion: float, modality: str, roi: str, shared) -> dict[str, Entry]:
    """One patient's entry in every view."""
    place = list(STRENGTH).index((modality, roi))
    rng = np.random.default_rng([11, index, place])
    strength = STRENGTH[modality, roi]
    base, spine, hot = shared
    memory = base + NOISE * smooth(rng, LAYERS, CHANNELS, SIDE, SIDE)
    memory = memory + strength * (0.6 * marrow * spine + 0.8 * lesion * hot)
    memory = memory.repeat(2, axis=-1).repeat(2, axis=-2).astype(np.float32)
    weights = np.random.default_rng(13).normal(size=(2, 2048))
    vector = strength * (0.25 * marrow * weights[0] + 0.35 * lesion * weights[1]) + rng.normal(size=2048)
    features = rng.normal(size=len(FEATURES))
    features[:3] = strength * np.array([marrow, lesion, marrow + lesion]) + 0.7 * features[:3]
    features[3] = features[0] * 1.01 + 0.01
    return {
        "medsam2": Entry(
            {
                "memory": memory.astype(np.float16),
                "mean_map": memory.mean(axis=(0, 1), dtype=np.float64).astype(np.float32),
            },
            {"valid": [True] * LAYERS},
        ),
        "resnet50": Entry({"memory": vector.astype(np.float16).reshape(1, -1, 1, 1)}, {"valid": [True]}),
        "radiomics": Entry({"memory": features.astype(np.float32).reshape(1, -1, 1, 1)}, {"valid": [True]}),
    }


def fill(store: Store, factors) -> None:
    ids = {name: store.put_view(view(name, layout)) for name, layout in VIEWS.items()}
    shared = patterns()
    marrow = (np.log(factors.marrow_suv) - np.log(1.5)) / 0.35
    lesion = np.log1p(factors.lesion_suv)
    lesion = (lesion - lesion.mean()) / lesion.std()

    def publish(index: int) -> None:
        patient = patient_ids(len(marrow))[index]
        for modality, roi in STRENGTH:
            for name, entry in entries(index, marrow[index], lesion[index], modality, roi, shared).items():
                digest = hashlib.sha256(entry.arrays["memory"].tobytes()).hexdigest()
                store.publish(ids[name], EntryKey(patient, modality, roi), entry, input_sha256=digest)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(publish, range(len(marrow))))


def main(folder: str, patients: str = "227", seed: str = "0") -> None:
    out = Path(folder)
    factors = draw_factors(int(patients), int(seed))
    out.mkdir(parents=True, exist_ok=True)
    fill(create_store(str(out / "store")), factors)
    clinical_table(factors, int(seed)).to_csv(out / "clinical.csv", index=False)
    truth_table(factors).to_csv(out / "truth.csv", index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
