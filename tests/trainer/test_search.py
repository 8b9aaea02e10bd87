"""A search: its table, which settings are chosen and by which folds, and what the run says of it."""

import csv
import io
from collections import Counter

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import qmc

from store_schema.errors import ConfigError
from trainer.candidates import candidates_of, search_table
from trainer.config import parse_config
from trainer.dispatch import Workers
from trainer.fold import TaskData, run_task
from trainer.jobs import first_jobs, grouped
from trainer.plan import Inputs, make_plan
from trainer.report.page import write_report
from trainer.run import cross_validate
from trainer.run_folder import RunFolder
from trainer.run_record import keep_plan
from trainer.search_config import Range, SearchSettings

COX = {"name": "cox", "kind": "ridge_cox", "search": {"penalty": {"log": [0.01, 1e5]}}}
DEEP = {
    "name": "deep",
    "kind": "network",
    "clinical": True,
    "search": {"dropout": {"range": [0, 0.6]}, "hidden": {"choice": [[4], [8]]}},
}
SEARCH = {"points": 4, "inner_folds": 2}


@pytest.fixture
def searched(config):
    return lambda **changes: config(**{"models": [COX, DEEP], "search": SEARCH, **changes})


@pytest.fixture
def cv(cohort_folder, searched, tmp_path):
    def run(name="run", **changes):
        inputs = Inputs(cohort_folder / "clinical.csv", str(cohort_folder / "store"))
        console = Console(file=io.StringIO())
        return cross_validate(
            searched(**changes), inputs, out=str(tmp_path / name), workers=Workers(number=0), console=console
        )

    return run


def test_the_table_is_scipys_scrambled_sobol_sequence_mapped_to_the_ranges(searched):
    deep = searched().fitted_models[1]
    table = search_table(deep, SearchSettings(points=8, seed=3))
    points = qmc.Sobol(2, scramble=True, rng=3).random(8)
    assert [row["dropout"] for row in table] == pytest.approx(0.6 * points[:, 0])
    assert Counter(tuple(row["hidden"]) for row in table) == {(4,): 4, (8,): 4}
    assert search_table(deep, SearchSettings(points=4, seed=3)) == table[:4]


def test_ranges_give_their_ends_and_nothing_beyond():
    u = np.linspace(0, 1, 1000, endpoint=False)
    numbers = [Range(integer=(2, 5)).value(x) for x in u]
    assert Counter(numbers) == {2: 250, 3: 250, 4: 250, 5: 250}
    logs = [Range(log=(1e-4, 1e-2)).value(x) for x in u]
    assert (min(logs), max(logs)) == (pytest.approx(1e-4), pytest.approx(1e-2, rel=0.01))
    assert np.median(logs) == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize(
    ("search", "told"),
    [
        ({"penalty": {"range": [2, 1]}}, "the lower end first"),
        ({"penalty": {"log": [0, 1]}}, "positive numbers"),
        ({"penalty": {"log": [1, 2], "choice": [1, 2]}}, "expected one of range, log, integer and choice"),
        ({"ties": {"choice": ["efron"]}}, "two values at least"),
        ({"penalti": {"log": [1, 2]}}, "cox: search names 'penalti', which is no setting of it"),
        ({"name": {"choice": ["a", "b"]}}, "no setting of it"),
        ({"penalty": {"range": [-2, -1]}}, "cox: row 0 of its search .* makes no model: penalty"),
    ],
)
def test_a_search_that_makes_no_model_is_refused_with_its_place(searched, search, told):
    with pytest.raises(ConfigError, match=told):
        searched(models=[{**COX, "search": search}])


def test_a_table_has_a_power_of_two_of_rows(searched):
    with pytest.raises(ConfigError, match="only with 1, 2, 4, 8, … rows, got 12"):
        searched(search={"points": 12})


def test_candidates_carry_the_settings_of_their_row_and_nothing_to_search(searched):
    config = searched()
    for model, tried in zip(config.fitted_models, config.candidates.values(), strict=True):
        assert candidates_of(model, config.search) == tried
        assert not any(candidate.search for candidate in tried)
    assert [c.penalty for c in config.candidates["cox"]] == [
        row["penalty"] for row in search_table(config.fitted_models[0], config.search)
    ]


