"""Explains a kept model patient by patient from embeddings with patches hidden, and keeps what was found; fits nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float

from store_schema import EntryKey, Snapshot, Store
from store_schema.errors import EngramError, SchemaError, UsageError
from store_schema.pseudonyms import PSEUDONYM, PlainIds
from store_schema.records import canonical_json, sha256
from trainer.attribution import attribution, attribution_csv, deltas_csv
from trainer.cohort import patient_keys
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
from trainer.run_folder import REPORT, RunFolder
from trainer.saved import Card, card_sha256, read_model
from trainer.sensitivity_map import voxel_map
from trainer.tables import read_table, require_columns
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

    What earlier calls found of other patients is removed from the folder.

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
    # a folder without them holds no finished explanation: what an earlier call told must not stand over other files
    for name in (EXPLANATION, REPORT):
        folder.location.delete(name)
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
    # last: it says that all else is there
    folder.replace(EXPLANATION, found.to_json())
    _forget_others(done, folder)
    return ExplainReport(found, folder, resumed)


def _forget_others(done: Sequence[ExplainedPatient], folder: RunFolder) -> None:
    """Remove what earlier calls found of patients who are none of these: nothing that is told refers to it."""
    kept = {_record(one.patient) for one in done} | {
        file for one in done for image in one.images for file in image.files
    }
    for below, ending in (("patients", ".json"), ("maps", ".nii.gz"), ("figures", ".svg")):
        folder.prune(below, kept, ending=ending)


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
    newcomers.ids.know_keys((*having, *options.patients))
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
        persons=_persons(card, newcomers),
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
    persons: Mapping[str, str]
    """Whose each study is, where a table says so."""
    left_out: Mapping[str, str]

    @cached_property
    def code(self) -> dict[str, str]:
        """Versions of all that can change a number."""
        return versions()

    def kept(self, patient: str, folder: RunFolder) -> ExplainedPatient | None:
        """What an earlier call found of the very same inputs, where all of it is there as it was written."""
        name = _record(patient)
        data = folder.read(name)
        if data is None:
            return None
        try:
            found = parse_explained(data, where=f"{folder.url}/{name}")
        except SchemaError:
            # of an earlier version, or damaged: it can be made again
            return None
        same = found.inputs_sha256 == self._inputs(patient)
        return found if same and all(_unchanged(image, folder) for image in found.images) else None

    def explained(self, patient: str, folder: RunFolder) -> ExplainedPatient:
        """Risk, deltas, maps and pictures of a patient; the record is written last, and is gone while its files change."""
        folder.location.delete(_record(patient))
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
        mine = self.snapshot.commit(key).input_sha256
        one = read_occluded(self.asker.card.model, self.occlusions, key, stored[key.modality], input_sha256=mine)
        found = deltas(
            self.asker,
            row,
            stored,
            modality=key.modality,
            baseline=one.baseline,
            embeddings=one.embeddings,
            unseen=len(one.told.unseen_zyx),
        )
        files = _pictures(one, found)
        for file, data in files.items():
            folder.replace(file, data)
        return _described(one, found, {file: sha256(data) for file, data in files.items()})

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
        """Whose study it is: a store's key is `patient.study` where the table declares studies, and ids may have dots."""
        if self.asker.card.columns.study is None:
            return patient
        person, _, study = patient.partition(".")
        if patient not in self.persons and "." in study:
            raise UsageError(
                f"the store's key {patient} has several dots, so that it does not say where the patient's id ends and the study's "
                "begins: give the table of patients and studies with --clinical"
            )
        return self.persons.get(patient, person)

    def _inputs(self, patient: str) -> str:
        """Digest of all that a patient's record follows from."""
        keys = self._keys(patient)
        commits = [self.snapshot.commit(key) for key in keys]
        hidden = [self.occlusions.commit(key) for key in keys if key in self.occlusions]
        cells = [None if pd.isna(cell) else cell for cell in self.frame.loc[[patient]].iloc[0].tolist()]
        told = {
            "card": self.card_sha256,
            "view": [[commit.content_sha256, commit.input_sha256] for commit in commits],
            "occluded": [[str(one.key), one.content_sha256, sha256(canonical_json(one.attributes))] for one in hidden],
            "covariates": cells,
            "person": self._person(patient),
            "versions": self.code,
        }
        return sha256(canonical_json(told))


def _record(patient: str) -> str:
    """File of a patient's record."""
    return f"patients/{patient}.json"


def _unchanged(image: ExplainedImage, folder: RunFolder) -> bool:
    """Whether every file of an image is there, and the very one that its record was written with."""
    found = {file: folder.read(file) for file in image.files}
    return image.files_sha256 == {file: sha256(data) for file, data in found.items() if data is not None}


def _persons(card: Card, newcomers: Newcomers) -> dict[str, str]:
    """Whose each study is, by the clinical table; nothing where there is none, or it tells no studies apart."""
    columns = card.columns
    if newcomers.clinical is None or columns.study is None:
        return {}
    frame, where = read_table(newcomers.clinical)
    require_columns(frame, (columns.patient, columns.study), where)
    persons, keys = patient_keys(frame, columns, where, newcomers.ids)
    return dict(zip(keys, persons, strict=True))


def _described(one: Occluded, found: Float[np.ndarray, " patch"], files_sha256: dict[str, str]) -> ExplainedImage:
    count, told, maps = len(one.told.patches_zyx), one.told, one.told.label_maps
    patches = tuple(
        PatchDelta(box_zyx=box, delta=float(delta), seen=number < count, bone=bone, bone_share=share)
        for number, (box, delta, (bone, share)) in enumerate(zip(one.boxes, found, one.bones, strict=True))
    )
    figure, signed, absolute = _files(one.key)
    return ExplainedImage(
        modality=one.key.modality,
        roi=one.key.roi,
        patches=patches,
        grid=one.grid,
        seen_slices_z=told.seen_slices_z,
        held_slices_z=told.held_slices_z,
        fill_grey=told.fill_grey,
        baseline_difference=one.difference,
        region_share=told.region_share,
        held_region_share=told.held_region_share,
        label_maps=() if maps is None else maps.known,
        label_maps_missing=() if maps is None else maps.missing,
        figure=figure,
        signed_map=signed,
        absolute_map=absolute,
        files_sha256=files_sha256,
    )


def _files(key: EntryKey) -> tuple[str, str, str]:
    """Drawing, signed map and absolute map of an image."""
    return f"figures/{key}.svg", f"maps/{key}-signed.nii.gz", f"maps/{key}-absolute.nii.gz"


def _pictures(one: Occluded, found: Float[np.ndarray, " patch"]) -> dict[str, bytes]:
    """The files of an image: its maps on its own grid, and the drawing of one."""
    figure, *maps = _files(one.key)
    signed, absolute = (voxel_map(one.boxes, scores, one.grid.shape_zyx) for scores in (found, np.abs(found)))
    overlay = Overlay(signed, one.mask_zyx, one.backdrop_zyx, one.told.backdrop_step_zyx, one.grid, one.key.modality)
    name = str(one.key).replace("/", "-")
    drawn = draw_overlay(name, overlay, who=one.key.patient, region=one.key.roi).svg
    said = "change of log-risk with the patch hidden"
    return {
        figure: drawn.encode(),
        **{
            file: nifti_bytes(map_zyx, one.grid, told=f"{what} {said}")
            for file, map_zyx, what in zip(maps, (signed, absolute), ("signed", "absolute"), strict=True)
        },
    }
