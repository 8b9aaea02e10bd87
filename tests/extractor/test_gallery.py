"""`extractor gallery`: every entry with its pictures, what failed, what cannot be read; and pages that need nothing else."""

import base64
import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from rich.console import Console

from extractor.cli import main
from extractor.config import ExtractConfig
from extractor.gallery.cards import Reader, common_scale
from extractor.phantom import write_cohort
from extractor.pictures import VIRIDIS
from extractor.run import RunOptions, RunReport, run
from store_schema import Entry, open_store

CONFIG = ExtractConfig(
    model="mini", weights="random:0", pet_units="suv", stride=16, derive=("spine_dilated",), layouts=("paper", "pooled")
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, RunReport]:
    """A store of two good studies and a run in which a third failed and a fourth was refused."""
    folder = tmp_path_factory.mktemp("gallery")
    studies = write_cohort(folder / "cohort", n=4, seed=1, processes=0).studies
    (folder / "cohort/images/P003_pet.nii.gz").write_bytes(b"nonsense")
    (folder / "cohort/images/P004_ct.nii.gz").unlink()
    report = run(CONFIG, RunOptions(str(studies), str(folder / "store"), jobs=0), console=Console(quiet=True))
    return folder / "store", report


@pytest.fixture
def store(made, tmp_path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "store"))


def gallery(store: Path, *more: str):
    out = store.parent / "page.html"
    return CliRunner().invoke(main, ["gallery", str(store), "--out", str(out), *more]), out


def cards(page: str) -> list[str]:
    return re.findall(r"<article.*?</article>", page, flags=re.DOTALL)


def pictures(card: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', card)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB")) for one in found]


def test_the_newest_run_is_shown_with_its_entries_and_its_failures(store, pages):
    result, out = gallery(store)
    assert result.exit_code == 0, result.output
    assert "4 entries, 0 to look at, 4 failed or refused in the run" in result.stdout
    page = pages.Page(out)
    pages.check_alone_and_accessible(page)
    assert page.tags.count("article") == 4
    assert len(page.images) == 4 * 3 + 1
    for part in ("P001 · PET · spine_dilated", "P003", "damaged or cut short", "file not found", "UNTRAINED"):
        assert part in page.text, part


def test_only_the_store_is_read(store, made, pages):
    shutil.rmtree(store / "packs")
    result, out = gallery(store)
    assert result.exit_code == 0
    assert str(made[0].parent) not in out.read_text()


def test_a_cards_numbers_are_those_of_the_commit_and_its_map_has_the_stated_scale(store, made):
    view_id, there = made[1].views["paper"], open_store(store)
    key = there.keys(view_id)[0]
    entry = there.read(view_id, key)
    scale = common_scale(Reader(there, view_id), dict.fromkeys(there.keys(view_id)))
    _, out = gallery(store)
    page = out.read_text()
    first = cards(page)[0]
    volume = np.count_nonzero(entry.arrays["mask"]) * np.prod(entry.attributes["grid"]["spacing_xyz_mm"]) / 1000
    assert f"{volume:.1f} ml" in first
    assert f"{entry.attributes['alignment']['body_dice']:.3f}" in first
    assert f"{len(entry.attributes['kept_slices_z'])}</dd>" in first
    assert f"Dark violet is {scale[0]:g} or less, yellow is {scale[1]:g} or more" in page
    drawn = pictures(first)[2]
    assert drawn.shape[:2] == entry.arrays["mean_map"].shape
    place = np.clip((entry.arrays["mean_map"] - scale[0]) / (scale[1] - scale[0]), 0, 1)
    np.testing.assert_array_equal(drawn[place == 0], np.broadcast_to(VIRIDIS[0], drawn[place == 0].shape))
    np.testing.assert_allclose(drawn[..., 1], np.interp(place, np.linspace(0, 1, 9), VIRIDIS[:, 1]), atol=1)


def test_a_view_without_masks_borrows_those_of_its_pass(store, made):
    view_id = made[1].views["pooled"]
    assert "mask" not in open_store(store).commit(view_id, open_store(store).keys(view_id)[0]).arrays
    _, out = gallery(store, "--view", view_id)
    assert all(len(pictures(card)) == 3 for card in cards(out.read_text()))


def test_run_view_and_snapshot_name_the_same_entries(store, made):
    report = made[1]
    shown = []
    for more in (
        ["--run", report.run_id[:20], "--view", "pooled"],
        ["--view", report.views["pooled"]],
        ["--snapshot", report.snapshots["pooled"][:12]],
    ):
        result, out = gallery(store, *more)
        assert result.exit_code == 0, result.output
        shown.append(cards(out.read_text()))
    assert shown[0] == shown[1] == shown[2]


def test_filters_and_limit_choose_and_say_what_was_left_out(store, pages):
    result, out = gallery(store, "--where", "modality=PET", "--limit", "1")
    page = pages.Page(out)
    assert result.exit_code == 0
    assert page.tags.count("article") == 1
    assert "1 more left out by the limit" in page.text
    assert "P003CT" not in page.text.replace("\n", "")
    assert gallery(store, "--where", "patient=NOBODY")[0].exit_code == 1
    assert gallery(store, "--where", "colour=red")[0].exit_code == 2


def test_many_entries_go_to_several_files_that_name_each_other(store, pages):
    result, out = gallery(store, "--per-file", "3")
    second = out.with_name("page-2.html")
    assert str(second) in result.stdout
    counts = [pages.Page(one).tags.count("article") for one in (out, second)]
    assert counts == [3, 1]
    for one in (out, second):
        pages.check_alone_and_accessible(pages.Page(one))
        assert {"page.html", "page-2.html"} - {one.name} <= set(pages.Page(one).fetched)


def test_a_damaged_entry_is_a_card_that_says_so_and_the_status_is_1(store, made):
    view_id = made[1].views["paper"]
    there = open_store(store)
    commit = there.commit(view_id, there.keys(view_id)[0])
    damaged = next(path for path in (store / commit.folder / "mask" / "c").rglob("*") if path.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-3])
    result, out = gallery(store)
    assert result.exit_code == 1
    found = cards(out.read_text())
    assert sum("Not readable" in card for card in found) == 1
    assert "store-schema verify" in found[0]


