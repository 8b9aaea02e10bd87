"""Settings and the views they stand for."""

import pytest

from extractor.config import EncoderFacts, ExtractConfig, load_config, views_of
from store_schema.errors import ConfigError

FACTS = EncoderFacts(name="mini", image_size=128, weights_sha256="0" * 64, trained=False, flags={"fill_hole_area": 0})


def test_every_setting_that_changes_numbers_changes_the_view():
    base = ExtractConfig(pet_units="suv")
    changes = [
        {"mode": "upfront"},
        {"stride": 3},
        {"ct_window_hu": "soft_tissue"},
        {"pet_clip_suv": (0, 20)},
        {"closing_mm": 5.0},
        {"dilation_mm": 5.0},
    ]
    views = [views_of(ExtractConfig(pet_units="suv", **change), FACTS)["paper"].view_id for change in changes]
    other_weights = FACTS.model_copy(update={"weights_sha256": "1" * 64})
    views += [views_of(base, FACTS)["paper"].view_id, views_of(base, other_weights)["paper"].view_id]
    assert len(set(views)) == len(changes) + 2


def test_what_a_run_leaves_out_does_not_change_the_view():
    both = views_of(ExtractConfig(pet_units="suv"), FACTS)["paper"]
    ct_only = views_of(ExtractConfig(modalities=("CT",), layouts=("paper",), rois=("a",)), FACTS)["paper"]
    assert ct_only.view_id == both.view_id


def test_a_view_of_random_weights_says_so_in_its_name():
    view = views_of(ExtractConfig(pet_units="suv"), FACTS)["paper"]
    assert "untrained" in view.view_id
    assert view.encoder.trained is False


def test_presets_and_their_numbers_are_the_same_view():
    named = views_of(ExtractConfig(ct_window_hu="bone", pet_clip_suv="suv10"), FACTS)["paper"]
    spelled = views_of(ExtractConfig(ct_window_hu=(-500, 1300), pet_clip_suv=(0, 10)), FACTS)["paper"]
    assert named.view_id == spelled.view_id


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour: red\n", "colour.*Known settings: model"),
        ("mode: sideways\n", "mode"),
        ("layouts: []\n", "empty"),
        ("modalities: [PET, PET]\n", "twice"),
        ("ct_window_hu: [300, -500]\n", "must rise"),
        ("- a\n- b\n", "expected 'setting: value' lines"),
        ("a: [\n", "cannot be read as YAML"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, text, said):
    path = tmp_path / "extract.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_config(path)