def test_nested_settings_are_the_best_of_the_inner_folds_alone(cv, searched):
    report = cv()
    scores = {}
    for line in csv.DictReader(io.StringIO(report.folder.read("search.csv").decode())):
        if line["model"] == "cox":
            mean = (float(line["c_inner_0"]) + float(line["c_inner_1"])) / 2
            scores.setdefault(int(line["fold"]), []).append((int(line["candidate"]), mean))
    row = report.results.rows[0]
    assert (row.tuned, row.tried) == ("nested", 4)
    for chosen in row.chosen:
        best = max(scores[chosen.fold], key=lambda pair: pair[1])
        assert (chosen.candidate, chosen.score) == (best[0], pytest.approx(best[1]))
        assert chosen.settings["penalty"] == searched().candidates["cox"][chosen.candidate].penalty


def test_a_nested_row_is_the_fit_of_each_folds_own_choice(cv, searched):
    row = cv().results.rows[0]
    penalties = [candidate.penalty for candidate in searched().candidates["cox"]]
    models = [{**COX, "search": {}, "penalty": penalty, "name": f"c{c}"} for c, penalty in enumerate(penalties)]
    fixed = {found.label: [score.c for score in found.scores] for found in cv("fixed", models=models).results.rows}
    assert [score.c for score in row.scores] == [fixed[f"c{one.candidate}"][one.fold] for one in row.chosen]


def test_no_inner_fit_sees_a_patient_of_its_outer_test_part(cohort_folder, searched, tmp_path):
    plan = make_plan(searched(), Inputs(cohort_folder / "clinical.csv", None))
    folder = RunFolder.open(str(tmp_path / "run"))
    keep_plan(plan, folder)
    jobs = first_jobs(plan.config, permutations=plan.splits, folds=3)
    assert {job.part.inner for job in jobs} == {0, 1}
    seen = {}
    for job in jobs:
        (task,) = plan.tasks([job], folder.url)
        fold = TaskData(task).data(job).fold
        outer = plan.splits[0].fold(job.part.fold)
        assert set(fold.train) | set(fold.test) == set(outer.train)
        assert not set(fold.train) & set(fold.test)
        seen.setdefault((job.part.fold, job.part.inner), set()).add(fold.test)
    assert {len(parts) for parts in seen.values()} == {1}
    assert run_task(plan.tasks(jobs[:1], folder.url)[0]).inner[0].c is not None


def test_early_pruning_keeps_the_better_half_of_the_first_inner_fold_and_chooses_among_it(cv):
    whole, pruned = cv(), cv("pruned", search={**SEARCH, "keep": 0.5})
    tables = {}
    for name, report in (("whole", whole), ("pruned", pruned)):
        lines = csv.DictReader(io.StringIO(report.folder.read("search.csv").decode()))
        tables[name] = {(line["model"], int(line["candidate"]), int(line["fold"])): line for line in lines}
    for row in pruned.results.rows:
        for chosen in row.chosen:
            mine = {c: tables["whole"][row.label, c, chosen.fold] for c in range(4)}
            best = sorted(mine, key=lambda c: -float(mine[c]["c_inner_0"]))[:2]
            tried = {c for c in range(4) if tables["pruned"][row.label, c, chosen.fold]["c_inner_1"]}
            assert tried == set(best) or len({mine[c]["c_inner_0"] for c in mine}) < 4
            means = {c: (float(mine[c]["c_inner_0"]) + float(mine[c]["c_inner_1"])) / 2 for c in tried}
            assert means[chosen.candidate] == max(means.values())
            assert chosen.score == pytest.approx(means[chosen.candidate])
    assert any("early pruning: of cox, deep the best 50%" in note for note in pruned.results.notes)
    assert {row.tried for row in pruned.results.rows} == {4}
    assert not any("pruning" in note for note in whole.results.notes)


def test_early_pruning_of_the_papers_way_looks_at_the_first_reported_fold(cv):
    report = cv(search={**SEARCH, "mode": "paper", "keep": 0.25})
    lines = list(csv.DictReader(io.StringIO(report.folder.read("search.csv").decode())))
    for row in report.results.rows:
        first = {
            int(line["candidate"]): float(line["c_outer"])
            for line in lines
            if line["model"] == row.label and line["fold"] == "0"
        }
        later = {int(line["candidate"]) for line in lines if line["model"] == row.label and line["fold"] == "1"}
        assert len(first) == 4
        # a quarter of four, and two at least
        assert sorted((first[one] for one in later), reverse=True) == sorted(first.values(), reverse=True)[:2]
        assert len(row.scores) == 3
        assert row.mean is not None


