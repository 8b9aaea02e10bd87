"""`trainer robustness --run`: models of folds made again bit for bit, out-of-fold figures against other programs, refusals."""

import hashlib
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from rich.console import Console
from scipy import stats
from sksurv.metrics import concordance_index_censored

from store_schema import Entry, EntryKey, Layout, open_store
from store_schema.errors import CohortError, ObjectAlteredError, SchemaError, TaskError, UsageError
from trainer.cli import main
from trainer.dispatch import Workers
from trainer.final import fit_final
from trainer.plan import Inputs
from trainer.predicting import score_cohort
from trainer.robustness.agreement import icc
from trainer.robustness.fold_models import RunRow, fold_models
from trainer.robustness.fold_scores import over_folds
from trainer.robustness.measuring import Asked, measure
from trainer.robustness.page import write_page
from trainer.robustness.results import Agreement, FoldRobustness
from trainer.robustness.writing import write_robustness
from trainer.run import cross_validate
from trainer.saved import read_model

ROWS = ("image", "attention", "both", "vector", "radiomics", "tuned", "tuned (paper's way)", "either")
ABSENT = ("P003", "P004", "P038")
"""Whom one perturbed view lacks."""


def disturbed(view, kind, size=None):
    flags = {**view.flags, "perturbation": kind} | ({} if size is None else {"perturbation_size_mm": size})
    return view.model_copy(update={"name": f"{view.name}-{kind}", "flags": flags})


def publish(store, view, made, digest):
    for (patient, modality), entry in made.items():
        told = hashlib.sha256(f"{digest}{patient}{modality}".encode()).hexdigest()
        store.publish(view, EntryKey(patient, modality, "spine"), entry, input_sha256=told)


def shifted(entry, noise):
    memory = entry.arrays["memory"].astype(np.float32) + noise
    arrays = {"memory": memory.astype(np.float16), "mean_map": memory.mean(axis=(0, 1)).astype(np.float32)}
    return Entry(arrays, {"valid": [True]})


def vector_entries(table, seed):
    rng = np.random.default_rng(seed)
    made = {}
    for patient, z in zip(table["patient"], table["z"], strict=True):
        values = rng.normal(size=5)
        values[0] = z
        made[patient, "PET"] = Entry({"memory": values.reshape(1, 5, 1, 1).astype(np.float32)}, {})
    return made


def fill_views(store, kit, table):
    """Of maps and of vectors: the same again, with noise, without some patients, and dealt to other patients."""
    rng = np.random.default_rng(1)
    maps = {
        (patient, modality): kit.entry(z if modality == "PET" else 0.3 * z, [0, row, channel])
        for row, (patient, z) in enumerate(zip(table["patient"], table["z"], strict=True))
        for channel, modality in enumerate(("PET", "CT"))
    }
    layout = Layout(name="vector", shape=(1, 5, 1, 1), dtype="float32")
    vector_view = kit.view.model_copy(update={"name": "vec", "layout": layout})
    vectors = vector_entries(table, 5)
    publish(store, store.put_view(vector_view), vectors, "base")
    other = vector_view.model_copy(update={"name": "vec2"})
    publish(store, store.put_view(other), vector_entries(table, 6), "other")
    order = rng.permutation(len(table))
    patients = list(table["patient"])
    dealt = dict(zip(patients, [patients[place] for place in order], strict=True))
    for view, base in ((kit.view, maps), (vector_view, vectors)):
        publish(store, store.put_view(disturbed(view, "same")), base, "same")
        noisy = {key: with_noise(entry, rng) for key, entry in base.items()}
        publish(store, store.put_view(disturbed(view, "noise", 2.0)), noisy, "noise")
        some = {key: entry for key, entry in noisy.items() if key[0] not in ABSENT}
        publish(store, store.put_view(disturbed(view, "some", 3.0)), some, "some")
        strange = {(patient, modality): base[dealt[patient], modality] for patient, modality in base}
        publish(store, store.put_view(disturbed(view, "dealt")), strange, "dealt")


def with_noise(entry, rng):
    noise = 0.5 * rng.normal(size=entry.arrays["memory"].shape)
    if "mean_map" in entry.arrays:
        return shifted(entry, noise)
    return Entry({"memory": entry.arrays["memory"] + noise.astype(np.float32)}, {})


