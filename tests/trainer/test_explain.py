"""`trainer explain` on a store with planted occlusion entries: deltas by brute force, files, resuming, refusals, the page."""

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from rich.console import Console

from store_schema import Entry, EntryKey, open_store
from store_schema.errors import NotCommittedError, ObjectAlteredError, SchemaError, UsageError
from trainer.cli import main
from trainer.dispatch import Workers
from trainer.final import fit_final
from trainer.plan import Inputs
from trainer.predicting import Newcomers, predict
from trainer.report.explain_page import _sight, write_explain_page
from trainer.run import cross_validate
from trainer.saved import read_model

from .explained_help import Page, brute_force, copied, explained, record
from .occluded_help import (
    BONES,
    BOXES,
    ORIGIN_XYZ_MM,
    SIZE_XYZ,
    UNSEEN,
    mean_map,
    noisy,
    occluded_entry,
    occlusion_view,
    publish,
)

EXPLAINED = ("P001", "P002", "P005")
HEADS = ("average", "attention", "cnn3d", "flatten", "pca")


@pytest.fixture(scope="module")
def made(cohort_folder, shared_kit, tmp_path_factory) -> SimpleNamespace:
    """A store with occlusion entries of three patients, and kept models of every head that reads maps or memories."""
    folder = tmp_path_factory.mktemp("explained")
    shutil.copytree(cohort_folder / "store", folder / "store")
    store = open_store(folder / "store")
    base = store.resolve_view("tiny")
    occluded = store.put_view(occlusion_view(store.view(base)))
    for row, patient in enumerate(EXPLAINED):
        for channel, modality in enumerate(("PET", "CT")):
            key = EntryKey(patient, modality, "spine")
            arrays = store.read(base, key).arrays
            hidden = [noisy(arrays["memory"].astype(np.float32), [row, channel, patch]) for patch in range(len(BOXES))]
            publish(store, occluded, key, occluded_entry(arrays, hidden))
    image = {**shared_kit.settings["models"][1]}
    rows = [{**image, "name": head, "head": head, "fusion": "concat", "components": 4} for head in HEADS]
    models = [*rows, {**image, "name": "both", "clinical": True}, shared_kit.settings["models"][0]]
    settings = shared_kit.parse({**shared_kit.settings, "models": models})
    inputs = Inputs(cohort_folder / "clinical.csv", str(folder / "store"))
    quiet = Console(file=io.StringIO())
    report = cross_validate(settings, inputs, out=str(folder / "run"), workers=Workers(number=0), console=quiet)
    for name in (*HEADS, "both", "cox"):
        fit_final(report.folder.url, name, out=str(folder / "models" / name))
    pd.read_csv(cohort_folder / "clinical.csv").drop(columns=["months", "event"]).to_csv(
        folder / "new.csv", index=False
    )
    return SimpleNamespace(folder=folder, store=store, base=base, occluded=occluded, clinical=folder / "new.csv")


@pytest.mark.parametrize("name", [*HEADS, "both"])
def test_deltas_are_those_of_the_hidden_embeddings_put_through_the_ordinary_prediction(made, tmp_path, name):
    report = explained(made, tmp_path / "out", name, patients=["P002"])
    assert report.found.failures == {}
    card, trained = read_model(str(made.folder / "models" / name))
    told = Newcomers(str(made.folder / "store"), clinical=made.clinical)
    scores = predict(card, trained, told, times=[1])
    place = scores.patients.index("P002")
    found = record(tmp_path / "out", "P002")
    assert found.log_risk == pytest.approx(scores.log_risk[place], abs=1e-12)
    assert (found.z, found.risk_group) == (pytest.approx(scores.z[place]), scores.group[place])
    for image in found.images:
        hidden = brute_force(made, tmp_path / image.modality, name, "P002", image.modality)
        deltas = [patch.delta for patch in image.patches]
        np.testing.assert_allclose(deltas[: len(BOXES)], hidden - scores.log_risk[place], atol=1e-6)
        assert np.ptp(deltas[: len(BOXES)]) > 0


