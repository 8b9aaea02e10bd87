"""`trainer quality` from store to files: planted faults found, groups, risks of models and runs, pages, wrong calls."""

import io
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from rich.console import Console
from scipy import stats

from store_schema import Entry, EntryKey, Layout, create_store, open_store
from store_schema.errors import NotCommittedError, TableError, UsageError
from store_schema.pseudonyms import Pseudonyms, settle_rule
from trainer.cli import main
from trainer.columns import Columns
from trainer.dispatch import Workers
from trainer.final import fit_final
from trainer.plan import Inputs
from trainer.predicting import Newcomers, predict
from trainer.quality.figures import draw_quality
from trainer.quality.findings import findings
from trainer.quality.measuring import Asked, measure
from trainer.quality.page import write_page
from trainer.quality.results import Quality
from trainer.quality.writing import write_quality
from trainer.run import cross_validate
from trainer.saved import read_model
from trainer.trust.quality_part import key_figures

from .quality_help import publish

COPY, NEARLY, ALONE, FAR = "P040", "P041", "P042", "P007"
"""The study of P003 once more; that of P005 but for rounding; a PET without a CT; P007 is far from everybody."""


def fill(store, kit, table):
    """Maps of the kit, those of scanner B moved; faults as planted above."""
    view, rows = store.put_view(kit.view), {}
    moved = np.random.default_rng(6).normal(size=(1, 4, 8, 8)).astype(np.float32)
    for row, one in enumerate(table.itertuples()):
        for place, modality in enumerate(("PET", "CT")):
            z = one.z if modality == "PET" else 0.3 * one.z
            memory = kit.entry(z, [0, row, 0]).arrays["memory"].astype(np.float32) + place
            memory = memory + 0.7 * np.random.default_rng([row, place]).normal(size=memory.shape)
            memory = memory + (0.8 * moved if one.scanner == "B" and modality == "PET" else 0)
            rows[one.patient, modality] = memory * (3 if one.patient == FAR else 1)
    rows[NEARLY, "PET"] = rows["P005", "PET"] * (1 + 1e-3)
    rows[ALONE, "PET"] = np.random.default_rng(3).normal(size=(1, 4, 8, 8))
    rows |= {(COPY, modality): rows["P003", modality] for modality in ("PET", "CT")}
    for (patient, modality), memory in rows.items():
        memory[:, 3] = 0.25
        dice = 0.7 if patient == "P002" else 0.95
        # as the extractor's, a digest is of what went in, whatever the patient is called
        source = f"study of P003 {modality}".encode() if patient in {"P003", COPY} else None
        told = {"alignment": {"body_dice": dice}}
        publish(store, view, EntryKey(patient, modality, "spine"), memory, source=source, **told)
    return view


@pytest.fixture(scope="module")
def made(shared_kit, tmp_path_factory):
    """A store with planted faults, its clinical table, a run and a kept model on it."""
    folder = tmp_path_factory.mktemp("quality")
    table = shared_kit.draw(40)
    table["scanner"] = np.where(np.random.default_rng(1).random(40) < 0.5, "A", "B")
    table["centre"] = np.where(np.arange(40) % 2, "Oslo", "Turin")
    view = fill(create_store(folder / "store"), shared_kit, table)
    table.loc[3, "scanner"] = None
    table.loc[[8, 9], "scanner"] = "C"
    table.drop(columns=["z", "log_hazard"]).to_csv(folder / "clinical.csv", index=False)
    settings = {**shared_kit.settings, "columns": {**shared_kit.settings["columns"], "centre": "centre"}}
    config = shared_kit.parse(settings)
    run = cross_validate(
        config,
        Inputs(folder / "clinical.csv", str(folder / "store")),
        out=str(folder / "run"),
        workers=Workers(number=0),
        console=Console(file=io.StringIO()),
    )
    fit_final(run.folder.url, "image", out=str(folder / "model"))
    return SimpleNamespace(
        folder=folder, store=str(folder / "store"), clinical=folder / "clinical.csv", view=view, table=table,
        columns=config.columns, run=str(folder / "run"), model=str(folder / "model"),
    )  # fmt: skip


def silent(done: int, total: int) -> None:
    assert done <= total


def asked(made, **more) -> Asked:
    given = {"store_url": made.store, "views": (made.view,), "permutations": 199, "resamples": 100, "umap": False}
    return Asked(**{**given, **more})


@pytest.fixture(scope="module")
def measured(made):
    return measure(
        asked(made, clinical=made.clinical, columns=made.columns, groups=("scanner",), run_url=made.run, row="image"),
        silent,
    )


