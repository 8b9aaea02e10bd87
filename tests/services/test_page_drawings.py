"""What is drawn and said on pages, apart from any request: curves, masks, maps, words, and what hostile records do to them."""

import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from services.database.models import RunRow
from services.pages.answers import safe_next
from services.pages.curves import BOTTOM, LEFT, RIGHT, TOP, WIDTH, drawn, strip
from services.pages.entry_facts import entry_facts, file_time
from services.pages.extractions import read_extraction
from services.pages.pictures import (
    BOX_RGB,
    HEIGHT_PX,
    PAPER_RGB,
    VIRIDIS,
    WIDEST,
    Box,
    colour_stops,
    heat_map,
    mask_from_sides,
    png,
)
from services.pages.run_words import run_words
from services.pages.templating import moment_of, rendered, sentence, short, size_text
from services.pages.view_words import view_words
from store_schema.errors import SchemaError
from store_schema.published import PublishedCurve, PublishedModel, PublishedRiskGroups
from store_schema.records import CommitRecord, Source
from store_schema.testing import example_view, json_values

MODEL = {
    "name": "m", "kind": "model", "t": None, "df": None, "p_one_sided": None, "p_two_sided": None, "corrected_p_one_sided": None,
    "permutation_p": None, "pooled_c": None, "tried": 1, "tuned": None, "views": (), "untrained": False,
}  # fmt: skip


def curve(group="lowest", time=(1.0, 2.0, 5.0), survival=(0.75, 0.5, 0.25), censored=(0, 1, 0)):
    """A curve of four patients."""
    count = len(time)
    return PublishedCurve(
        group=group, patients=4, events=3, median=None, time=time, survival=survival, low=(0.0,) * count, high=(1.0,) * count,
        at_risk=tuple(range(count + 1, 1, -1)), events_at=(1,) * count, censored=censored,
    )  # fmt: skip


def groups(lowest, highest):
    return PublishedRiskGroups(
        model="m", chi_squared=1.0, nominal_p=0.5, permutation_p=None, lowest=lowest, highest=highest
    )


def points(path):
    return [tuple(float(one) for one in part.split()) for part in re.findall(r"[ML ]*([\d.-]+ [\d.-]+)", path)]


# Curves


def test_a_curve_goes_down_where_the_survival_does():
    found = drawn(groups(curve(), curve("highest")), last_time=10.0, unit="years")
    path = points(found.curves[0].path)
    width, height = WIDTH - LEFT - RIGHT, BOTTOM - TOP
    expected = [(0, 1), (1, 1), (1, 0.75), (2, 0.75), (2, 0.5), (5, 0.5), (5, 0.25), (5, 0.25)]
    assert path == [pytest.approx((LEFT + width * x / 10, BOTTOM - height * y), abs=0.06) for x, y in expected]
    assert found.curves[0].censored == f"M{LEFT + width * 2 / 10:.1f} {BOTTOM - height / 2 - 4:.1f} v8"


def test_curves_are_told_apart_without_colour_and_in_words():
    found = drawn(groups(curve(), curve("highest")), last_time=10.0, unit="years")
    assert len({one.dashes for one in found.curves}) == len({one.line for one in found.curves}) == 2
    assert "Lowest risk quartile: 4 patients, 3 events, median not reached" in found.described


@pytest.mark.parametrize(
    ("last", "unit"), [(96.0, "months"), (3.2, "years"), (4000.0, "days"), (0.01, "days"), (1e9, "months")]
)
def test_times_at_risk_stand_under_their_ticks(last, unit):
    one = curve()
    found = drawn(groups(one, one), last_time=last, unit=unit)
    times = [float(text) for _, text in found.ticks]
    assert 1 <= len(times) <= 10
    assert times[0] == 0
    assert found.curves[0].at_risk == tuple(one.at_risk_at(time) for time in times)


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-5, 5)), min_size=1, max_size=20, unique_by=lambda pair: pair[0])
)
def test_whatever_a_curve_holds_stays_inside_its_field(steps):
    steps.sort()
    time, survival = zip(*steps, strict=True)
    one = curve(time=time, survival=survival, censored=(1,) * len(steps))
    found = drawn(groups(one, one), last_time=24.0, unit="months")
    for x, y in points(found.curves[0].path):
        assert LEFT <= x <= WIDTH - RIGHT
        assert TOP <= y <= BOTTOM


