"""Rules of Prometheus and the operator's guide speak of figures that an extraction has."""

import re
from pathlib import Path

import pytest
import yaml

from extractor.metrics import RunMetrics

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PREFIX = "engram_extractor_"
GPU = {"gpu_peak_memory_bytes", "view_info"}
"""Are there once a GPU has worked, or a view is known."""
SUFFIXES = {"counter": ("_total",), "summary": ("_sum", "_count"), "gauge": ("",)}


@pytest.fixture(scope="module")
def figures() -> set[str]:
    """Names of the series of a run that has only begun, without the prefix."""
    families = RunMetrics("0").registry.collect()
    return {f"{one.name.removeprefix(PREFIX)}{end}" for one in families for end in SUFFIXES[one.type]}


def test_each_rule_has_a_name_a_severity_and_words_and_asks_for_figures_that_are_there(figures):
    (group,) = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"]) == 3
    for rule in group["rules"]:
        asked = set(re.findall(rf"{PREFIX}(\w+)", rule["expr"]))
        assert asked
        assert asked <= figures
        assert rule["labels"]["severity"]
        assert rule["annotations"]["summary"]


def test_the_guides_table_has_every_figure_and_no_other(figures):
    table = (DEPLOY / "README.md").read_text().partition("| metric | type |")[2].partition("\n\n")[0]
    told = {name for row in table.splitlines()[2:] for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])}
    assert told - GPU == figures - GPU
