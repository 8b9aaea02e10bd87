"""Has the files of a study at hand while it is read, wherever they lie; knows no unit, region or store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from extractor.image_files import files_beside
from extractor.reading import is_series
from extractor.study import StudyFiles
from store_schema.errors import EngramError
from store_schema.files import is_remote, local_file
from store_schema.folders import local_folder


@contextlib.contextmanager
def fetched(files: StudyFiles) -> Iterator[StudyFiles]:
    """The study with paths of this machine; what was downloaded for it is gone after the block.

    Errors raised in the block name the places that were asked for.

    Raises
    ------
    OSError, UsageError
        If a file is not there, cannot be read, or names another one that cannot be fetched with it.
    """
    with contextlib.ExitStack() as stack:
        local: dict[str, str] = {}
        failure: Exception | None = None
        try:
            for place in files.places:
                if is_remote(place) and place not in local:
                    folder = place in {files.ct, files.pet} and is_series(place)
                    fetch = (
                        local_folder(place) if folder else local_file(place, beside=partial(files_beside, shown=place))
                    )
                    local[place] = str(stack.enter_context(fetch))
            yield _moved(files, local)
        except (EngramError, OSError) as error:
            failure = _told(error, local)
            if failure is error:
                raise
        if failure is not None:
            raise failure


def _moved(files: StudyFiles, local: Mapping[str, str]) -> StudyFiles:
    """The study with other paths for those of its files that lie elsewhere."""

    def moved(place: str | None) -> str | None:
        return None if place is None else local.get(place, place)

    masks, parts = (
        {name: local.get(place, place) for name, place in named.items()} for named in (files.masks, files.label_parts)
    )
    ct, label_map = local.get(files.ct, files.ct), moved(files.label_map)
    return replace(files, ct=ct, pet=moved(files.pet), label_map=label_map, label_parts=parts, masks=masks)


def _told(error: Exception, local: Mapping[str, str]) -> Exception:
    text = str(error)
    for place, path in local.items():
        text = text.replace(path, place)
    return error if text == str(error) else type(error)(text)
