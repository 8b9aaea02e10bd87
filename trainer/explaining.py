"""Explains a kept model patient by patient from embeddings with patches hidden, and keeps what was found; fits nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float

from store_schema import EntryKey, Snapshot, Store
from store_schema.errors import EngramError, UsageError
from store_schema.pseudonyms import PSEUDONYM, PlainIds
from store_schema.records import canonical_json, sha256
from trainer.attribution import attribution, attribution_csv, deltas_csv
from trainer.deltas import Asker, deltas
from trainer.explain_results import (
    ATTRIBUTION,
    DELTAS,
    EXPLANATION,
    ExplainedImage,
    ExplainedPatient,
    Explanation,
    PatchDelta,
    PatchRules,
    parse_explained,
)
from trainer.features import array_read, check_view
from trainer.nifti import nifti_bytes
from trainer.occluded_entries import Occluded, occlusions_of, read_occluded, rules_of
from trainer.predicting import Newcomers, available, pairs, pinned, risk_group, who
from trainer.report.overlay_figure import Overlay, draw_overlay
from trainer.run_folder import RunFolder
from trainer.saved import card_sha256, read_model
from trainer.sensitivity_map import voxel_map
from trainer.versions import versions

FAILURES = (EngramError, OSError, RuntimeError, MemoryError)
"""What one patient may end in while the others go on; torch raises RuntimeError."""


@dataclass(frozen=True)
class ExplainOptions:
    """Which model is explained, on whom."""

    model_url: str
    newcomers: Newcomers
    """Store, snapshot of the model's view, covariates."""
    occlusion: str | None = None
    """Occlusion view, or snapshot of one; the only one of the model's view by default."""
    patients: tuple[str, ...] = ()
    """As the table or the store calls them; none for all who have an entry."""


@dataclass(frozen=True)
class ExplainReport:
    """What came of it."""

    found: Explanation
    folder: RunFolder
    resumed: int
    """Patients whom an earlier call had done."""


def explain(options: ExplainOptions, *, out: str, told: Callable[[int, int], None]) -> ExplainReport:
    """Change of every patient's log-risk with each patch of each image hidden, its maps and pictures; a rerun resumes.

    Parameters
    ----------
    out
        Folder, or address of one.
    told
        Told how many of how many patients are done.

    Raises
    ------
    UsageError, ConfigError
        If the model reads no image, or what was asked for does not belong to it; nothing was done.
    NotCommittedError
        If the store has no embeddings with patches hidden of the model's view.

    References
    ----------
    Guinea-Pérez et al. 2026, Appendix A.
    """
    return options.newcomers.ids.filtered(lambda: _explained(options, out, told))


def _explained(options: ExplainOptions, out: str, told: Callable[[int, int], None]) -> ExplainReport:
    folder, work = RunFolder.open(out), _prepared(options)
    done: list[ExplainedPatient] = []
    failures, resumed = dict(work.left_out), 0
    told(0, len(work.patients))
    for number, patient in enumerate(work.patients, start=1):
        try:
            before = work.kept(patient, folder)
            done.append(before or work.explained(patient, folder))
            resumed += before is not None
        except FAILURES as error:
            failures[patient] = options.newcomers.ids.clean(f"{type(error).__name__}: {error}")
        told(number, len(work.patients))
    found = work.summed_up(done, failures)
    folder.replace(DELTAS, deltas_csv(done, found.risk_sd))
    folder.replace(ATTRIBUTION, attribution_csv(found.attribution, found.risk_sd))
    # last: a folder without it holds no finished explanation
    folder.replace(EXPLANATION, found.to_json())
    return ExplainReport(found, folder, resumed)


