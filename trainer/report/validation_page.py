"""Puts a model's validation on another cohort into one HTML page that needs no network; computes no figure but its curves."""

import io

import numpy as np
import pandas as pd
from markupsafe import Markup

from store_schema.errors import NotCommittedError
from trainer.kaplan_meier import kaplan_meier
from trainer.report.drawing import Drawn, draw
from trainer.report.measure_figures import draw_measures
from trainer.report.page import page_environment
from trainer.report.survival_curves import STYLES, Painted, paint_survival
from trainer.report.svg import SERIES, for_page
from trainer.risk_groups import GROUPS
from trainer.run_folder import REPORT, RunFolder
from trainer.validation_results import BY_FIFTHS, PREDICTIONS, VALIDATION, Validation, parse_validation
from trainer.wording import chosen_text


def write_validation_page(url: str) -> str:
    """Write the page and the figures of a validation, over older ones; gives the page's address.

    Raises
    ------
    NotCommittedError
        If the folder holds no validation.
    SchemaError
        If a file of it is not what its name says.
    """
    folder = RunFolder.open(url)
    data, predictions = folder.read(VALIDATION), folder.read(PREDICTIONS)
    if data is None or predictions is None:
        raise NotCommittedError(f"{folder.url} holds no validation: `trainer validate` makes one")
    found = parse_validation(data, where=f"{folder.url}/{VALIDATION}")
    figures = _figures(found, pd.read_csv(io.BytesIO(predictions), dtype={"patient": str}))
    for figure in figures:
        folder.replace(f"figures/{figure.name}.svg", figure.svg)
    # our own SVG, whose texts matplotlib and `to_svg` escaped
    shown = [
        {"name": figure.name, "caption": figure.caption, "svg": Markup(for_page(figure.svg))}  # noqa: S704
        for figure in figures
    ]
    developed = chosen_text(found.developed_tried, found.developed_tuned)
    template = page_environment().get_template("validation.html.jinja")
    page = template.render(found=found, figures=shown, names=GROUPS, tuning={}, developed=developed)
    folder.replace(REPORT, page)
    return f"{folder.url}/{REPORT}"


def _figures(found: Validation, predictions: pd.DataFrame) -> list[Drawn]:
    drawn = [_groups(found, predictions)]
    for way, measures in found.measures.items():
        if way == BY_FIFTHS:
            continue
        drawn += draw_measures(measures, way, found.time_unit)
    return drawn


def _groups(found: Validation, predictions: pd.DataFrame) -> Drawn:
    curves = []
    for place, name in enumerate(GROUPS):
        mine = predictions[predictions["risk_group"] == place + 1]
        if len(mine):
            curve = kaplan_meier(mine["time"].to_numpy(dtype=np.float64), mine["event"].to_numpy() == 1)
            curves.append(Painted(curve, SERIES[place], STYLES[place], f"{name} risk", name))
    p = "not computed" if found.log_rank_p is None else f"{found.log_rank_p:.2g}"
    own = "the model's own risk groups (quartiles of the patients that it was fitted on)"
    caption = f"Survival by {own}, with 95% log-log bands; log-rank p {p}."
    said = "; ".join(f"{GROUPS[one.group - 1]}: {one.patients} patients, {one.events} events" for one in found.groups)
    last = float(predictions["time"].max())
    return draw(
        "groups", caption, said, (6.2, 4.9), lambda figure: paint_survival(figure, curves, last, found.time_unit)
    )
