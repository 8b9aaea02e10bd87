"""`trainer robustness --run`: out-of-fold figures against other programs, planted views, files and the command."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats
from sksurv.metrics import concordance_index_censored

from store_schema import open_store
from store_schema.errors import ObjectAlteredError
from trainer.cli import main
from trainer.dispatch import Workers
from trainer.final import fit_final
from trainer.robustness.agreement import icc
from trainer.robustness.fold_models import RunRow, fold_models
from trainer.robustness.fold_scores import over_folds
from trainer.robustness.measuring import measure
from trainer.robustness.page import write_page
from trainer.robustness.results import Agreement, FoldRobustness
from trainer.robustness.writing import write_robustness

from .folds_help import HERE, asked, silent


@pytest.fixture(scope="module")
def judged(folded):
    """Figures of the linear row, whose planted signal it finds, on views the same, with noise and dealt to others."""
    return measure(asked(folded, "radiomics", "same", "noise", "dealt"), silent)


def by_kind(measured):
    return {view.kind: view.risk for view in measured.found.views}


# Figures


def test_the_same_embeddings_change_nothing(folded, judged):
    for row, risk in (
        ("radiomics", by_kind(judged)["same"]),
        ("both", by_kind(measure(asked(folded, "both", "same"), silent))["same"]),
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


def test_pooled_figures_follow_from_the_table_of_patients_by_other_programs(folded, judged, tmp_path):
    write_robustness(judged, str(tmp_path))
    table = pd.read_csv(tmp_path / "risks.csv")
    clinical = pd.read_csv(folded / "clinical.csv").set_index("patient")
    fits = {(one["model"], one["fold"]): one for one in recorded(folded / "run")}
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
    own = json.loads((folded / "run" / "measures.json").read_text())["radiomics"]["pooled_c"]["value"]
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


def test_risk_groups_are_quartiles_of_each_folds_training_patients(folded, judged, tmp_path):
    write_robustness(judged, str(tmp_path))
    table = pd.read_csv(tmp_path / "risks.csv")
    models = fold_models(RunRow.read(str(folded / "run"), "radiomics"), str(folded / "store"), keep=None, **HERE)
    for fold, some in table.groupby("fold"):
        cuts = models[fold].card.risk_cuts
        for raw, group in (("log_risk_base", "risk_group_base"), ("log_risk", "risk_group")):
            assert list(some[group]) == [1 + sum(risk > cut for cut in cuts) for risk in some[raw]]


def test_folds_are_judged_by_scikit_survival_and_tested_as_nadeau_and_bengio_say(folded, judged, tmp_path):
    write_robustness(judged, str(tmp_path))
    table, folds = pd.read_csv(tmp_path / "risks.csv"), pd.read_csv(tmp_path / "folds.csv")
    clinical = pd.read_csv(folded / "clinical.csv").set_index("patient")
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


def test_patients_whom_a_view_lacks_are_left_out_of_every_view(folded):
    found = measure(asked(folded, "radiomics", "noise", "some"), silent).found
    assert (found.model.row.patients, found.model.row.patients_of_run) == (37, 40)
    assert {view.risk.patients for view in found.views} == {37}
    assert {sum(one.patients for one in view.risk.folds) for view in found.views} == {2 * 37}
    # the two hold the same noise of the same patients
    assert found.views[0].risk == found.views[1].risk
    assert any("3 of the run's 40 patients lack an entry" in note for note in found.notes)


def test_where_a_handful_of_patients_is_left_folds_say_why_they_have_no_figure(folded, tmp_path):
    wanted = asked(folded, "radiomics")
    store = open_store(wanted.store_url)
    view = store.resolve_view("vec-noise")
    some = {key: number for key, number in store.current_numbers(view).items() if key.patient < "P004"}
    measured = measure(replace(wanted, perturbed=(store.make_snapshot(view, some),)), silent)
    (risk,) = (one.risk for one in measured.found.views)
    assert risk.patients == 4
    assert sum(one.patients for one in risk.folds) == 2 * 4
    for one in risk.folds:
        assert (one.icc.value is None) == (one.patients < 3)
        assert (one.change is None) == ("no comparable pair" in str(one.reason))
    assert any(one.change is None for one in risk.folds)
    assert "no comparable pair among the patients that all views hold" in risk.over_folds.reason
    page = write_page(measured.found, write_robustness(measured, str(tmp_path)))
    assert "No test over folds: fold" in (tmp_path / page.rpartition("/")[2]).read_text()


def test_a_choice_without_images_holds_whatever_is_disturbed(folded):
    row = RunRow.read(str(folded / "run"), "either")
    found = measure(asked(folded, "either", "dealt"), silent).found
    blind = found.model.row.without_images
    assert blind == tuple(fold for fold in range(6) if fold not in row.reading)
    assert 0 < len(blind) < 6
    for one in found.views[0].risk.folds:
        assert (one.change == 0 and one.icc.value == 1) == (one.fold in blind)
    assert any("chose a model without images" in note for note in found.notes)


def test_notes_say_whose_risks_they_are(folded, judged):
    notes = " ".join(judged.found.notes)
    assert "the models of the run's 6 folds were made again" in notes
    assert "averages over 2 repeats" in notes
    assert "OPTIMISTIC" not in notes
    paper = measure(asked(folded, "tuned (paper's way)", "same"), silent).found
    assert any("best of 2 settings: each c is OPTIMISTIC" in note for note in paper.notes)
    assert (paper.model.row.tuned, paper.model.row.tried, paper.model.apparent) == ("paper", 2, False)


# Files and commands


def test_a_rerun_fits_nothing_and_writes_the_same(folded, tmp_path):
    out, calls = tmp_path / "out", []
    wanted = asked(folded, "image", "same", "noise", keep=str(out))
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


def test_local_processes_make_the_same_models(folded, judged, tmp_path):
    kept = str(tmp_path / "out")
    found = measure(asked(folded, "radiomics", "same", "noise", "dealt", keep=kept, workers=Workers(number=1)), silent)
    assert found.found == judged.found
    assert len(list(tmp_path.glob("out/models/*/card.json"))) == 6


def test_files_of_folds_go_where_a_model_alone_is_judged_afterwards(folded, tmp_path):
    folder = tmp_path / "out"
    fit_final(str(folded / "run"), "radiomics", out=str(tmp_path / "model"))
    measured = measure(asked(folded, "radiomics", "same"), silent)
    write_page(measured.found, write_robustness(measured, str(folder)))
    page = (folder / "report.html").read_text()
    assert "Out-of-fold risks of row radiomics" in page
    assert "Fold by fold" in page
    single = replace(asked(folded, "radiomics", "same"), run_url=None, row=None, model_url=str(tmp_path / "model"))
    write_robustness(measure(single, silent), str(folder))
    assert not (folder / "folds.csv").exists()
    write_robustness(measure(replace(single, model_url=None), silent), str(folder))
    assert not (folder / "risks.csv").exists()


def test_the_command_prints_folds_and_keeps_their_models(folded, tmp_path):
    one = asked(folded, "radiomics")
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
    arguments += ["--run", one.run_url, "--row", "radiomics", "--resamples", "100", "--workers", "0"]
    arguments += ["--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "Out-of-fold risks of radiomics against the base" in done.stdout
    assert "Harrell's c over folds" in done.stdout
    assert "Median [quartiles]" in done.stdout
    assert len(list((tmp_path / "out" / "models").iterdir())) == 6
    assert len(pd.read_csv(tmp_path / "out" / "folds.csv")) == 2 * 6
    measures = set(pd.read_csv(tmp_path / "out" / "robustness.csv")["measure"])
    assert {"change of c over folds", "p of the change of c over folds"} <= measures
    for more, said in (
        (["--clinical", str(folded / "clinical.csv")], "with --run leave it out"),
        (["--model", str(tmp_path)], "give one of them"),
    ):
        refused = CliRunner().invoke(main, [*arguments, *more])
        assert refused.exit_code == 2
        assert said in refused.stderr
    refused = CliRunner().invoke(main, [*arguments[:-1], one.run_url])
    assert "holds a run" in refused.stderr