def settings(kit):
    image = {"kind": "network", "view": "tiny", "images": {"roi": "spine"}, "hidden": [4]}
    vector = {
        "kind": "network",
        "view": "vec",
        "head": "vector",
        "hidden": [4],
        "images": {"modalities": ["PET"], "roi": "spine"},
    }
    linear = {"kind": "ridge_cox", "images": {"modalities": ["PET"], "roi": "spine"}, "clinical": False}
    return {
        **kit.settings,
        "splits": {"folds": 3, "repeats": 2},
        "search": {"mode": "both", "points": 2, "inner_folds": 2},
        "models": [
            {"name": "cox", "kind": "ridge_cox"},
            {"name": "image", "fusion": "gate", **image},
            {"name": "attention", "head": "attention", **image, "images": {"roi": "spine", "modalities": ["PET"]}},
            {"name": "both", "fusion": "gate", "clinical": True, **image},
            {"name": "vector", **vector},
            {"name": "radiomics", "view": "vec", **linear},
            {"name": "radiomics2", "view": "vec2", **linear},
            {"name": "tuned", **vector, "clinical": True, "search": {"fit.learning_rate": {"choice": [1e-4, 1e-2]}}},
            {"name": "either", "kind": "choice", "of": ["cox", "vector"]},
            {"name": "views", "kind": "choice", "of": ["radiomics", "radiomics2"]},
        ],
    }


def run_of(config, folder, name):
    quiet = Console(file=io.StringIO())
    inputs = Inputs(folder / "clinical.csv", str(folder / "store"))
    report = cross_validate(config, inputs, out=str(folder / name), workers=Workers(number=0), console=quiet)
    assert report.results.complete, report.results.failures


@pytest.fixture(scope="module")
def made(cohort_folder, shared_kit, tmp_path_factory):
    """Folder with a store of views, base and perturbed, and a finished run of every kind of row on the base."""
    folder = tmp_path_factory.mktemp("folds")
    shutil.copytree(cohort_folder / "store", folder / "store")
    shutil.copy(cohort_folder / "clinical.csv", folder / "clinical.csv")
    fill_views(open_store(str(folder / "store")), shared_kit, shared_kit.draw())
    run_of(shared_kit.parse(settings(shared_kit)), folder, "run")
    return folder


def view_of(row):
    return "tiny" if row in ("image", "attention", "both") else "vec"


def asked(folder, row, *kinds, run="run", **more):
    view = view_of(row)
    (base,) = (one for one in open_store(str(folder / "store")).view_ids() if one.rpartition("-")[0] == view)
    perturbed = tuple(f"{view}-{kind}" for kind in kinds)
    return Asked(str(folder / "store"), base, perturbed, run_url=str(folder / run), row=row, resamples=100, **more)


def silent(done, total):
    assert 0 <= done <= total


@pytest.fixture(scope="module")
def judged(made):
    """Figures of the linear row, whose planted signal it finds, on views the same, with noise and dealt to others."""
    return measure(asked(made, "radiomics", "same", "noise", "dealt"), silent)


def by_kind(measured):
    return {view.kind: view.risk for view in measured.found.views}


# Models made again


@pytest.mark.parametrize("row", ROWS)
def test_models_made_again_give_the_recorded_risks_to_the_last_bit_and_come_back_from_their_files(made, row, tmp_path):
    found = RunRow.read(str(made / "run"), row)
    told = []
    models = fold_models(found, str(made / "store"), keep=str(tmp_path), told=told.append)
    assert sorted(models) == list(found.reading)
    assert told[-1] == len(models)
    where = (str(made / "store"), found.pin["snapshot"])
    files = list(tmp_path.glob("models/*/card.json"))
    assert len(files) == len(models)
    kept = [read_model(str(path.parent)) for path in files]
    for fold, model in models.items():
        result = found.results[fold]
        (again,) = (pair for pair in kept if pair[0].name == f"{row}, fold {fold}")
        for card, trained in ((model.card, model.trained), again):
            risk = trained.predict(score_cohort(card, trained, found.run.cohort, where), result.patients).log_risk
            np.testing.assert_array_equal(risk, result.log_risk)
        assert model.card.training.patients == result.train_patients
        assert (model.card.risk_mean, model.card.risk_sd) == (result.train_mean, result.train_sd)