def test_a_warning_of_an_entry_marks_its_card_and_every_text_is_escaped(store, made):
    view_id, there = made[1].views["paper"], open_store(store)
    key = there.keys(view_id)[0]
    entry = there.read(view_id, key)
    attributes = {**entry.attributes, "warnings": ["<b>bodies</b> & more"]}
    there.publish(view_id, key, Entry(arrays=dict(entry.arrays), attributes=attributes), input_sha256="a" * 64)
    result, out = gallery(store, "--view", view_id)
    assert "4 entries, 1 to look at" in result.stdout
    card = cards(out.read_text())[0]
    assert "&lt;b&gt;bodies&lt;/b&gt; &amp; more" in card
    assert 'class="doubtful"' in card


def test_an_entry_of_an_older_engram_has_no_alignment_and_is_shown(store, made):
    view_id, there = made[1].views["paper"], open_store(store)
    key = there.keys(view_id)[0]
    entry = there.read(view_id, key)
    attributes = {name: value for name, value in entry.attributes.items() if name != "alignment"}
    there.publish(view_id, key, Entry(arrays=dict(entry.arrays), attributes=attributes), input_sha256="b" * 64)
    result, out = gallery(store, "--view", view_id)
    assert result.exit_code == 0
    assert "not measured" in cards(out.read_text())[0]


def test_a_run_that_was_cut_short_shows_what_is_there_and_says_so(store, made, pages):
    (store / "runs" / made[1].run_id / "outcomes.jsonl").unlink()
    result, out = gallery(store)
    page = pages.Page(out)
    assert result.exit_code == 0, result.output
    assert "has not ended" in page.text
    assert page.tags.count("article") == 4
    assert "file not found" in page.text


def test_wrong_calls_are_told(store):
    assert gallery(store, "--snapshot", "ab", "--view", "x")[0].exit_code == 2
    assert gallery(store, "--scale", "1", "0")[0].exit_code == 2
    result, _ = gallery(store, "--run", "1999")
    assert result.exit_code == 1
    assert "means 0 extraction runs" in result.stderr


def test_a_browser_sorts_filters_and_turns_pages(store):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed: the page's script is not run")
    _, out = gallery(store)
    probe = (
        "<script>const set=(id,v)=>{const e=document.getElementById(id);e.value=v;"
        "e.dispatchEvent(new Event('input',{bubbles:true}))};"
        "const seen=()=>[...document.querySelectorAll('article:not([hidden]) h3')].map(h=>h.textContent.trim()).join('|');"
        "set('modality','PET');const pet=seen();set('modality','');set('sort','volume:-1');const sorted=seen();"
        "set('search','p002 ct');const found=seen();"
        "document.body.innerHTML='<pre>'+JSON.stringify({pet,sorted,found})+'</pre>';</script></body>"
    )
    out.write_text(out.read_text().replace("</body>", probe))
    arguments = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{out}"]
    seen = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True).stdout
    assert '"pet":"P001 · PET · spine_dilated|P002 · PET · spine_dilated"' in seen
    assert seen.index('"sorted":"P002') > 0
    assert '"found":"P002 · CT · spine_dilated"' in seen
