"""What a view is to a base, by its own specification; and the words for what a contrast with it shows."""

import pytest

from store_schema import create_store
from trainer.results import ContrastResult, Row
from trainer.trust.control_results import Permuted
from trainer.trust.readings import chance_reading, permuted_reading, reading, unlike, verdict
from trainer.trust.views import apart, is_map, is_matched, standing, views_found

from .occluded_help import occlusion_view
from .trust_help import base_view, encoder_view, other_way, perturbed, planted_views


@pytest.fixture
def base(tiny_view):
    return base_view(tiny_view)


ROLES = {
    "base": "base",
    "random_boxes": "random_boxes",
    "elsewhere": "elsewhere",
    "constant": "constant",
    "encoder": "encoder",
    "upfront.paper": "ablation",
    "sequential.pooled": "ablation",
    "padding": "perturbed",
}


def test_the_specification_decides_and_not_the_name(base):
    for name, view in planted_views(base).items():
        misnamed = view.model_copy(update={"name": "sequential-paper-padding-constant"})
        found = standing(base, misnamed)
        assert (found.role, found.differs) == (ROLES[name], ()), name


def test_labels_tell_mode_layout_kind_size_and_seed(base):
    labels = {name: standing(base, view).label for name, view in planted_views(base).items()}
    assert labels == {
        "base": "base: sequential × paper",
        "random_boxes": "random boxes",
        "elsewhere": "boxes elsewhere",
        "constant": "constant image",
        "encoder": "encoder alone on the last two slices",
        "upfront.paper": "upfront × paper",
        "sequential.pooled": "sequential × pooled",
        "padding": "padding 5 mm",
    }
    assert standing(base, perturbed(base, "elsewhere", seed=3)).label == "boxes elsewhere (seed 3)"
    assert standing(base, encoder_view(base, "all")).label == "encoder alone on all slices"


@pytest.mark.parametrize("changes", [{"precision": "bfloat16"}, {"recipe": 2}, {"grid": "pet"}])
def test_a_view_that_differs_in_more_is_no_control_and_says_in_what(base, changes):
    (name,) = changes
    for view in (perturbed(base, "elsewhere", seed=0), other_way(base, "upfront", "paper")):
        found = standing(base, view.model_copy(update=changes))
        assert (found.role, found.differs) == ("other", (name,))


def test_the_encoder_alone_must_be_the_bases_own(base):
    other = base.encoder.model_copy(update={"weights_sha256": "1" * 64})
    stranger = encoder_view(base).model_copy(update={"encoder": other})
    assert standing(base, stranger).role == "other"
    assert standing(base, stranger).differs == ("encoder",)
    # a recipe of its own, and switches of the predictor that touch none of its numbers
    assert standing(base, encoder_view(base).model_copy(update={"recipe": 7})).role == "encoder"
    slower = encoder_view(base)
    slower = slower.model_copy(update={"prompt": slower.prompt.model_copy(update={"stride": 9})})
    assert standing(base, slower).differs == ("stride",)


def test_one_encoder_alone_is_no_control_of_another(base):
    found = standing(encoder_view(base), encoder_view(base, "all"))
    assert (found.role, found.differs) == ("other", ("prompt",))
    assert standing(encoder_view(base), base).role == "other"


def test_another_stride_or_kind_of_prompt_is_no_ablation_of_mode_and_layout(base):
    strided = base.model_copy(update={"prompt": base.prompt.model_copy(update={"stride": 5})})
    assert (standing(base, strided).role, standing(base, strided).differs) == ("other", ("stride",))
    masks = base.model_copy(update={"prompt": base.prompt.model_copy(update={"kind": "mask"})})
    assert (standing(base, masks).role, standing(base, masks).label) == ("other", "mask prompts, sequential × paper")


def test_the_encoder_alone_is_matched_where_it_sees_the_very_slices(base):
    assert is_matched(base, encoder_view(base))
    assert not is_matched(base, encoder_view(base, "all"))
    assert not is_matched(other_way(base, "sequential", "pooled"), encoder_view(base))
    assert not is_matched(other_way(base, "key_slice", "paper"), encoder_view(base))
    assert is_map(encoder_view(base))
    assert not is_map(encoder_view(base, "all"))


def test_views_with_hidden_patches_and_the_base_itself_are_not_found(base, tmp_path):
    store = create_store(tmp_path / "store")
    for view in (*planted_views(base).values(), occlusion_view(base)):
        store.put_view(view)
    found = views_found(store, base)
    assert sorted(one.role for one in found) == sorted(role for role in ROLES.values() if role != "base")


def test_equal_labels_are_told_apart(base):
    twice = [standing(base, perturbed(base, "elsewhere", seed=0)) for _ in range(2)]
    other = standing(base, perturbed(base, "elsewhere", seed=0).model_copy(update={"precision": "bfloat16"}))
    first, second = apart([twice[0], other])
    assert first.label != second.label
    assert first.label.startswith("boxes elsewhere (")
    assert apart(twice[:1]) == tuple(twice[:1])


def contrast(mean, low, high, differences=(0.1, 0.2)):
    return ContrastResult(
        label="",
        first="base",
        second="x",
        primary=False,
        folds=2,
        mean=mean,
        low=low,
        high=high,
        differences=differences,
    )