def test_settings_of_folds_are_those_that_each_fold_chose(made):
    row = RunRow.read(str(made / "run"), "tuned")
    chosen = {one.fold: one.settings["fit.learning_rate"] for one in row.judged.chosen}
    models = fold_models(row, str(made / "store"), keep=None, told=lambda done: None)
    assert {fold: model.card.network.fit.learning_rate for fold, model in models.items()} == chosen


def test_folds_of_a_pruned_nested_search_are_made_again(made, shared_kit):
    search = {"dropout": {"range": [0, 0.6]}, "fit.learning_rate": {"log": [1e-4, 1e-2]}}
    vector = next(model for model in settings(shared_kit)["models"] if model["name"] == "vector")
    changed = {
        "splits": {"folds": 3},
        "search": {"mode": "nested", "points": 4, "inner_folds": 2, "keep": 0.5},
        "models": [{**vector, "search": search}],
    }
    run_of(shared_kit.parse({**settings(shared_kit), **changed}), made, "pruned")
    row = RunRow.read(str(made / "pruned"), "vector")
    assert sorted(fold_models(row, str(made / "store"), keep=None, told=lambda done: None)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("row", "nudged", "said"),
    [("image", 1e-9, "1 differ, by 1e-09 at most"), ("radiomics", 0.5, "1 differ, by 0.5 at most")],
)
def test_a_record_that_was_changed_is_refused_with_the_difference(made, tmp_path, row, nudged, said):
    run = shutil.copytree(made / "run", tmp_path / "run")

    def nudge(fit):
        if (fit["model"], fit["fold"]) == (row, 1):
            fit["log_risk"][3] += nudged

    change_tasks(run, nudge)
    with pytest.raises(TaskError, match=f"fold 1 of row '{row}'.*{said}.*versions are the same, so that a file"):
        measure(replace(asked(made, row, "same"), run_url=str(run)), silent)


def change_tasks(run, change):
    for path in (run / "tasks").glob("*.json"):
        told = json.loads(path.read_text())
        for fit in told["outer"]:
            change(fit)
        path.write_text(json.dumps(told))


def change_record(run, **changes):
    told = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**told, **changes}))


def test_another_training_mean_is_refused_too(made, tmp_path):
    run = shutil.copytree(made / "run", tmp_path / "run")
    change_tasks(run, lambda fit: fit.update(train_sd=2 * fit["train_sd"]))
    with pytest.raises(TaskError, match=r"0 differ.*and so do mean or standard deviation of the training patients"):
        measure(replace(asked(made, "radiomics", "same"), run_url=str(run)), silent)


def test_other_versions_are_named_as_the_cause(made, tmp_path):
    run = shutil.copytree(made / "run", tmp_path / "run")
    change_record(run, versions={**json.loads((run / "run.json").read_text())["versions"], "numpy": "0.9"})
    assert measure(replace(asked(made, "vector", "same"), run_url=str(run)), silent).found.model.name == "vector"
    change_tasks(run, lambda fit: fit["log_risk"].reverse())
    with pytest.raises(TaskError, match=r"the run was made with numpy 0.9 \(here "):
        measure(replace(asked(made, "vector", "same"), run_url=str(run)), silent)


@pytest.mark.parametrize("row", ["image", "vector"])
def test_settings_that_are_not_those_of_the_tasks_are_refused(made, tmp_path, row):
    run = shutil.copytree(made / "run", tmp_path / "run")
    config = json.loads((run / "run.json").read_text())["config"]
    change_record(run, config={**config, "seed": 7})
    with pytest.raises(SchemaError, match=r"the tasks that made fold 0, 1, 2, 3, 4, 5 of row .* are not those"):
        measure(replace(asked(made, row, "same"), run_url=str(run)), silent)


def test_folds_or_patients_that_were_changed_are_refused(made, tmp_path):
    for name in ("splits.json", "cohort.json"):
        run = shutil.copytree(made / "run", tmp_path / name)
        (run / name).write_text((run / name).read_text() + " ")
        with pytest.raises(ObjectAlteredError, match=name):
            measure(replace(asked(made, "image", "same"), run_url=str(run)), silent)


# Figures