def by_entry(found: Quality):
    return {one.entry: one for one in found.views[0].embeddings}


def test_planted_faults_stand_first_and_name_nobody(measured):
    found = measured.found
    told = [f"{one.severity} {one.entry}: {one.text}" for one in found.findings]
    assert [one.severity for one in found.findings] == sorted(
        (one.severity for one in found.findings), key=("wrong", "look", "know").index
    )
    for entry in ("PET/spine", "CT/spine"):
        assert any(one.startswith(f"wrong {entry}: 1 pair of different patients with the same input") for one in told)
    assert any(one.startswith("look PET/spine: 1 pair of different patients nearly the same") for one in told)
    assert any(one.startswith("look PET/spine: embeddings drift between groups of scanner (") for one in told)
    assert any(
        one.startswith("look PET/spine: embeddings drift between groups of scanner, within strata") for one in told
    )
    assert any("1 patient with an unusual norm" in one for one in told)
    assert "look CT/spine: 1 of 4 memory channels are one number for all patients" in told
    assert any(
        one.startswith("look PET+CT/spine: bodies of PET and CT overlap with a Dice below 0.80 in 1 study")
        for one in told
    )
    assert not any("centre" in one for one in told)
    assert not re.search(r"P0\d\d", found.model_dump_json())


def test_figures_of_single_places_are_those_of_the_maps(made, measured):
    pet = by_entry(measured.found)["PET/spine"]
    assert (pet.patients, pet.left_out, pet.not_finite, pet.zero) == (43, 0, 0, 0)
    assert (pet.features, pet.most_rank, pet.channels, pet.dead_channels) == (64, 42, 4, 1)
    assert pet.valid_layers == {1: 43}
    assert by_entry(measured.found)["CT/spine"].patients == 41
    one = measured.embeddings[0]
    assert one.found.place.modality == "PET"
    np.testing.assert_allclose(one.norms, np.linalg.norm(one.found.place.values, axis=1))
    assert pet.norm.extent.median == np.median(one.norms)
    assert pet.participation < pet.effective_rank < 42


def test_groups_are_compared_over_one_study_each_and_small_ones_left_out(made, measured):
    drifts = {(one.column, one.scheme): one for one in by_entry(measured.found)["PET/spine"].drift}
    assert set(drifts) == {(column, scheme) for column in ("scanner", "centre") for scheme in ("free", "within event")}
    scanner = drifts["scanner", "free"]
    sizes = made.table["scanner"].value_counts()
    assert scanner.levels == {level: int(sizes[level]) for level in "AB"}
    # those of scanner C, the one without a scanner, and three studies that no table lists
    assert scanner.left_out == 2 + 1 + 3
    assert scanner.location.p_holm < 0.05
    assert scanner.location.p_holm >= scanner.location.p
    assert drifts["centre", "free"].location.p_holm > 0.05
    # eight tests of each kind: 100 permutations for each at least
    assert {one.permutations for one in drifts.values()} == {799}