def test_a_choice_among_pruned_and_plain_rows_is_made_in_every_fold(cv):
    models = [COX, {"name": "fixed", "kind": "ridge_cox"}, {"name": "either", "kind": "choice", "of": ["cox", "fixed"]}]
    report = cv(models=models, search={**SEARCH, "keep": 0.5, "mode": "both"})
    assert report.results.complete
    assert [row.label for row in report.results.rows][-2:] == ["either", "either (paper's way)"]


def test_the_papers_way_takes_one_setting_for_all_folds_and_is_never_below_any_other(cv):
    report = cv(search={**SEARCH, "mode": "paper"})
    lines = list(csv.DictReader(io.StringIO(report.folder.read("search.csv").decode())))
    for row in report.results.rows:
        means = {}
        for line in lines:
            if line["model"] == row.label:
                means.setdefault(int(line["candidate"]), []).append(float(line["c_outer"]))
        best = max(means.values(), key=np.mean)
        assert row.mean == pytest.approx(np.mean(best))
        assert len({chosen.candidate for chosen in row.chosen}) == 1
        assert row.tuned == "paper"


def test_both_ways_stand_side_by_side_with_the_optimism_between_them(cv):
    report = cv(search={**SEARCH, "mode": "both"})
    labels = ["cox", "cox (paper's way)", "deep", "deep (paper's way)"]
    assert [row.label for row in report.results.rows] == labels
    rows = {row.label: row for row in report.results.rows}
    for found in report.results.optimism:
        assert found.tried == 4
        assert found.optimism == pytest.approx(rows[f"{found.model} (paper's way)"].mean - rows[found.model].mean)
    nested = cv("nested").results
    assert [row.mean for row in nested.rows] == [rows["cox"].mean, rows["deep"].mean]


def test_a_choice_takes_the_best_of_its_members_inside_each_fold(cv):
    choice = {"name": "either", "kind": "choice", "of": ["cox", "fixed"]}
    fixed = {"name": "fixed", "kind": "ridge_cox", "penalty": 1e6}
    report = cv(models=[COX, fixed, choice])
    cox, plain, either = report.results.rows
    assert (plain.tuned, plain.tried, either.tried) == (None, 1, 5)
    for chosen in either.chosen:
        source = {"cox": cox, "fixed": plain}[chosen.model]
        mine = next(c for c in cox.chosen if c.fold == chosen.fold)
        if chosen.model == "fixed" or mine.candidate == chosen.candidate:
            assert either.scores[chosen.fold].c == source.scores[chosen.fold].c
        assert chosen.score >= mine.score


def test_permuted_controls_are_tuned_again_on_the_permuted_outcomes(cv):
    report = cv(models=[COX], permuted_control={"models": ["cox"]})
    real, permuted = report.results.rows
    assert permuted.kind == "permuted"
    assert permuted.mean is not None
    assert [s.c for s in real.scores] != [s.c for s in permuted.scores]


def test_the_claim_is_declared_and_secondary_contrasts_are_adjusted(cv, kit):
    image = {**kit.settings["models"][1], "clinical": True, "name": "both"}
    models = [{"name": "cox", "kind": "ridge_cox"}, image, {"name": "weak", "kind": "ridge_cox", "penalty": 1e6}]
    contrasts = [{"first": "cox", "second": "weak"}, {"first": "both", "second": "weak"}]
    report = cv(models=models, contrasts=contrasts)
    claim, *others = report.results.contrasts
    assert (claim.label, claim.primary, claim.p_holm) == ("both − cox", True, None)
    both, cox = ([s.c for s in report.results.rows[i].scores] for i in (1, 0))
    d = np.array(both) - np.array(cox)
    assert claim.mean == pytest.approx(d.mean())
    assert claim.t == pytest.approx(d.mean() / np.sqrt(d.var(ddof=1) * (1 / 3 + 1 / 2)))
    raw = [found.p_two_sided for found in others]
    assert [found.p_holm for found in others] == pytest.approx(
        [min(1, 2 * p) if p == min(raw) else max(p, min(1, 2 * min(raw))) for p in raw]
    )


def test_small_networks_are_grouped_in_one_order_and_other_jobs_stand_alone(searched):
    jobs = first_jobs(searched(), permutations=[0], folds=3)
    groups = list(grouped(jobs, most=10))
    assert sorted(len(group) for group in groups if group[0].model.name == "deep") == [4, 10, 10]
    assert {len(group) for group in groups if group[0].model.name == "cox"} == {1}
    assert sorted(job.label for group in groups for job in group) == sorted(job.label for job in jobs)
    assert groups == list(grouped(jobs, most=10))