def test_the_same_embeddings_change_nothing(made, judged):
    for row, risk in (
        ("radiomics", by_kind(judged)["same"]),
        ("both", by_kind(measure(asked(made, "both", "same"), silent))["same"]),
    ):
        assert risk.icc == Agreement(value=1.0, low=1.0, high=1.0), row
        assert (risk.spearman, risk.kendall) == pytest.approx((1.0, 1.0))
        assert (risk.mean_rank_change, risk.changed_group) == (0.0, 0.0)
        assert (risk.c.change, risk.c.low, risk.c.high, risk.c.p) == (0.0, 0.0, 0.0, 1.0)
        assert {one.change for one in risk.folds} == {0.0}
        assert (risk.over_folds.change, risk.over_folds.low, risk.over_folds.high) == (0.0, 0.0, 0.0)
        assert risk.over_folds.p is None


def test_embeddings_of_other_patients_leave_no_agreement_and_c_at_chance(judged):
    risk = by_kind(judged)["dealt"]
    assert risk.c.base > 0.65
    assert abs(risk.c.perturbed - 0.5) < 0.12
    assert abs(risk.icc.value) < 0.35
    assert risk.c.high < 0
    assert risk.over_folds.change < -0.1
    assert abs(risk.over_folds.perturbed - 0.5) < 0.12


def test_pooled_figures_follow_from_the_table_of_patients_by_other_programs(made, judged, tmp_path):
    write_robustness(judged, str(tmp_path))
    table = pd.read_csv(tmp_path / "risks.csv")
    clinical = pd.read_csv(made / "clinical.csv").set_index("patient")
    fits = {(one["model"], one["fold"]): one for one in recorded(made / "run")}
    for view in judged.found.views:
        mine = table[table["view"] == view.view]
        assert len(mine) == 2 * 40
        for fold, some in mine.groupby("fold"):
            fit = fits["radiomics", fold]
            assert list(some["patient"]) == fit["patients"]
            assert list(some["log_risk_base"]) == fit["log_risk"]
            for raw, z in (("log_risk_base", "z_base"), ("log_risk", "z")):
                np.testing.assert_allclose(some[z], (some[raw] - fit["train_mean"]) / fit["train_sd"], rtol=1e-12)
        pooled = mine.groupby("patient")[["z_base", "z"]].mean()
        base, other = pooled["z_base"].to_numpy(), pooled["z"].to_numpy()
        assert view.risk.spearman == pytest.approx(stats.spearmanr(base, other).statistic)
        assert view.risk.kendall == pytest.approx(stats.kendalltau(base, other).statistic)
        assert view.risk.icc.value == pytest.approx(icc(np.stack([base, other], axis=1)).value)
        assert view.risk.changed_group == pytest.approx((mine["risk_group"] != mine["risk_group_base"]).mean())
        months = clinical.loc[pooled.index, "months"].to_numpy(dtype=float)
        event = clinical.loc[pooled.index, "event"].to_numpy() == 1
        c = [concordance_index_censored(event, months, one)[0] for one in (base, other)]
        assert (view.risk.c.base, view.risk.c.perturbed) == pytest.approx(tuple(c))
        assert view.risk.c.change == pytest.approx(c[1] - c[0])
    own = json.loads((made / "run" / "measures.json").read_text())["radiomics"]["pooled_c"]["value"]
    assert judged.found.views[0].risk.c.base == pytest.approx(own)
    series = [table[table["view"] == view].groupby("patient")["z"].mean() for view in judged.order]
    together = icc(np.stack([base, *(one.to_numpy() for one in series)], axis=1))
    assert judged.found.risk_icc.value == pytest.approx(together.value)


def recorded(run):
    return [
        fit
        for path in (run / "tasks").glob("*.json")
        for fit in json.loads(path.read_text())["outer"]
        if not fit["permutation"]
    ]


def test_risk_groups_are_quartiles_of_each_folds_training_patients(made, judged, tmp_path):
    write_robustness(judged, str(tmp_path))
    table = pd.read_csv(tmp_path / "risks.csv")
    models = fold_models(
        RunRow.read(str(made / "run"), "radiomics"), str(made / "store"), keep=None, told=lambda done: None
    )
    for fold, some in table.groupby("fold"):
        cuts = models[fold].card.risk_cuts
        for raw, group in (("log_risk_base", "risk_group_base"), ("log_risk", "risk_group")):
            assert list(some[group]) == [1 + sum(risk > cut for cut in cuts) for risk in some[raw]]