def test_a_long_curve_is_no_long_page():
    time = tuple(float(one) for one in np.linspace(0, 96, 50_000))
    many = PublishedCurve(
        group="lowest", patients=50_000, events=50_000, median=None, time=time, survival=tuple(1 - t / 96 for t in time),
        low=(0.0,) * 50_000, high=(1.0,) * 50_000, at_risk=(1,) * 50_000, events_at=(1,) * 50_000, censored=(1,) * 50_000,
    )  # fmt: skip
    found = drawn(groups(many, many), last_time=96.0, unit="months")
    assert len(found.curves[0].path) + len(found.curves[0].censored) < 200_000


def test_a_strip_shows_folds_around_chance():
    found = strip(PublishedModel(mean=0.6, se=0.1, folds=3, scores=(0.5, None, 0.7), **MODEL))
    assert found.dots[0] == found.chance < found.mean < found.dots[1] < found.width
    assert strip(PublishedModel(mean=None, se=None, folds=0, scores=(), **MODEL)).mean is None


# Pictures


def coloured(rgb):
    return (rgb != PAPER_RGB).any(axis=-1) & (np.ptp(rgb.astype(int), axis=-1) > 20)


def halves(rgb):
    """The picture from the front and that from the side: a grey line stands between."""
    grey = np.flatnonzero((rgb == (120, 126, 132)).all(axis=(0, 2)))
    return rgb[:, : grey[0]], rgb[:, grey[-1] + 1 :]


def test_superior_is_up_left_is_right_and_anterior_is_left():
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[30:38, 2:6, 30:38] = 1
    mask[2:6, 30:34, 2:6] = 1
    front, side = halves(mask_from_sides(mask, (5.0, 5.0, 5.0)))
    for picture, upper_is_left in ((front, False), (side, True)):
        rows, columns = np.nonzero(coloured(picture))
        upper = columns[rows < HEIGHT_PX // 2].mean()
        lower = columns[rows > HEIGHT_PX // 2].mean()
        assert bool(upper < lower) == upper_is_left


def test_a_deeper_mask_is_brighter():
    mask = np.zeros((10, 10, 10), np.uint8)
    mask[:, 0:1, 0:4] = 1
    mask[:, :, 6:10] = 1
    front, _ = halves(mask_from_sides(mask, (50.0, 50.0, 50.0)))
    row = front[HEIGHT_PX // 2].sum(axis=-1)
    assert row[: len(row) // 3].max() < row[-len(row) // 3 :].max()


def test_boxes_are_marked_at_their_slices():
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[5:15, 8:12, 8:12] = 1
    picture = mask_from_sides(mask, (10.0, 10.0, 10.0), [Box(10, 8, 8, 11, 11)])
    rows = np.unique(np.nonzero((picture == BOX_RGB).all(axis=-1))[0])
    assert rows.tolist() == [int((20 - 1 - 10 + 0.5) * HEIGHT_PX / 20)]


@given(
    st.lists(st.tuples(*[st.integers(0, 2**19)] * 5), max_size=4),
    st.tuples(*[st.floats(1e-3, 1e4)] * 3),
    st.booleans(),
)
def test_no_box_or_spacing_bursts_the_picture(boxes, spacing, filled):
    mask = np.full((3, 4, 5), int(filled), np.uint8)
    picture = mask_from_sides(mask, spacing, [Box(*box) for box in boxes])
    assert picture.shape[0] == HEIGHT_PX
    assert picture.shape[1] <= 2 * WIDEST * HEIGHT_PX + 20
    assert Image.open(io.BytesIO(png(picture))).size == (picture.shape[1], HEIGHT_PX)


def test_a_map_runs_from_its_lowest_to_its_highest_value():
    picture = heat_map(np.linspace(-1, 3, 9, dtype=np.float32).reshape(3, 3))
    assert [tuple(one) for one in picture.reshape(-1, 3)] == list(VIRIDIS)
    assert {tuple(one) for one in heat_map(np.full((2, 2), 7.0, np.float32)).reshape(-1, 3)} == {VIRIDIS[0]}
    assert colour_stops()[0] == (0.0, "#440154")
    assert colour_stops()[-1] == (1.0, "#fde725")


# Words


def commit(attributes, arrays=None):
    return CommitRecord(
        view="v-0123456789abcdef", patient="p", modality="CT", roi="r", number=0, written_at="", attempt="0" * 32,
        input_sha256="0" * 64, content_sha256="0" * 64, objects={}, arrays=arrays or {}, attributes=attributes,
    )  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "grid",
                "kept_slices_z",
                "boxes_xyxy",
                "valid_layers",
                "outside_share",
                "alignment",
                "warnings",
                "original_orientation",
            ]
        ),
        json_values(),
    )
)
def test_attributes_of_any_writer_are_told_or_left_out(attributes):
    told = entry_facts(
        commit(attributes, {"memory": attributes.get("grid") if isinstance(attributes.get("grid"), dict) else {}})
    )
    assert all(isinstance(text, str) for pair in told.facts for text in pair)
    assert all(isinstance(one, str) for one in told.warnings)


