"""Puts a cohort's embeddings into the plane, by principal components and by UMAP; knows no figure's looks."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from trainer.quality.results import Picture, Point
from trainer.quality.standard import Components
from trainer.quality.subjects import Subjects

LEAST_UMAP = 15
"""Patients below which neighbourhoods are no more than the whole cohort."""
NEIGHBOURS = 15
MOST_COMPONENTS = 50
"""Principal components that UMAP sees at most."""


def pictures(
    found: Components,
    patients: Sequence[str],
    subjects: Subjects,
    log_risk: Mapping[str, float],
    *,
    umap: bool,
    seed: int,
) -> tuple[Picture, ...]:
    """The first two components, and UMAP where it was asked for."""
    quarters = quarters_of(patients, log_risk)

    def points(places: Float[np.ndarray, "patient 2"]) -> tuple[Point, ...]:
        made = [
            Point(
                x=float(x),
                y=float(y),
                levels={name: values.get(patient) for name, values in subjects.groups.items()},
                quartile=quarters.get(patient),
            )
            for patient, (x, y) in zip(patients, places.tolist(), strict=True)
        ]
        # by place, so that their order tells nobody
        return tuple(sorted(made, key=lambda one: (one.x, one.y)))

    if len(found.shares) < 2:
        flat = Picture(kind="PCA", reason="embeddings vary in fewer than two directions")
        return (flat, flat.model_copy(update={"kind": "UMAP"})) if umap else (flat,)
    shares = (float(found.shares[0]), float(found.shares[1]))
    made = [Picture(kind="PCA", explained=shares, points=points(found.scores[:, :2]))]
    if umap:
        places, reason = umap_places(found.scores[:, :MOST_COMPONENTS], seed=seed)
        made.append(Picture(kind="UMAP", points=() if places is None else points(places), reason=reason))
    return tuple(made)


def quarters_of(patients: Sequence[str], log_risk: Mapping[str, float]) -> dict[str, int]:
    """Quarter of each of these patients' risks, 1 (lowest) to 4; of those who have one."""
    known = [patient for patient in patients if patient in log_risk]
    if not known:
        return {}
    risks = np.array([log_risk[patient] for patient in known])
    cuts = np.quantile(risks, [0.25, 0.5, 0.75])
    return dict(zip(known, (1 + np.searchsorted(cuts, risks, side="left")).tolist(), strict=True))


def umap_places(
    scores: Float[np.ndarray, "patient component"], *, seed: int
) -> tuple[Float[np.ndarray, "patient 2"] | None, str | None]:
    """Places by UMAP, or why there are none; the same on one machine for one seed.

    References
    ----------
    McInnes, Healy and Melville 2018.
    """
    if len(scores) < LEAST_UMAP:
        return None, f"UMAP was left out: {len(scores)} patients, and it needs {LEAST_UMAP}"
    try:
        with warnings.catch_warnings():
            # its import warns that a part that needs TensorFlow is absent
            warnings.simplefilter("ignore", ImportWarning)
            from umap import UMAP  # noqa: PLC0415 - takes seconds and brings a compiler along
    except (ImportError, RuntimeError) as error:
        # its compiler refuses to be imported where it may keep nothing on disk
        return None, f"UMAP was left out: {error}"
    # one thread and a seed, else places change from run to run; components as a start, since a spectral one can fail
    settings = {"n_neighbors": min(NEIGHBOURS, len(scores) - 1), "init": "pca", "random_state": seed, "n_jobs": 1}
    with warnings.catch_warnings():
        # patients that nobody is near to are drawn all the same
        warnings.simplefilter("ignore", UserWarning)
        places = UMAP(**settings).fit_transform(scores)
    if not np.isfinite(places).all():
        return None, "UMAP was left out: it gave places that are not finite"
    return np.asarray(places, dtype=np.float64), None