def test_folds_are_judged_by_scikit_survival_and_tested_as_nadeau_and_bengio_say(made, judged, tmp_path):
    write_robustness(judged, str(tmp_path))
    table, folds = pd.read_csv(tmp_path / "risks.csv"), pd.read_csv(tmp_path / "folds.csv")
    clinical = pd.read_csv(made / "clinical.csv").set_index("patient")
    for view in judged.found.views:
        changes = []
        mine = table[table["view"] == view.view]
        for (fold, some), told in zip(mine.groupby("fold"), view.risk.folds, strict=True):
            months = clinical.loc[some["patient"], "months"].to_numpy(dtype=float)
            event = clinical.loc[some["patient"], "event"].to_numpy() == 1
            pair = [
                concordance_index_censored(event, months, some[one].to_numpy())[0]
                for one in ("log_risk_base", "log_risk")
            ]
            assert (told.fold, told.patients, told.events) == (fold, len(some), event.sum())
            assert (told.c_base, told.c) == pytest.approx(tuple(pair))
            changes.append(pair[1] - pair[0])
        line = folds[(folds["view"] == view.view) & (folds["fold"] == 2)].iloc[0]
        assert line["change"] == pytest.approx(changes[2])
        test = view.risk.over_folds
        assert test.change == pytest.approx(np.mean(changes))
        if np.ptp(changes) == 0:
            continue
        # six folds of two repeats, a third tested: 1/2 test patient for each training patient
        se = np.sqrt(np.var(changes, ddof=1) * (1 / 6 + 1 / 2))
        assert (test.se, test.df, test.folds) == (pytest.approx(se), 5, 6)
        assert test.t == pytest.approx(np.mean(changes) / se)
        assert test.p == pytest.approx(2 * stats.t.sf(abs(np.mean(changes) / se), 5))
        half = stats.t.ppf(0.975, 5) * se
        assert (test.low, test.high) == pytest.approx((np.mean(changes) - half, np.mean(changes) + half))


def test_a_fold_without_a_comparable_pair_leaves_no_test():
    known = FoldRobustness(
        fold=0, repeat=0, patients=5, events=2, icc=Agreement(value=None), spearman=None, c_base=0.6, c=0.5, change=-0.1
    )
    lost = known.model_copy(
        update={"fold": 1, "c_base": None, "c": None, "change": None, "reason": "no comparable pair"}
    )
    found = over_folds([known, lost], test_to_train=0.5)
    assert (found.change, found.p) == (None, None)
    assert "fold 1 has no comparable pair" in found.reason


def test_patients_whom_a_view_lacks_are_left_out_of_every_view(made):
    found = measure(asked(made, "radiomics", "noise", "some"), silent).found
    assert (found.model.row.patients, found.model.row.patients_of_run) == (37, 40)
    assert {view.risk.patients for view in found.views} == {37}
    assert {sum(one.patients for one in view.risk.folds) for view in found.views} == {2 * 37}
    # the two hold the same noise of the same patients
    assert found.views[0].risk == found.views[1].risk
    assert any("3 of the run's 40 patients lack an entry" in note for note in found.notes)


def test_a_choice_without_images_holds_whatever_is_disturbed(made):
    row = RunRow.read(str(made / "run"), "either")
    found = measure(asked(made, "either", "dealt"), silent).found
    blind = found.model.row.without_images
    assert blind == tuple(fold for fold in range(6) if fold not in row.reading)
    assert 0 < len(blind) < 6
    for one in found.views[0].risk.folds:
        assert (one.change == 0 and one.icc.value == 1) == (one.fold in blind)
    assert any("chose a model without images" in note for note in found.notes)


def test_notes_say_whose_risks_they_are(made, judged):
    notes = " ".join(judged.found.notes)
    assert "the models of the run's 6 folds were made again" in notes
    assert "averages over 2 repeats" in notes
    assert "OPTIMISTIC" not in notes
    paper = measure(asked(made, "tuned (paper's way)", "same"), silent).found
    assert any("best of 2 settings: each c is OPTIMISTIC" in note for note in paper.notes)
    assert (paper.model.row.tuned, paper.model.row.tried, paper.model.apparent) == ("paper", 2, False)


# Files and commands


def test_a_rerun_fits_nothing_and_writes_the_same(made, tmp_path):
    out, calls = tmp_path / "out", []
    wanted = asked(made, "image", "same", "noise", keep=str(out))
    for _ in range(2):
        measured = measure(wanted, lambda done, total: calls.append((done, total)))
        write_page(measured.found, write_robustness(measured, str(out)))
        held = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        calls.append(held)
    assert calls[0] == (0, 8)
    first, second = (one for one in calls if isinstance(one, dict))
    assert first == second
    weights = sorted(out.glob("models/fold-00*/weights.safetensors"))
    assert len(weights) == 6
    weights[2].write_bytes(weights[3].read_bytes())
    with pytest.raises(ObjectAlteredError, match=r"weights\.safetensors has sha256"):
        measure(wanted, silent)