def _prepared(options: ExplainOptions) -> "_Work":
    """All that is refused is refused here."""
    newcomers = options.newcomers
    card, trained = read_model(options.model_url)
    held = pinned(card, newcomers)
    if held is None:
        raise UsageError(f"model {card.name!r} reads covariates alone: there is no image whose patches could be hidden")
    store, snapshot = held
    check_view(card.model, snapshot.view)
    occlusions = occlusions_of(store, snapshot.view, options.occlusion, pairs(card.model))
    wanted = set(pairs(card.model))
    having = {key.patient for key in occlusions.keys if (key.modality, key.roi) in wanted}
    chosen = _chosen(options.patients, having, newcomers.ids, occlusions.view_id)
    named, frame, left_out = who(card, newcomers, available(card, snapshot))
    return _Work(
        asker=Asker(card, trained, snapshot.view.layout),
        card_sha256=card_sha256(options.model_url),
        store=store,
        snapshot=snapshot,
        occlusions=occlusions,
        rules=rules_of(occlusions.view),
        patients=tuple(sorted(chosen & set(named))),
        frame=frame,
        left_out={patient: left_out.get(patient, NO_ENTRY) for patient in sorted(chosen - set(named))},
    )


NO_ENTRY = "no entry of the view that the model reads"


def _chosen(asked: Sequence[str], having: set[str], ids: PlainIds, view: str) -> set[str]:
    """Patients asked for, as the store calls them."""
    if not asked:
        return having
    keys = {one if one in having and PSEUDONYM.fullmatch(one) else ids.name(one) for one in asked}
    if unknown := sorted(keys - having):
        raise UsageError(f"occlusion view {view} has no entry of {', '.join(unknown)}: `extractor occlude` makes them")
    return keys


@dataclass(frozen=True)
class _Work:
    asker: Asker
    card_sha256: str
    store: Store
    snapshot: Snapshot
    occlusions: Snapshot
    rules: PatchRules
    patients: tuple[str, ...]
    """To explain, in order."""
    frame: pd.DataFrame
    """Their covariates."""
    left_out: Mapping[str, str]

    @cached_property
    def code(self) -> dict[str, str]:
        """Versions of all that can change a number."""
        return versions()

    def kept(self, patient: str, folder: RunFolder) -> ExplainedPatient | None:
        """What an earlier call found of the very same inputs, where all of it is there."""
        name = _record(patient)
        data = folder.read(name)
        if data is None:
            return None
        found = parse_explained(data, where=f"{folder.url}/{name}")
        files = [file for image in found.images for file in image.files]
        whole = found.inputs_sha256 == self._inputs(patient) and all(map(folder.location.exists, files))
        return found if whole else None

    def explained(self, patient: str, folder: RunFolder) -> ExplainedPatient:
        """Risk, deltas, maps and pictures of a patient; the record is written last."""
        card, row = self.asker.card, self.frame.loc[[patient]]
        name = array_read(card.model)
        stored = {key.modality: self.snapshot.read(key, arrays=(name,)).arrays[name] for key in self._keys(patient)}
        risk = self.asker.log_risks(row, {modality: array[np.newaxis] for modality, array in stored.items()})
        found = ExplainedPatient(
            patient=patient,
            person=self._person(patient),
            inputs_sha256=self._inputs(patient),
            log_risk=float(risk[0]),
            z=float((risk[0] - card.risk_mean) / card.risk_sd),
            risk_group=int(risk_group(card, risk)[0]),
            images=tuple(
                self._image(key, row, stored, folder) for key in self._keys(patient) if key in self.occlusions
            ),
        )
        folder.replace(_record(patient), found.to_json())
        return found

    def _image(
        self, key: EntryKey, row: pd.DataFrame, stored: Mapping[str, Float[np.ndarray, "..."]], folder: RunFolder
    ) -> ExplainedImage:
        one = read_occluded(self.asker.card.model, self.occlusions, key, stored[key.modality])
        found = deltas(
            self.asker,
            row,
            stored,
            modality=key.modality,
            baseline=one.baseline,
            embeddings=one.embeddings,
            unseen=len(one.told.unseen_zyx),
        )
        made = _described(one, found)
        _keep_pictures(one, made, voxel_map(one.boxes, found, one.grid.shape_zyx), "signed", folder)
        _keep_map(made.absolute_map, voxel_map(one.boxes, np.abs(found), one.grid.shape_zyx), made, "absolute", folder)
        return made

    def summed_up(self, done: Sequence[ExplainedPatient], failures: Mapping[str, str]) -> Explanation:
        """Record of the whole, with its settings."""
        card = self.asker.card
        return Explanation(
            model=card.name,
            card_sha256=self.card_sha256,
            risk_sd=card.risk_sd,
            view=self.snapshot.view_id,
            snapshot=self.snapshot.id,
            occlusion_view=self.occlusions.view_id,
            occlusion_snapshot=self.occlusions.id,
            store_id=self.store.store_id,
            rules=self.rules,
            encoder_trained=self.snapshot.view.encoder.trained,
            patients=tuple(one.patient for one in done),
            failures=dict(sorted(failures.items())),
            attribution=attribution(done),
            versions=self.code,
        )

    def _keys(self, patient: str) -> list[EntryKey]:
        return [EntryKey(patient, modality, roi) for modality, roi in pairs(self.asker.card.model)]

    def _person(self, patient: str) -> str:
        """A store's key is `patient.study` where the table declares studies."""
        return patient.rpartition(".")[0] or patient if self.asker.card.columns.study is not None else patient

    def _inputs(self, patient: str) -> str:
        """Digest of all that a patient's record follows from."""
        keys = self._keys(patient)
        commits = [self.snapshot.commit(key) for key in keys]
        hidden = [self.occlusions.commit(key) for key in keys if key in self.occlusions]
        cells = [None if pd.isna(cell) else cell for cell in self.frame.loc[[patient]].iloc[0].tolist()]
        told = {
            "card": self.card_sha256,
            "view": [commit.content_sha256 for commit in commits],
            "occluded": [[str(one.key), one.content_sha256, sha256(canonical_json(one.attributes))] for one in hidden],
            "covariates": cells,
            "versions": self.code,
        }
        return sha256(canonical_json(told))