def test_unseen_patches_change_nothing_and_are_said_to_be_unseen(made, tmp_path):
    explained(made, tmp_path / "out")
    for image in record(tmp_path / "out", "P001").images:
        assert [patch.seen for patch in image.patches] == [True] * len(BOXES) + [False] * len(UNSEEN)
        assert [patch.delta for patch in image.patches if not patch.seen] == [0.0]
        assert image.seen_slices_z == (0, 2, 4, 8, 10, 12, 14)
    table = pd.read_csv(tmp_path / "out/deltas.csv")
    unseen = table[table["seen"] == "no"]
    assert len(unseen) == len(EXPLAINED) * 2 * len(UNSEEN)
    assert (unseen["delta"] == 0).all()


def test_an_image_of_which_the_view_sees_nothing_has_a_map_of_zeros(made, tmp_path):
    store = copied(made, tmp_path)
    key = EntryKey("P001", "CT", "spine")
    entry = occluded_entry(store.read(made.base, key).arrays, [], boxes=(), unseen=BOXES, bones=())
    publish(store, made.occluded, key, entry)
    assert explained(made, tmp_path / "out", store=tmp_path / "store", patients=["P001"]).found.failures == {}
    image = next(one for one in record(tmp_path / "out", "P001").images if one.modality == "CT")
    assert not any(patch.delta or patch.seen for patch in image.patches)
    values = nibabel.load(tmp_path / "out" / image.signed_map).get_fdata()
    assert set(np.unique(values[~np.isnan(values)])) == {0.0}


