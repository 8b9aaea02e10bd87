"""A study: its grid, the paper's own rows, its tables and contrasts, and what --plan tells of it."""

import csv
import io

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

from store_schema.errors import ConfigError
from trainer.cli import main
from trainer.contrasts import study_groups
from trainer.dispatch import Workers
from trainer.plan import Inputs
from trainer.run import cross_validate
from trainer.study_config import paper_study, parse_study
from trainer.study_tables import study_tables


@pytest.fixture
def settings(kit):
    """A small study over the small cohort: one mask, both fusions, image and multimodal rows, clinical baselines."""
    given = {name: value for name, value in kit.settings.items() if name != "models"}
    small = {"settings": {"hidden": [4]}, "mask": ["spine"], "model": ["MedSAM2"]}
    return {
        **given,
        "views": {"MedSAM2": "tiny"},
        "rows": [
            {"origin": ["PET", "CT", "combined"], "fusion": ["concatenation", "gated"], **small},
            {"table": "multimodal", "origin": ["PET", "CT"], **small},
            {"table": "clinical", "name": "deepsurv", "settings": {"hidden": [4]}},
            {"table": "clinical", "kind": "ridge_cox", "name": "cox"},
        ],
    }


@pytest.fixture
def done(settings, cohort_folder, tmp_path):
    inputs = Inputs(cohort_folder / "clinical.csv", str(cohort_folder / "store"))
    console = Console(file=io.StringIO())
    config = parse_study(settings)
    return cross_validate(config, inputs, out=str(tmp_path / "run"), workers=Workers(number=0), console=console)


def test_the_bundled_study_names_the_rows_of_the_papers_tables():
    config = parse_study(yaml.safe_load(paper_study()))
    facets = [model.facets for model in config.models]
    image = [f for f in facets if f.table == "image"]
    assert len(image) == 22
    assert sum(f.model == "ResNet" for f in image) == 6
    assert sum(f.downsampling == "averaging" for f in image) == 8
    assert sum(f.downsampling == "attention" for f in image) == 8
    assert len([f for f in facets if f.table == "multimodal"]) == 6
    assert {model.name for model in config.models if model.facets.table in ("clinical", "radiomics")} == {
        "clinical-deepsurv", "clinical-cox", "radiomics-cox",
    }  # fmt: skip
    assert len({model.name for model in config.models}) == 31


def test_the_groups_of_the_papers_study_are_its_contrasts():
    found = {group.label: len(group.pairs) for group in study_groups(parse_study(yaml.safe_load(paper_study())))}
    assert found == {
        "averaging − attention": 8,
        "concatenation − gated": 4,
        "PET − CT": 6,
        "spine_dilated − skeleton": 11,
        "multimodal − clinical": 6,
    }


def test_rows_are_every_combination_and_fusion_tells_apart_only_two_modalities(settings):
    config = parse_study(settings)
    names = [model.name for model in config.models]
    assert names == [
        "PET.spine.MedSAM2.averaging",
        "CT.spine.MedSAM2.averaging",
        "combined.spine.MedSAM2.averaging.concat",
        "combined.spine.MedSAM2.averaging.gate",
        "multimodal.PET.spine.MedSAM2.averaging",
        "multimodal.CT.spine.MedSAM2.averaging",
        "deepsurv",
        "cox",
    ]
    gate = config.models[3]
    assert (gate.fusion, gate.images.modalities, gate.clinical) == ("gate", ("PET", "CT"), False)
    assert config.models[4].clinical
    assert config.models[4].facets.fusion == "–"


def test_tables_have_the_papers_columns_sorted_by_c(done):
    one, two, three = study_tables(done.plan.config, done.results)
    assert one.columns == ("Origin", "Mask", "Model", "Downsampling", "Fusion", "Test c-index", "p-value")
    assert two.columns == ("Origin", "Mask", "Test c-index", "p-value")
    assert three.columns == ("Model", "c-index")
    rows = {row.label: row for row in done.results.rows}
    means = sorted((row.mean for name, row in rows.items() if "." in name and "multi" not in name), reverse=True)
    assert [line[5].split(" ± ")[0] for line in one.lines] == [f"{mean:.3f}" for mean in means]
    gated = next(line for line in one.lines if line[4] == "gated")
    row = rows["combined.spine.MedSAM2.averaging.gate"]
    assert gated[:5] == ("combined", "spine", "MedSAM2", "averaging", "gated")
    assert gated[6] == f"{row.p_one_sided:.3e}"
    best = max((row for name, row in rows.items() if name.startswith("multimodal")), key=lambda row: row.mean)
    assert (
        "Multimodal model - our embedding + clinical (best of 2)",
        f"{best.mean:.3f} ± {best.se:.3f}",
    ) in three.lines
    written = (done.folder.read("tables/table-1.csv") or b"").decode()
    assert list(csv.reader(io.StringIO(written)))[1:] == [list(line) for line in one.lines]


def test_a_group_contrast_averages_its_pairs_within_each_fold(done):
    scores = {row.label: np.array([score.c for score in row.scores]) for row in done.results.rows}
    found = next(c for c in done.results.contrasts if c.label == "PET − CT (1 pair)")
    d = scores["PET.spine.MedSAM2.averaging"] - scores["CT.spine.MedSAM2.averaging"]
    assert found.differences == pytest.approx(d)
    both = next(c for c in done.results.contrasts if c.label == "multimodal − clinical (2 pairs)")
    pairs = [scores[f"multimodal.{m}.spine.MedSAM2.averaging"] - scores["deepsurv"] for m in ("PET", "CT")]
    assert both.differences == pytest.approx(np.mean(pairs, axis=0))
    assert both.p_holm >= both.p_two_sided
    assert done.results.contrasts[0].label == "multimodal.PET.spine.MedSAM2.averaging − deepsurv"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s["rows"][0].update(model=["Other"]), "Other of views: there are MedSAM2"),
        (lambda s: s["rows"][0].update(origin=["PETT"]), "PETT of origins"),
        (lambda s: s["rows"][0].update(mask=[]), "none of masks"),
        (lambda s: s["rows"][0].update(name="one"), "'one' would name 4 rows"),
        (lambda s: s["rows"][0].update(head="average"), "rows.0.head"),
        (lambda s: s.update(models=[]), "lists its models as `rows`"),
        (lambda s: s.pop("rows"), "rows: Field required"),
        (lambda s: s["rows"].append(s["rows"][3]), "two models are named cox"),
    ],
)
def test_a_study_that_does_not_fit_together_is_refused_with_its_place(settings, change, told):
    change(settings)
    with pytest.raises(ConfigError, match=told):
        parse_study(settings)


def test_the_command_prints_a_template_a_plan_and_the_tables(settings, cohort_folder, tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(settings))
    given = ["--store", str(cohort_folder / "store"), "--clinical", str(cohort_folder / "clinical.csv")]
    command = ["study", str(tmp_path / "study.yaml"), *given, "--workers", "0", "--out", str(tmp_path / "run")]
    template = CliRunner().invoke(main, ["study", "--template"])
    assert template.stdout == paper_study()
    planned = CliRunner().invoke(main, [*command, "--plan"])
    assert planned.exit_code == 0, planned.output
    assert "24 fits, about" in planned.stdout
    assert not (tmp_path / "run").exists()
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    for told in ("Table 1.", "Table 2.", "Table 3.", "claim    multimodal", "contrast PET − CT"):
        assert told in done.stdout
    alone = CliRunner().invoke(main, ["study"])
    assert alone.exit_code == 2
    assert "missing STUDY, --clinical, --out" in alone.stderr