@given(st.lists(json_values(), max_size=4), st.lists(json_values(), max_size=4))
def test_boxes_of_any_writer_are_boxes_or_none(slices, boxes):
    assert all(
        isinstance(one, Box) for one in entry_facts(commit({"kept_slices_z": slices, "boxes_xyxy": boxes})).boxes
    )


@pytest.mark.parametrize("nanoseconds", [0, 2**63, -(2**70), 10**18])
def test_times_of_files_are_moments_or_none(nanoseconds):
    found = file_time(Source(role="CT", path="a", size_bytes=1, mtime_ns=nanoseconds))
    assert found is None or found.tzinfo is not None


@given(
    st.dictionaries(
        st.sampled_from(["models", "untrained", "warnings", "failed", "finished", "studies", "views", "records"]),
        json_values(),
    ),
    st.sampled_from(["trainer", "extractor", "other"]),
)
def test_summaries_of_any_writer_give_a_line(summary, kind):
    assert isinstance(run_words(RunRow(project="p", id="r", kind=kind, started_at=None, summary=summary)).line, str)


class Records:
    """A store that holds one run."""

    def __init__(self, records):
        self.records = records

    def read_run(self, run, name):
        return self.records[name]


def told(*names):
    """A record with some of these members, or no record at all."""
    return st.dictionaries(st.sampled_from(names), json_values()) | json_values()


@given(
    told("started_at", "engram", "studies", "views", "shard", "patients", "settings"),
    told("state", "result", "reason", "patient"),
    told("snapshots", "failed"),
)
def test_records_of_any_writer_are_an_extraction_or_refused(start, item, finish):
    records = {"start.json": start, "plan.jsonl": item, "outcomes.jsonl": item, "finish.json": finish}
    store = Records({name: json.dumps(value).encode() for name, value in records.items()})
    try:
        found = read_extraction(store, "run", sorted(records))
    except SchemaError:
        return
    reach = SimpleNamespace(project="p")
    known = {"run": "run", "names": ["a"], "reach": reach, "visitor": None, "request_id": "i", "path": "/"}
    assert "<h1>" in rendered("extraction.html.jinja", found=found, **known)


def test_nested_records_are_refused():
    store = Records({"start.json": b'{"settings":' + b"[" * 100_000 + b"]" * 100_000 + b"}"})
    with pytest.raises(SchemaError, match="no record of an extraction"):
        read_extraction(store, "run", ["start.json"])


def test_a_view_is_told_in_sentences():
    words = dict(view_words(example_view()))
    assert words["Encoder"].startswith("mini, UNTRAINED: random weights")
    assert words["Prompt"] == "box, mode sequential, on each slice that holds the region"
    assert words["Intensity of CT"] == "−500 to 1300 HU become grey 0 to 255; −1024 outside the field of view"
    assert words["Layout"] == "paper: 2 memory layers × 3 channels × 4 rows × 4 columns, float16"


@given(st.text() | st.from_regex(r"/projects[/\\?#]{0,3}\S*"))
def test_the_way_back_stays_here(text):
    found = safe_next(text)
    assert found == "/" or (found == text and found.startswith("/projects") and "\\" not in found)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 KiB"),
        (9.4 * 2**20, "9.4 MiB"),
        (2**60, "1024 PiB"),
    ],
)
def test_sizes_are_short(size, text):
    assert size_text(size) == text


def test_texts_of_writers_are_moments_or_none():
    assert moment_of("2026-03-11T08:15:00+02:00").isoformat() == "2026-03-11T06:15:00+00:00"
    assert moment_of("2026-03-11").tzinfo is not None
    for text in ("yesterday", "", "9999-99-99", None):
        assert moment_of(text) is None
    assert (short("a" * 64), short("a" * 16)) == ("a" * 12 + "…", "a" * 16)


def test_errors_become_sentences_and_ids_stay_ids():
    assert sentence("this was not granted.") == "This was not granted."
    assert sentence("medsam2-paper/MM_1 was withdrawn") == "medsam2-paper/MM_1 was withdrawn"
    assert sentence("") == ""