def test_deltas_stand_in_log_hazard_and_in_standard_deviations_with_bone_and_box(made, tmp_path):
    report = explained(made, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/deltas.csv", dtype={"patient": str})
    card, _ = read_model(str(made.folder / "models" / "both"))
    assert len(table) == len(EXPLAINED) * 2 * (len(BOXES) + len(UNSEEN))
    np.testing.assert_allclose(table["delta_sd"] * card.risk_sd, table["delta"], atol=1e-12)
    for name in ("delta", "delta_sd"):
        np.testing.assert_array_equal(table[name.replace("delta", "absolute")], table[name].abs())
    first = table[(table["patient"] == "P002") & (table["modality"] == "CT")]
    assert list(first["bone"]) == ["L1", "L2", "no bone of the label map", "rib_left_1", "unnamed"]
    boxes = first[["z_start", "z_stop", "y_start", "y_stop", "x_start", "x_stop"]].to_numpy()
    assert boxes.tolist() == [list(box) for box in (*BOXES, *UNSEEN)]
    assert report.found.rules.size_mm == 20.0
    assert report.found.view == made.base


def test_attribution_is_the_mean_over_patients_with_an_interval_that_holds_it(made, tmp_path):
    report = explained(made, tmp_path / "out")
    deltas = pd.read_csv(tmp_path / "out/deltas.csv", dtype={"patient": str})
    seen = deltas[deltas["seen"] == "yes"]
    each = seen.groupby(["modality", "bone", "patient"])["delta"].agg(
        signed="mean", absolute=lambda one: one.abs().mean()
    )
    expected = each.groupby(["modality", "bone"]).mean()
    table = pd.read_csv(tmp_path / "out/attribution.csv").set_index(["modality", "bone"])
    assert len(table) == len(expected) == 2 * len(BONES) == len(report.found.attribution)
    for name in ("signed", "absolute"):
        np.testing.assert_allclose(table[name].loc[expected.index], expected[name], atol=1e-12)
        assert (table[f"{name}_low"] <= table[name] + 1e-12).all()
        assert (table[name] <= table[f"{name}_high"] + 1e-12).all()
    assert set(table["patients"]) == {len(EXPLAINED)}
    for place, (low, high) in table[["signed_low", "signed_high"]].iterrows():
        values = each["signed"].loc[place]
        assert values.min() - 1e-12 <= low < high <= values.max() + 1e-12


def test_one_patient_has_no_interval(made, tmp_path):
    report = explained(made, tmp_path / "out", patients=["P001"])
    assert {one.signed_low for one in report.found.attribution} == {None}


def test_maps_lie_on_the_entrys_grid_and_hold_the_mean_of_overlapping_patches(made, tmp_path):
    explained(made, tmp_path / "out", patients=["P001"])
    (image,) = (one for one in record(tmp_path / "out", "P001").images if one.modality == "PET")
    total, count = (np.zeros(SIZE_XYZ[::-1]) for _ in range(2))
    absolute = np.zeros_like(total)
    for patch in image.patches:
        z0, z1, y0, y1, x0, x1 = patch.box_zyx
        for z in range(z0, z1):
            for y in range(y0, y1):
                for x in range(x0, x1):
                    total[z, y, x] += patch.delta
                    absolute[z, y, x] += abs(patch.delta)
                    count[z, y, x] += 1
    assert count.max() == 2
    for file, expected in ((image.signed_map, total), (image.absolute_map, absolute)):
        read = nibabel.load(tmp_path / "out" / file)
        values = read.get_fdata().transpose(2, 1, 0)
        np.testing.assert_array_equal(np.isnan(values), count == 0)
        np.testing.assert_allclose(values[count > 0], (expected / np.maximum(count, 1))[count > 0], rtol=1e-6)
        assert read.affine[:3, 3].tolist() == [-ORIGIN_XYZ_MM[0], -ORIGIN_XYZ_MM[1], ORIGIN_XYZ_MM[2]]


def test_a_rerun_computes_only_what_changed(made, tmp_path):
    store, out = copied(made, tmp_path), tmp_path / "out"
    steps = []
    first = explained(made, out, store=tmp_path / "store", told=lambda done, of: steps.append((done, of)))
    assert (first.resumed, steps) == (0, [(0, 3), (1, 3), (2, 3), (3, 3)])
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    marked = out / "figures/P001/PET/spine.svg"
    written = marked.stat().st_mtime_ns
    (out / "maps/P002/CT/spine-signed.nii.gz").unlink()
    key = EntryKey("P005", "PET", "spine")
    arrays = store.read(made.base, key).arrays
    publish(store, made.occluded, key, occluded_entry(arrays, [noisy(arrays["memory"], [9, n]) for n in range(4)]))
    again = explained(made, out, store=tmp_path / "store")
    assert again.resumed == 1
    assert marked.stat().st_mtime_ns == written
    after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert after[out / "maps/P002/CT/spine-signed.nii.gz"] == before[out / "maps/P002/CT/spine-signed.nii.gz"]
    assert after[out / "patients/P005.json"] != before[out / "patients/P005.json"]
    assert after[out / "patients/P001.json"] == before[out / "patients/P001.json"]
    other_model = explained(made, out, "average", store=tmp_path / "store")
    assert other_model.resumed == 0


def test_a_file_that_the_record_was_not_written_with_is_made_again_and_shown_on_no_page(made, tmp_path):
    out = tmp_path / "out"
    explained(made, out, patients=["P001", "P002"])
    other, mine = (out / f"maps/P00{n}/PET/spine-signed.nii.gz" for n in (2, 1))
    right = mine.read_bytes()
    mine.write_bytes(other.read_bytes())
    drawing = out / "figures/P001/PET/spine.svg"
    drawn = drawing.read_text()
    drawing.write_text(drawn.replace("P001", "P009"))
    with pytest.raises(ObjectAlteredError, match="is not the drawing that the patient's record was written with"):
        write_explain_page(str(out))
    again = explained(made, out, patients=["P001", "P002"])
    assert again.resumed == 1
    assert (mine.read_bytes(), drawing.read_text()) == (right, drawn)


def test_a_call_that_ends_early_leaves_nothing_of_the_earlier_one_that_speaks_of_other_files(made, tmp_path):
    out = tmp_path / "out"
    explained(made, out)
    write_explain_page(str(out))

    def stop(done, of):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explained(made, out, "average", told=stop)
    assert not (out / "explain.json").exists()
    assert not (out / "report.html").exists()
    with pytest.raises(NotCommittedError, match=r"has no explain\.json"):
        write_explain_page(str(out))


def test_an_entry_of_another_input_is_refused_although_its_whole_image_embeds_alike(made, tmp_path):
    store, key = copied(made, tmp_path), EntryKey("P001", "PET", "spine")
    arrays = store.read(made.base, key).arrays
    entry = occluded_entry(arrays, [arrays["memory"]] * len(BOXES), base_input_sha256="e" * 64)
    publish(store, made.occluded, key, entry)
    report = explained(made, tmp_path / "out", store=tmp_path / "store", patients=["P001"])
    assert "it names the input eeeeeeeeeeeeeeee" in report.found.failures["P001"]


@pytest.mark.parametrize(
    ("told", "bone"),
    [
        ({}, "no bone of the label map"),
        ({"label_maps": {"known": ["label_map_vertebrae"], "missing": ["label_map_ribs"]}}, "unnamed"),
        ({"label_map_shares": [1.0, 1.0, 0.99, 1.0]}, "unnamed"),
    ],
)
def test_a_patch_is_on_no_bone_only_where_every_label_map_is_there_and_covers_it(made, tmp_path, told, bone):
    store, key = copied(made, tmp_path), EntryKey("P001", "PET", "spine")
    arrays = store.read(made.base, key).arrays
    publish(store, made.occluded, key, occluded_entry(arrays, [noisy(arrays["memory"], [n]) for n in range(4)], **told))
    explained(made, tmp_path / "out", store=tmp_path / "store", patients=["P001"])
    image = next(one for one in record(tmp_path / "out", "P001").images if one.modality == "PET")
    assert [patch.bone for patch in image.seen] == ["L1", "L2", bone, "rib_left_1"]


def test_what_an_earlier_call_found_of_others_is_removed(made, tmp_path):
    out = tmp_path / "out"
    explained(made, out, patients=["P001", "P002"])
    explained(made, out, patients=["P002"])
    held = {str(path.relative_to(out)) for path in out.rglob("*.*") if path.parent != out}
    assert held
    assert all("P002" in name for name in held)
    assert explained(made, out, patients=["P002"]).resumed == 1


def test_a_baseline_that_is_not_the_models_own_entry_fails_that_patient_alone(made, tmp_path):
    store = copied(made, tmp_path)
    key = EntryKey("P002", "PET", "spine")
    old = store.make_snapshot(made.base)
    arrays = store.read(made.base, key).arrays
    changed = noisy(arrays["memory"].astype(np.float32), [7])
    publish(store, made.base, key, Entry({"memory": changed.astype(np.float16), "mean_map": mean_map(changed)}, {}))
    report = explained(made, tmp_path / "out", store=tmp_path / "store")
    assert report.found.patients == ("P001", "P005")
    assert "was made of another image, region or extraction" in report.found.failures["P002"]
    pinned = explained(made, tmp_path / "pinned", store=tmp_path / "store", snapshot=old)
    assert pinned.found.failures == {}


def test_rounding_of_another_machine_is_let_pass_told_and_kept_out_of_the_deltas(made, tmp_path):
    store, key = copied(made, tmp_path), EntryKey("P001", "PET", "spine")
    arrays = arrays_of(made, "P001")
    arrays["mean_map"] = arrays["mean_map"] * np.float32(1 + 1e-4)
    entry = occluded_entry(arrays, [arrays["memory"]] * len(BOXES))
    same = np.stack([arrays["mean_map"]] * len(BOXES))
    publish(store, made.occluded, key, Entry({**entry.arrays, "occluded_mean_map": same}, entry.attributes))
    report = explained(made, tmp_path / "out", "average", store=tmp_path / "store", patients=["P001"])
    assert report.found.failures == {}
    image = next(one for one in record(tmp_path / "out", "P001").images if one.modality == "PET")
    assert image.baseline_difference == pytest.approx(1e-4, rel=1e-2)
    assert {patch.delta for patch in image.patches} == {0.0}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"patches_zyx": [[0, 4, 0, 5, 0, 99]] * 4}, "reach beyond the image"),
        ({"bones": [None] * 3}, "numbers of patches, embeddings and bones"),
        ({"backdrop_step_zyx": [0, 1, 1]}, "occlusion.backdrop_step_zyx.0"),
        ({"fill_grey": None}, "occlusion.fill_grey"),
    ],
)
def test_an_entry_that_contradicts_itself_fails_by_name(made, tmp_path, told, said):
    store, key = copied(made, tmp_path), EntryKey("P001", "PET", "spine")
    arrays = store.read(made.base, key).arrays
    publish(store, made.occluded, key, occluded_entry(arrays, [arrays["memory"]] * 4, **told))
    report = explained(made, tmp_path / "out", store=tmp_path / "store", patients=["P001"])
    assert said in report.found.failures["P001"]


