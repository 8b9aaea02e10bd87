"""Puts what became of every part into one summary page that needs no network; computes no figure."""

from store_schema.errors import NotCommittedError
from trainer.results import parse_results
from trainer.run_folder import RESULTS, RunFolder
from trainer.trust.pages import environment
from trainer.trust_results import INDEX, TRUST, read_trusted
from trainer.versions import versions
from trainer.wording import mean_text, tuning_text


def write_index(folder: RunFolder) -> str:
    """Write the summary of a study's parts, over an older one; gives its address.

    Raises
    ------
    NotCommittedError
        If the folder holds no study that `trainer trust` looked at.
    SchemaError
        If a file of it is not what its name says.
    """
    found, data = read_trusted(folder), folder.read(RESULTS)
    if found is None or data is None:
        raise NotCommittedError(
            f"{folder.url} holds no study that was looked at: run `trainer trust … --out {folder.url}`"
        )
    results = parse_results(data, where=f"{folder.url}/{RESULTS}")
    row = next((row for row in results.of_kind("model") if row.label == found.row), None)
    told = "incomplete" if row is None else "; ".join(filter(None, (mean_text(row), tuning_text(row))))
    page = (
        environment()
        .get_template("trust.html.jinja")
        .render(found=found, parts=found.parts, row=found.row, c=told, warnings=results.warnings, versions=versions())
    )
    name = f"{TRUST}/{INDEX}"
    folder.replace(name, page)
    return f"{folder.url}/{name}"