@pytest.mark.parametrize(
    ("found", "p", "told"),
    [
        (contrast(0.1, 0.02, 0.18), 0.01, "higher"),
        (contrast(-0.1, -0.18, -0.02), 0.01, "lower"),
        (contrast(0.1, -0.02, 0.22), 0.2, "not told apart"),
        (contrast(0.1, -0.0, 0.2), 0.04, "not told apart"),
        (contrast(0.1, 0.001, 0.2), 0.051, "not told apart"),
        (contrast(0.1, 0.1, 0.1, (0.1, 0.1)), None, "not told apart"),
        (contrast(0.1, None, None, (0.1,)), None, "not told apart"),
        (contrast(0.0, 0.0, 0.0, (0.0, 0.0)), None, "equal"),
        (contrast(None, None, None, ()), None, "incomplete"),
    ],
)
def test_a_difference_is_claimed_only_beyond_interval_and_adjusted_p(base, found, p, told):
    assert verdict(found, p) == told
    for view in planted_views(base).values():
        text = reading(standing(base, base), standing(base, view), found, told, p)
        assert text.endswith(".")
        assert ("Not told apart" in text) == (told == "not told apart")
        assert ("c higher by 0.100 [95% 0.020 to 0.180]" in text) == (told == "higher")
        assert ("does worse" in text) == (told == "lower")


def test_readings_say_what_each_control_takes_away(base):
    views = planted_views(base)

    def said(name, own=base):
        found = contrast(0.1, 0.02, 0.18)
        return reading(standing(own, own), standing(own, views[name]), found, "higher", 0.01)

    assert said("encoder").startswith("Memory adds to what the image encoder alone tells of the same slices: ")
    assert "not the slices that the memories are of" in said("encoder", other_way(base, "sequential", "pooled"))
    assert said("elsewhere").startswith("Where the boxes lie adds to what boxes elsewhere tell: ")
    assert "mean grey value" in said("constant")
    assert said("upfront.paper").startswith("Sequential × paper does better than upfront × paper: ")


def test_an_interval_that_holds_0_is_told_by_its_ends(base):
    other = standing(base, encoder_view(base))
    text = reading(standing(base, base), other, contrast(0.1, -0.02, 0.22), "not told apart", 0.2)
    assert "between 0.020 lower and 0.220 higher" in text
    assert "It is not shown that memory adds" in text
    text = reading(standing(base, base), other, contrast(0.1, 0.01, 0.2), "not told apart", 0.06)
    assert "adjusted for the other contrasts p is 0.060" in text


def test_permuted_outcomes_and_a_control_by_itself_are_held_against_chance():
    near = Permuted(repeats=1, mean=0.53, se=0.02, band=0.06, p=None, reading="")
    assert near.at_chance
    assert "as chance has it" in permuted_reading(near)
    far = near.model_copy(update={"mean": 0.57})
    assert not far.at_chance
    assert "something leaks" in permuted_reading(far)
    assert "A fit failed" in permuted_reading(near.model_copy(update={"mean": None}))
    assert chance_reading("constant image", 0.51, 0.6) == "Constant image by itself: above chance [95% 0.510 to 0.600]."
    assert "not told from chance" in chance_reading("constant image", 0.45, 0.6)
    assert "below chance" in chance_reading("constant image", 0.3, 0.45)
    assert chance_reading("constant image", None, None) == ""


def tuned(tried: int, way: str | None) -> Row:
    rest = dict.fromkeys(("se", "t", "df", "p_one_sided", "p_two_sided", "corrected_p_one_sided", "permutation_p"))
    return Row(label="", kind="model", model="", tried=tried, tuned=way, scores=(), mean=0.6, pooled_c=None, **rest)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (tuned(64, "paper"), tuned(64, "paper"), "OPTIMISTIC"),
        (tuned(1, None), tuned(64, "paper"), "OPTIMISTIC"),
        (tuned(64, "nested"), tuned(1, None), "best of 64 settings and the other the best of 1"),
        (tuned(64, "nested"), tuned(64, "nested"), None),
        (tuned(1, None), tuned(1, None), None),
    ],
)
def test_rows_that_were_tuned_otherwise_are_not_compared(base, first, second, said):
    found, other = contrast(0.1, 0.02, 0.18), standing(base, encoder_view(base))
    apart_by = unlike(first, second)
    told = verdict(found, 0.01, apart_by)
    assert told == ("higher" if said is None else "no verdict")
    text = reading(standing(base, base), other, found, told, 0.01, apart=apart_by)
    if said is not None:
        assert text.startswith("No verdict: ")
        assert said in text
        assert "It is not shown that memory adds" in text


def test_readings_end_with_how_rows_were_tuned(base):
    found = contrast(0.1, 0.02, 0.18).model_copy(
        update={"note": "tuned inside the training folds: base best of 4 settings"}
    )
    text = reading(standing(base, base), standing(base, encoder_view(base)), found, "higher", 0.01)
    assert text.endswith(" Tuned inside the training folds: base best of 4 settings.")


def test_the_best_of_several_is_not_held_against_chance():
    best = Permuted(repeats=1, mean=0.57, se=0.02, band=0.06, p=None, reading="", tuned="paper", tried=64)
    for mean in (0.53, 0.57, 0.8):
        text = permuted_reading(best.model_copy(update={"mean": mean}))
        assert "best of 64 settings, chosen on the reported folds: OPTIMISTIC" in text
        assert "something leaks" not in text
        assert "as chance has it" not in text
    assert "something leaks" in permuted_reading(best.model_copy(update={"mean": 0.4}))
    text = chance_reading("constant image", 0.51, 0.6, tuned="paper", tried=64)
    assert "OPTIMISTIC" in text
    assert "above chance [" not in text