def test_views_that_do_not_belong_to_the_model_are_refused(made, tmp_path):
    store = copied(made, tmp_path)
    base = store.view(made.base)
    other = store.put_view(occlusion_view(base.model_copy(update={"precision": "bfloat16", "recipe": 2})))
    with pytest.raises(UsageError, match="they differ in precision, recipe"):
        explained(made, tmp_path / "out", store=tmp_path / "store", occlusion=other)
    odd = base.model_copy(update={"name": "odd", "flags": {"occlusion_size_mm": 5.0}})
    publish(store, store.put_view(odd), EntryKey("P001", "PET", "spine"), Entry(arrays_of(made, "P001"), {}))
    with pytest.raises(SchemaError, match="expected size_mm, stride_mm and fill"):
        explained(made, tmp_path / "out", store=tmp_path / "store", occlusion="odd")
    with pytest.raises(UsageError, match="hides no patches"):
        explained(made, tmp_path / "out", store=tmp_path / "store", occlusion=made.base)
    finer = store.put_view(occlusion_view(base, occlusion_size_mm=10.0))
    with pytest.raises(UsageError, match=f"choose one with --occlusion: .*{finer}"):
        explained(made, tmp_path / "out", store=tmp_path / "store")
    with pytest.raises(NotCommittedError, match="holds entries of none"):
        explained(made, tmp_path / "out", store=tmp_path / "store", occlusion=finer)
    arrays = store.read(made.base, EntryKey("P001", "PET", "spine")).arrays
    publish(store, finer, EntryKey("P001", "PET", "skull"), occluded_entry(arrays, [arrays["memory"]] * 4))
    with pytest.raises(
        NotCommittedError, match=r"the model reads PET/spine, CT/spine, and .* holds entries of PET/skull"
    ):
        explained(made, tmp_path / "out", store=tmp_path / "store", occlusion=finer)
    snapshot = store.make_snapshot(finer)
    with pytest.raises(UsageError, match="holds entries of PET/skull"):
        explained(made, tmp_path / "out", store=tmp_path / "store", occlusion=snapshot)
    assert not (tmp_path / "out").exists()