def test_a_kept_model_that_is_another_is_refused(made, tmp_path):
    wanted = asked(made, "radiomics", "same", keep=str(tmp_path))
    measure(wanted, silent)
    path = min(tmp_path.glob("models/*/card.json"))
    card = json.loads(path.read_text())
    card["cox"]["coefficients"] = [2 * one for one in card["cox"]["coefficients"]]
    path.write_text(json.dumps(card))
    with pytest.raises(TaskError, match="fold 0 of row 'radiomics': the model made again is not the run's"):
        measure(wanted, silent)


def test_files_of_folds_go_where_a_model_alone_is_judged_afterwards(made, tmp_path):
    folder = tmp_path / "out"
    fit_final(str(made / "run"), "radiomics", out=str(tmp_path / "model"))
    measured = measure(asked(made, "radiomics", "same"), silent)
    write_page(measured.found, write_robustness(measured, str(folder)))
    page = (folder / "report.html").read_text()
    assert "Out-of-fold risks of row radiomics" in page
    assert "Fold by fold" in page
    single = replace(asked(made, "radiomics", "same"), run_url=None, row=None, model_url=str(tmp_path / "model"))
    write_robustness(measure(single, silent), str(folder))
    assert not (folder / "folds.csv").exists()
    write_robustness(measure(replace(single, model_url=None), silent), str(folder))
    assert not (folder / "risks.csv").exists()


def test_the_command_prints_folds_and_keeps_their_models(made, tmp_path):
    one = asked(made, "radiomics")
    arguments = [
        "robustness",
        "--store",
        one.store_url,
        "--base",
        one.base,
        "--perturbed",
        "vec-noise",
        "--perturbed",
        "vec-dealt",
    ]
    arguments += ["--run", one.run_url, "--row", "radiomics", "--resamples", "100", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "Out-of-fold risks of radiomics against the base" in done.stdout
    assert "Harrell's c over folds" in done.stdout
    assert len(list((tmp_path / "out" / "models").iterdir())) == 6
    assert len(pd.read_csv(tmp_path / "out" / "folds.csv")) == 2 * 6
    measures = set(pd.read_csv(tmp_path / "out" / "robustness.csv")["measure"])
    assert {"change of c over folds", "p of the change of c over folds"} <= measures
    for more, said in (
        (["--clinical", str(made / "clinical.csv")], "with --run leave it out"),
        (["--model", str(tmp_path)], "give one of them"),
    ):
        refused = CliRunner().invoke(main, [*arguments, *more])
        assert refused.exit_code == 2
        assert said in refused.stderr
    refused = CliRunner().invoke(main, [*arguments[:-1], one.run_url])
    assert "holds a run" in refused.stderr


@pytest.mark.parametrize(
    ("row", "changes", "error", "said"),
    [
        ("cox", {}, UsageError, "row 'cox' reads no images"),
        ("nobody", {}, UsageError, "the run has no row 'nobody': it has cox"),
        ("views", {}, UsageError, r"chose models of several views in its folds \(vec, vec2\).*radiomics, radiomics2"),
        ("radiomics", {"row": None}, UsageError, "give --run and --row together"),
        (
            "radiomics",
            {"base": "vec2"},
            UsageError,
            "the run read snapshot .* and the base is view vec2-.*: give --base vec-",
        ),
        ("image", {"perturbed": ("tiny-few",)}, CohortError, "2 of the run's 40 patients"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_anything_is_fitted(
    made, shared_kit, tmp_path, row, changes, error, said
):
    if changes.get("perturbed") == ("tiny-few",):
        store = open_store(str(made / "store"))
        few = {
            (f"P{n:03d}", m): shared_kit.entry(0.0, [n]) for n in range(3) for m in ("PET", "CT")[: 1 if n == 2 else 2]
        }
        publish(store, store.put_view(disturbed(shared_kit.view, "few")), few, "few")
    with pytest.raises(error, match=said):
        measure(replace(asked(made, row, "same"), keep=str(tmp_path), **changes), silent)
    assert not list(tmp_path.iterdir())