def test_on_a_gpu_networks_with_convolutions_are_grouped_too_but_for_those_with_mini_batches(searched, kit):
    image = kit.settings["models"][1]
    dealt = {**image, "name": "dealt", "fit": {"batch_size": 64}}
    config = searched(models=[image, dealt, {"name": "cox", "kind": "ridge_cox"}])
    jobs = first_jobs(config, permutations=[0], folds=3)
    on_cpu, on_gpu = (
        sorted((group[0].model.name, len(group)) for group in grouped(jobs, most=2, device=device))
        for device in ("cpu", "cuda")
    )
    alone = [(name, 1) for name in ("cox", "dealt", "image") for _ in range(3)]
    assert on_cpu == alone
    assert on_gpu == [*alone[:6], ("image", 1), ("image", 2)]


def test_a_rerun_of_a_search_fits_nothing_again_and_its_report_is_written(cv):
    first = cv(search={**SEARCH, "mode": "both"})
    second = cv(search={**SEARCH, "mode": "both"})
    assert second.resumed == second.tasks == first.tasks
    assert second.results == first.results
    assert write_report(first.folder.url).endswith("report.html")


def test_a_choice_of_choices_or_of_strangers_is_refused(searched):
    choice = {"name": "either", "kind": "choice", "of": ["cox", "deep"]}
    with pytest.raises(ConfigError, match="chooses from a choice"):
        searched(models=[COX, DEEP, choice, {"name": "x", "kind": "choice", "of": ["either", "cox"]}])
    with pytest.raises(ConfigError, match="a choice names nobody"):
        searched(models=[COX, {**choice, "of": ["cox", "nobody"]}])
    with pytest.raises(ConfigError, match="contrast needs two models"):
        parse_config({**searched().model_dump(mode="json"), "claim": {"first": "cox", "second": "cox"}})


def test_a_setting_that_cannot_be_fitted_is_not_chosen_and_the_run_says_so(cv):
    wild = {
        **DEEP,
        "search": {"fit.learning_rate": {"choice": [1e-3, 1e30]}, "fit.clip_norm": {"choice": [1e30, 2e30]}},
    }
    report = cv(models=[wild])
    assert report.results.complete
    rates = [chosen.settings["fit.learning_rate"] for chosen in report.results.rows[0].chosen]
    assert rates == [1e-3] * 3
    (note,) = report.results.notes
    assert note.startswith("2 of 4 settings of deep could not be fitted in some fold and were not chosen there")


def test_a_row_of_which_no_setting_can_be_fitted_is_incomplete_and_says_why(cv):
    ranges = {"fit.learning_rate": {"choice": [1e30, 2e30]}, "fit.clip_norm": {"choice": [1e30, 2e30]}}
    for name, mode in (("nested", "nested"), ("paper", "paper")):
        report = cv(name, models=[{**DEEP, "search": ranges}], search={**SEARCH, "mode": mode})
        assert not report.results.complete
        assert report.results.rows[0].mean is None
        assert [failure.label for failure in report.results.failures] == [f"deep, fold {fold}" for fold in range(3)]
        assert all("none of 4 settings could be chosen: TaskError" in one.reason for one in report.results.failures)


def test_a_fixed_model_that_cannot_be_fitted_fails_in_its_own_folds_alone(cv):
    wild = {**DEEP, "name": "wild", "search": {}, "fit": {"learning_rate": 1e30, "clip_norm": None}}
    report = cv(models=[{"name": "cox", "kind": "ridge_cox"}, wild])
    assert [row.mean is None for row in report.results.rows] == [False, True]
    assert {failure.label for failure in report.results.failures} == {f"wild, fold {fold}" for fold in range(3)}
    again = cv(models=[{"name": "cox", "kind": "ridge_cox"}, wild])
    assert again.resumed == again.tasks
    assert again.results == report.results


def test_a_claim_of_one_dealing_says_that_it_is_weak_and_one_of_repeats_does_not(cv, kit):
    image = {**kit.settings["models"][1], "clinical": True, "name": "both"}
    models = [{"name": "cox", "kind": "ridge_cox"}, image]
    assert "folds dealt once" in cv(models=models).results.contrasts[0].note
    assert cv("repeated", models=models, splits={"folds": 3, "repeats": 2}).results.contrasts[0].note is None


def test_a_head_that_cannot_read_its_view_is_refused_before_anything_is_fitted(cv, kit, tmp_path):
    with pytest.raises(ConfigError, match="head vector reads vectors, and view 'tiny' holds memories"):
        cv(models=[{**kit.settings["models"][1], "head": "vector"}])
    assert not (tmp_path / "run").exists()