def arrays_of(made, patient):
    return dict(made.store.read(made.base, EntryKey(patient, "PET", "spine")).arrays)


def test_a_snapshot_of_the_occlusion_view_is_read_as_pinned(made, tmp_path):
    store = copied(made, tmp_path)
    key = EntryKey("P001", "PET", "spine")
    snapshot = store.make_snapshot(made.occluded)
    publish(
        store,
        made.occluded,
        key,
        occluded_entry(store.read(made.base, key).arrays, [], boxes=(), unseen=BOXES, bones=()),
    )
    pinned = explained(made, tmp_path / "a", store=tmp_path / "store", occlusion=snapshot[:12], patients=["P001"])
    assert pinned.found.occlusion_snapshot == snapshot
    assert record(tmp_path / "a", "P001") == record_of(made, tmp_path / "b")


def record_of(made, out):
    explained(made, out, patients=["P001"])
    return record(out, "P001")


def test_models_without_images_stores_without_occlusions_and_unknown_patients_are_refused(
    made, cohort_folder, tmp_path
):
    with pytest.raises(UsageError, match="reads covariates alone"):
        explained(made, tmp_path / "out", "cox")
    with pytest.raises(NotCommittedError, match=r"no embeddings of view .* with patches hidden"):
        explained(made, tmp_path / "out", store=cohort_folder / "store")
    with pytest.raises(UsageError, match="has no entry of P003"):
        explained(made, tmp_path / "out", patients=["P003", "P001"])


def test_patients_without_covariates_are_named_and_leave_the_others_alone(made, tmp_path):
    table = pd.read_csv(made.clinical)
    table[table["patient"] != "P002"].to_csv(tmp_path / "some.csv", index=False)
    told = SimpleNamespace(**{**vars(made), "clinical": tmp_path / "some.csv"})
    report = explained(told, tmp_path / "out")
    assert report.found.patients == ("P001", "P005")
    assert report.found.failures == {"P002": "not in the clinical table"}


@pytest.mark.parametrize("more", [[], ["--patient", "P0O2"]])
def test_json_lines_do_not_name_patients_whom_no_table_names(made, tmp_path, more):
    table = pd.read_csv(made.clinical)
    table[table["patient"] != "P002"].to_csv(tmp_path / "some.csv", index=False)
    asked = ["explain", "--model", str(made.folder / "models/both"), "--store", str(made.folder / "store")]
    asked += ["--clinical", str(tmp_path / "some.csv"), "--out", str(tmp_path / "out"), "--log-format", "json", *more]
    said = CliRunner().invoke(main, asked)
    events = [json.loads(line) for line in said.stderr.splitlines()]
    (told,) = [event["message"] for event in events if event["event"] in {"not_explained", "error"}]
    assert told.startswith(
        f"occlusion view {made.occluded} has no entry of ***"
        if more
        else "not explained: ***: not in the clinical table"
    )
    assert not [word for word in ("P002", "P0O2") if word in said.stderr]