def test_holm_is_over_all_tests_of_one_kind_of_permutation(measured):
    for scheme in ("free", "within event"):
        tests = [
            test
            for one in measured.found.views[0].embeddings
            for drift in one.drift
            if drift.scheme == scheme
            for test in (drift.location, drift.spread)
        ]
        p = np.array([test.p for test in tests])
        order = np.argsort(p, kind="stable")
        want = np.empty(len(p))
        want[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
        np.testing.assert_allclose([test.p_holm for test in tests], want)


def test_risks_of_a_run_are_its_out_of_fold_ones(made, measured):
    told = pd.read_csv(f"{made.run}/risks.csv")
    mine = told[(told["model"] == "image") & (told["permutation"] == 0)].set_index("patient")["z"]
    assert measured.log_risk == pytest.approx(mine.to_dict())
    pair = measured.found.views[0].alignments[0]
    assert (pair.first, pair.second, pair.patients) == ("PET", "CT", 41)
    assert pair.risk_cosine.n == 40
    own = dict(zip(measured.aligned[0].patients, measured.aligned[0].own, strict=True))
    want = stats.spearmanr([own[patient] for patient in mine.index], mine).statistic
    assert pair.risk_cosine.spearman == pytest.approx(want)
    assert pair.rank_p <= 0.01
    assert any("out-of-fold" in note for note in measured.found.notes)


def test_risks_of_a_model_are_those_of_predict(made):
    found = measure(asked(made, model_url=made.model, clinical=made.clinical), silent)
    card, trained = read_model(made.model)
    scores = predict(card, trained, Newcomers(made.store), times=[12])
    assert found.log_risk == pytest.approx(dict(zip(scores.patients, scores.log_risk, strict=True)))
    assert found.found.risk.name == "image"
    # the card's own roles of columns were taken, and with them the table's centre and outcomes
    assert found.found.groups == ("centre",)
    assert any("fitted on these very patients" in note for note in found.found.notes)
    alone = measure(asked(made, model_url=made.model), silent).found
    assert any("cannot be told from its card" in note for note in alone.notes)


def test_without_a_table_everything_else_is_told(made):
    found = measure(asked(made), silent).found
    assert found.groups == ()
    assert not any(one.drift for one in found.views[0].embeddings)
    assert found.views[0].alignments[0].risk_cosine.reason == "0 patients have both numbers: 8 are needed"
    grouped = measure(asked(made, clinical=made.clinical, groups=("scanner",)), silent).found
    assert {one.scheme for one in grouped.views[0].embeddings[0].drift} == {"free"}
    assert any("case mix" in note for note in grouped.notes)


def test_groups_of_a_run_need_no_table(made):
    found = measure(asked(made, run_url=made.run, row="cox", groups=("stage",)), silent).found
    assert found.groups == ("stage", "centre")
    assert {one.scheme for one in found.views[0].embeddings[0].drift} == {"free", "within event"}


def test_studies_of_one_person_are_one_observation(made, tmp_path):
    store = create_store(tmp_path / "store")
    rng, rows = np.random.default_rng(2), []
    view = store.put_view(open_store(made.store).view(made.view))
    for person in range(12):
        base = rng.normal(size=(1, 4, 8, 8))
        for study in ("a", "b"):
            rows.append([f"N{person:02d}", study, "xy"[person % 2]])
            for modality in ("PET", "CT"):
                publish(store, view, EntryKey(f"N{person:02d}.{study}", modality, "spine"), base)
    table = pd.DataFrame(rows, columns=["patient", "study", "site"])
    table.to_csv(tmp_path / "table.csv", index=False)
    columns = Columns(time="t", time_unit="months", event="e", study="study")
    more = {"clinical": tmp_path / "table.csv", "columns": columns, "groups": ("site",)}
    found = measure(Asked(store.url, (view,), permutations=99, umap=False, **more), silent).found
    one = found.views[0].embeddings[0]
    assert one.patients == 24
    assert one.drift[0].levels == {"x": 6, "y": 6}
    assert one.drift[0].scheme == "free"
    assert found.views[0].alignments[0].patients == 12
    assert (one.pairs.equal + one.pairs.near + one.pairs.same_content, one.pairs.same_person) == (0, 12)
    assert any("12 further studies" in note for note in found.notes)


def test_vectors_have_no_channels_and_unknown_values_are_no_fault(shared_kit, tmp_path):
    store, rng = create_store(tmp_path / "store"), np.random.default_rng(4)
    layout = Layout(name="vector", shape=(1, 5, 1, 1), dtype="float32", missing=-99.0)
    view = store.put_view(shared_kit.view.model_copy(update={"name": "vectors", "layout": layout}))
    values = rng.normal(size=(20, 5)).astype(np.float32)
    values[0, 1] = values[:9, 2] = -99
    for row, vector in enumerate(values):
        entry = Entry({"memory": vector.reshape(1, 5, 1, 1)}, {})
        store.publish(view, EntryKey(f"P{row:02d}", "PET", "roi"), entry, input_sha256=f"{row:064x}")
    found = measure(Asked(store.url, ("vectors",), umap=False), silent).found
    (one,) = found.views[0].embeddings
    assert (one.not_finite, one.left_out, one.sparse, one.channels) == (0, 0, 1, None)
    assert one.unknown == pytest.approx(10 / 100)
    assert found.views[0].alignments == ()
    assert [picture.kind for picture in one.pictures if picture.points] == ["PCA"]


def test_files_hold_all_figures_and_a_rerun_writes_the_same(made, measured, tmp_path):
    url = write_quality(measured, str(tmp_path / "out"))
    write_page(measured.found, url)
    folder = tmp_path / "out"
    assert Quality.model_validate_json((folder / "quality.json").read_bytes()) == measured.found
    table = pd.read_csv(folder / "quality.csv").set_index(["modality", "measure"])["value"]
    pet = by_entry(measured.found)["PET/spine"]
    assert table["PET", "effective rank"] == pytest.approx(pet.effective_rank)
    assert table["PET", "p_holm of location by scanner, permuted free"] == pytest.approx(pet.drift[0].location.p_holm)
    assert table["PET+CT", "cka debiased"] == pytest.approx(measured.found.views[0].alignments[0].cka_debiased)
    norms = pd.read_csv(folder / "norms.csv")
    assert len(norms) == 43 + 41
    assert FAR in set(norms.loc[norms["outlier"] == 1, "patient"])
    pairs = pd.read_csv(folder / "duplicates.csv")
    told = {(one.modality, one.patient, one.other): one.same_input for one in pairs.itertuples()}
    assert told == {("PET", "P003", COPY): 1, ("CT", "P003", COPY): 1, ("PET", "P005", NEARLY): 0}
    drift = pd.read_csv(folder / "drift.csv")
    assert len(drift) == 2 * 2 * 2
    aligned = pd.read_csv(folder / "alignment.csv")
    assert len(aligned) == 41
    assert aligned.set_index("patient").loc["P002", "body_dice"] == pytest.approx(0.7)
    assert aligned["log_risk"].notna().sum() == 40
    page = (folder / "report.html").read_text()
    # sizes, pairs, drift, alignment and a picture of each modality
    assert page.count("<svg") == 6
    assert not re.search(r"(?:src|href)=[\"'](?:https?:)?//", page)
    assert not re.search(r"P0\d\d", page)
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = measure(
        asked(made, clinical=made.clinical, columns=made.columns, groups=("scanner",), run_url=made.run, row="image"),
        silent,
    )
    write_page(again.found, write_quality(again, str(tmp_path / "out")))
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({"views": ()}, UsageError, "nothing to judge"),
        ({"views": ("absent",)}, NotCommittedError, "absent"),
        ({"groups": ("scanner",)}, UsageError, "--clinical"),
        ({"clinical": True, "groups": ("patient",)}, UsageError, "who is who"),
        ({"clinical": True, "groups": ("nothing",)}, TableError, "no column 'nothing'"),
        ({"row": "image"}, UsageError, "go together"),
        ({"run_url": True, "row": "none"}, UsageError, "name one of cox, image"),
        ({"run_url": True, "row": "cox", "groups": ("scanner",)}, UsageError, "only centre, stage"),
        ({"run_url": True, "row": "cox", "model_url": True}, UsageError, "not both"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_do(made, more, error, said):
    real = {"clinical": made.clinical, "run_url": made.run, "model_url": made.model}
    with pytest.raises(error, match=said):
        measure(asked(made, **{name: real[name] if value is True else value for name, value in more.items()}), silent)


def test_risks_of_an_incomplete_row_are_refused(made, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(made.run, copy)
    results = json.loads((copy / "results.json").read_text())
    next(row for row in results["rows"] if row["label"] == "image")["mean"] = None
    (copy / "results.json").write_text(json.dumps(results))
    with pytest.raises(UsageError, match=r"'image' of .* is incomplete"):
        measure(asked(made, run_url=str(copy), row="image"), silent)


def drifting(measured, location: float, spread: float):
    """What is told of one drift with these adjusted p, as finding and as key figure."""
    view = measured.found.views[0]
    one, first = view.embeddings[0], view.embeddings[0].drift[0]
    drift = first.model_copy(
        update={
            "location": first.location.model_copy(update={"p_holm": location}),
            "spread": first.spread.model_copy(update={"p_holm": spread}),
        }
    )
    changed = view.model_copy(update={"embeddings": (one.model_copy(update={"drift": (drift,)}),), "alignments": ()})
    told = [one.text for one in findings((changed,), measured.found.settings) if f"of {drift.column}" in one.text]
    return told, key_figures(measured.found.model_copy(update={"views": (changed,)}))[1].reading


def test_what_was_not_shown_is_not_told_as_equal(measured):
    (moved,), figure = drifting(measured, 0.01, 0.3)
    assert moved.endswith("; no difference in spread was shown (Holm p 0.3)")
    assert "No difference in spread was shown (PERMDISP, Holm p 0.300)" in figure
    (wider,), figure = drifting(measured, 0.4, 0.02)
    assert "no difference in location was shown (R² " in wider
    assert "Spreads differ (PERMDISP, Holm p 0.020)" in figure
    assert drifting(measured, 0.4, 0.3)[0] == []
    view = measured.found.views[0]
    alike = view.alignments[0].model_copy(update={"rank_p": 0.3, "cka_p": 0.06})
    changed = view.model_copy(update={"alignments": (alike,)})
    told = " ".join(one.text for one in findings((changed,), measured.found.settings))
    assert "were not shown to be more alike than those of two (p by rank 0.30, by CKA 0.06)" in told


def test_drawings_that_a_call_has_not_are_removed(measured, tmp_path):
    url = write_quality(measured, str(tmp_path / "out"))
    write_page(measured.found, url)
    figures = tmp_path / "out/figures"
    assert list(figures.glob("pca-*.svg"))
    view = measured.found.views[0]
    plain = tuple(one.model_copy(update={"pictures": ()}) for one in view.embeddings)
    fewer = measured.found.model_copy(update={"views": (view.model_copy(update={"embeddings": plain}),)})
    write_page(fewer, url)
    assert not list(figures.glob("pca-*.svg"))
    assert sorted(one.stem for one in figures.iterdir()) == sorted(one.name for one in draw_quality(fewer))


def test_a_view_named_twice_and_a_run_of_another_store_are_refused(made, shared_kit, tmp_path):
    with pytest.raises(UsageError, match="named twice"):
        measure(asked(made, views=(made.view, "tiny")), silent)
    other = create_store(tmp_path / "store")
    shared_kit.fill(other, shared_kit.draw(10))
    with pytest.raises(UsageError, match="equal ids may be other patients"):
        measure(Asked(other.url, ("tiny",), run_url=made.run, row="image", umap=False), silent)


def test_the_command_prints_findings_first_and_writes_a_folder(made, tmp_path):
    arguments = ["quality", "--store", made.store, "--view", "tiny", "--no-umap", "--permutations", "99"]
    arguments += ["--clinical", str(made.clinical), "--group", "scanner", "--model", made.model]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("wrong ")
    assert result.stdout.index("1 pair of different patients with the same input") < result.stdout.index("Embeddings")
    assert "report.html" in result.stdout
    assert json.loads((tmp_path / "out" / "quality.json").read_text())["layout"] == "engram-quality-1"
    refused = CliRunner().invoke(main, [*arguments, "--out", made.run])
    assert refused.exit_code != 0
    assert "holds a run" in refused.stderr
    wrong = CliRunner().invoke(main, ["quality", "--store", made.store, "--view", "tiny", "--row", "x", "--out", "x"])
    assert wrong.exit_code == 2
    assert "go together" in wrong.stderr


def test_many_groups_are_drawn_on_several_figures_and_odd_names_as_they_are(measured):
    columns = [f"_cost_${number}$" for number in range(7)]
    view = measured.found.views[0]
    picture = view.embeddings[0].pictures[0]
    points = tuple(
        point.model_copy(update={"levels": dict.fromkeys(columns, f"level {row % 9}")})
        for row, point in enumerate(picture.points)
    )
    one = view.embeddings[0].model_copy(update={"pictures": (picture.model_copy(update={"points": points}),)})
    found = measured.found.model_copy(
        update={"groups": tuple(columns), "views": (view.model_copy(update={"embeddings": (one,)}),)}
    )
    drawn = {figure.name: figure.svg for figure in draw_quality(found)}
    names = [name for name in drawn if name.startswith("pca-")]
    assert len(names) == 2
    assert "_cost_$6$" in drawn[names[1]]
    # five levels of nine have looks of their own
    assert "4 others (" in drawn[names[0]]


def test_pseudonymised_patients_are_joined_and_called_so_everywhere(shared_kit, tmp_path):
    store, ids = create_store(tmp_path / "store"), Pseudonyms(b"a key of sixteen bytes or more")
    settle_rule(store, ids)
    table = shared_kit.draw(12).assign(site=["x", "y"] * 6)
    table.to_csv(tmp_path / "table.csv", index=False)
    shared_kit.fill(store, table.assign(patient=[ids.key(one) for one in table["patient"]]))
    given = {"clinical": tmp_path / "table.csv", "groups": ("site",), "umap": False, "permutations": 99}
    measured = measure(Asked(store.url, ("tiny",), ids=Pseudonyms(b"a key of sixteen bytes or more"), **given), silent)
    assert measured.found.views[0].embeddings[0].drift[0].levels == {"x": 6, "y": 6}
    write_page(measured.found, write_quality(measured, str(tmp_path / "out")))
    for path in (tmp_path / "out").rglob("*.*"):
        assert not re.search(r"P0\d\d", path.read_text())
    with pytest.raises(UsageError, match="pseudonyms"):
        measure(Asked(store.url, ("tiny",), **given), silent)