def _record(patient: str) -> str:
    """File of a patient's record."""
    return f"patients/{patient}.json"


def _described(one: Occluded, found: Float[np.ndarray, " patch"]) -> ExplainedImage:
    key, count = one.key, len(one.told.patches_zyx)
    patches = tuple(
        PatchDelta(box_zyx=box, delta=float(delta), seen=number < count, bone=bone, bone_share=share)
        for number, (box, delta, (bone, share)) in enumerate(zip(one.boxes, found, one.bones, strict=True))
    )
    return ExplainedImage(
        modality=key.modality,
        roi=key.roi,
        patches=patches,
        grid=one.grid,
        seen_slices_z=one.told.seen_slices_z,
        held_slices_z=one.told.held_slices_z,
        fill_grey=one.told.fill_grey,
        baseline_difference=one.difference,
        figure=f"figures/{key}.svg",
        signed_map=f"maps/{key}-signed.nii.gz",
        absolute_map=f"maps/{key}-absolute.nii.gz",
    )


def _keep_pictures(one: Occluded, made: ExplainedImage, signed_zyx: np.ndarray, what: str, folder: RunFolder) -> None:
    _keep_map(made.signed_map, signed_zyx, made, what, folder)
    step = one.told.backdrop_step_zyx
    overlay = Overlay(signed_zyx, one.mask_zyx, one.backdrop_zyx, step, one.grid, one.key.modality)
    name = str(one.key).replace("/", "-")
    folder.replace(made.figure, draw_overlay(name, overlay, who=one.key.patient, region=one.key.roi).svg)


def _keep_map(file: str, map_zyx: np.ndarray, made: ExplainedImage, what: str, folder: RunFolder) -> None:
    folder.replace(file, nifti_bytes(map_zyx, made.grid, told=f"{what} change of log-risk with the patch hidden"))