def test_the_command_writes_a_page_that_needs_nothing_and_says_what_it_shows(made, tmp_path):
    out = tmp_path / "out"
    asked = ["explain", "--model", str(made.folder / "models/both"), "--store", str(made.folder / "store")]
    asked += ["--clinical", str(made.clinical), "--out", str(out)]
    said = CliRunner().invoke(main, asked)
    assert said.exit_code == 0, said.output
    assert "3 patients explained, 0 of them before; 0 failed" in said.stdout
    text = (out / "report.html").read_text()
    page = Page(text)
    assert page.tags.count("figure") == page.tags.count("svg") == 6
    assert not {"script", "link", "iframe", "img", "object", "embed"} & set(page.tags)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links), page.links[:3]
    assert len(page.ids) == len(set(page.ids))
    assert set(page.labelled) <= set(page.ids)
    words = " ".join(" ".join(page.text).split())
    for expected in (
        "no cause",
        "size and the stride",
        "Only what lies on 7 of 16 slices can change this embedding (z 0, 2, 4, 8, 10, 12, 14).",
        "It holds the memories of 2 of these (z 0, 2); the others reach it only through the masks",
        "Of 2 patches on such slices alone, 0 change the risk by exactly 0",
        "1 of 5 patches touch none of them and are unseen",
        "untrained",
        "no bone of the label map",
        "Under a patch lie 90.0% of the region, and 75.0% of it on the slices whose memories the embedding holds.",
        "change of log-risk with the patch hidden (log-hazard)",
    ):
        assert expected in words
    for letter in "RLSIAP":
        assert f">{letter}</text>" in text
    assert "http://" not in text.replace("http://www.w3.org/", "")
    again = CliRunner().invoke(main, asked)
    assert "3 patients explained, 3 of them before" in again.stdout
    assert (out / "report.html").read_text() == text
    told = json.loads((out / "explain.json").read_text())
    assert told["occlusion_view"] == made.occluded
    assert told["versions"]["engram"]


def test_what_acts_through_masks_alone_is_told_with_what_it_changed(made, tmp_path):
    store, key = copied(made, tmp_path), EntryKey("P001", "PET", "spine")
    arrays = arrays_of(made, "P001")
    hidden = [noisy(arrays["memory"], [n], size) for n, size in enumerate((0.5, 0.4, 0.0, 0.1))]
    publish(store, made.occluded, key, occluded_entry(arrays, hidden))
    explained(made, tmp_path / "out", "attention", store=tmp_path / "store", patients=["P001"])
    page = Page(Path(write_explain_page(str(tmp_path / "out"))).read_text())
    image = next(one for one in record(tmp_path / "out", "P001").images if one.modality == "PET")
    first, second, third, fourth, _ = (abs(patch.delta) for patch in image.patches)
    assert (third, image.held_slices_z) == (0.0, (0, 2))
    assert (
        f"Of 2 patches on such slices alone, 1 change the risk by exactly 0; the greatest change among them is {fourth:.3g} "
        f"log-hazard, against {max(first, second):.3g} among the others."
    ) in " ".join(" ".join(page.text).split())
    whole = image.model_copy(update={"held_slices_z": image.seen_slices_z})
    older = image.model_copy(update={"held_slices_z": None})
    assert "masks" not in _sight(whole) + _sight(older)


def test_the_command_tells_wrong_use_from_patients_that_failed(made, tmp_path):
    store = copied(made, tmp_path)
    key = EntryKey("P002", "PET", "spine")
    arrays = store.read(made.base, key).arrays
    changed = noisy(arrays["memory"].astype(np.float32), [7])
    publish(store, made.base, key, Entry({"memory": changed.astype(np.float16), "mean_map": mean_map(changed)}, {}))
    asked = ["explain", "--model", str(made.folder / "models/average"), "--store", str(tmp_path / "store")]
    failed = CliRunner().invoke(main, [*asked, "--out", str(tmp_path / "out")])
    assert failed.exit_code == 1
    assert "not explained: P002: ConfigError" in failed.stderr
    assert "P002: ConfigError" in (tmp_path / "out/report.html").read_text()
    wrong = CliRunner().invoke(main, [*asked, "--out", str(tmp_path / "out"), "--patient", "nobody"])
    assert wrong.exit_code == 2
    assert "has no entry of nobody" in wrong.stderr
