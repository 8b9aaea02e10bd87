"""Puts what became of every part into one summary page that needs no network; computes no figure."""

from store_schema.errors import NotCommittedError
from trainer.results import parse_results
from trainer.run_folder import RESULTS, RunFolder
from trainer.trust.pages import environment
from trainer.trust_results import INDEX, TRUST, read_parts
from trainer.versions import versions
from trainer.wording import mean_text


def write_index(folder: RunFolder) -> str:
    """Write the summary of a study's parts, over an older one; gives its address.

    Raises
    ------
    NotCommittedError
        If the folder holds no study that `trainer trust` looked at.
    SchemaError
        If a file of it is not what its name says.
    """
    parts, data = read_parts(folder), folder.read(RESULTS)
    if not parts or data is None:
        raise NotCommittedError(
            f"{folder.url} holds no study that was looked at: run `trainer trust … --out {folder.url}`"
        )
    results = parse_results(data, where=f"{folder.url}/{RESULTS}")
    row = next((row for row in results.of_kind("model") if row.label == parts[0].row), None)
    told = "incomplete" if row is None else mean_text(row)
    page = (
        environment()
        .get_template("trust.html.jinja")
        .render(parts=parts, row=parts[0].row, c=told, warnings=results.warnings, versions=versions())
    )
    name = f"{TRUST}/{INDEX}"
    folder.replace(name, page)
    return f"{folder.url}/{name}"
