"""Sizes, ranks, duplicates, pictures and alignment of embeddings, each against an independent computation."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from store_schema.errors import CohortError
from trainer.quality.alignment import aligned, alignment, correlation, debiased_cka, linear_cka, u_centred
from trainer.quality.drift import Rules
from trainer.quality.duplicates import alike, pair_distances, pairs_told
from trainer.quality.findings import findings
from trainer.quality.judging import Limits, judged
from trainer.quality.pictures import pictures, quarters_of, umap_places
from trainer.quality.results import Settings, ViewQuality
from trainer.quality.standard import components, from_centre, modified_z, norms, outlying
from trainer.quality.subjects import Subjects, owner_by_name
from trainer.scaling import MapScaler

from .quality_help import found, place


@pytest.fixture
def rng():
    return np.random.default_rng(8)


def test_maps_are_standardised_as_the_trainer_does_and_vectors_are_z_scored(rng):
    maps = rng.normal(3, 2, size=(12, 6))
    scaler = MapScaler.fit(maps.reshape(12, 3, 2), kind="pixel")
    want = scaler.transform(maps.reshape(12, 3, 2)).reshape(12, 6)
    np.testing.assert_allclose(found(maps).centred, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found(maps, vector=True).centred, StandardScaler().fit_transform(maps))


def test_unknown_features_are_the_median_and_too_sparse_ones_are_left_out(rng):
    values = rng.normal(size=(10, 4))
    values[:1, 1] = np.nan
    values[:4, 2] = np.nan
    made = found(values, vector=True)
    assert (made.sparse, made.constant, made.centred.shape) == (1, 0, (10, 3))
    filled = values[:, [0, 1, 3]].copy()
    filled[0, 1] = np.median(values[1:, 1])
    np.testing.assert_allclose(made.centred, StandardScaler().fit_transform(filled))
    np.testing.assert_allclose(norms(made), np.sqrt(np.nansum(values**2, axis=1)))


def test_entries_that_are_not_finite_are_left_out_of_everything(rng):
    values = rng.normal(size=(6, 5))
    values[2, 1] = np.inf
    made = found(values, not_finite=[0, 0, 1, 0, 0, 0])
    assert made.patients == ("P000", "P001", "P003", "P004", "P005")
    np.testing.assert_allclose(made.centred, found(np.delete(values, 2, axis=0)).centred)


def test_constant_features_are_counted(rng):
    values = rng.normal(size=(7, 5)).astype(np.float32)
    values[:, [0, 3]] = np.float32(0.1)
    for vector in (False, True):
        assert found(values, vector=vector).constant == 2
        flat = found(np.full((7, 5), 0.1), vector=vector)
        assert (flat.constant, flat.varies) == (5, False)
        assert components(flat).effective_rank is None


def test_components_and_ranks_are_those_of_scikit_learn(rng):
    values = rng.normal(size=(15, 6)) * [5, 3, 2, 1, 1, 0.1]
    made = components(found(values))
    want = PCA().fit(values)
    np.testing.assert_allclose(made.shares, want.explained_variance_ratio_)
    scale = np.sqrt(((values - values.mean(axis=0)) ** 2).mean())
    np.testing.assert_allclose(np.abs(made.scores), np.abs(want.transform(values)) / scale, atol=1e-9)
    assert (made.scores.max(axis=0) >= -made.scores.min(axis=0)).all()
    assert made.effective_rank == pytest.approx(np.exp(stats.entropy(want.explained_variance_)))
    assert made.participation == pytest.approx(
        want.explained_variance_.sum() ** 2 / (want.explained_variance_**2).sum()
    )
    one = components(found(np.outer(rng.normal(size=9), rng.normal(size=4))))
    assert (one.effective_rank, one.participation) == (pytest.approx(1), pytest.approx(1))


def test_outliers_are_those_of_the_median_absolute_deviation(rng):
    values = rng.normal(10, 1, size=50)
    values[[3, 7]] = 30, -20
    z = modified_z(values)
    np.testing.assert_allclose(
        z, 0.6745 * (values - np.median(values)) / stats.median_abs_deviation(values), rtol=1e-12
    )
    assert set(np.flatnonzero(np.abs(z) > 3.5)) == {3, 7}
    assert outlying(values, 3.5).outliers == 2
    alone = outlying(np.array([1.0, 1, 1, 1, 9]), 3.5)
    assert alone.outliers is None
    assert "MAD is 0" in alone.reason


def test_distance_from_the_centre_is_1_where_it_is_typical(rng):
    values = rng.normal(size=(20, 300))
    far = from_centre(found(values))
    assert np.mean(far**2) == pytest.approx(1)
    centre = np.linalg.norm(values - values.mean(axis=0), axis=1)
    np.testing.assert_allclose(far, centre / np.sqrt(np.mean(centre**2)))


def test_planted_duplicates_are_found_by_what_gives_them_away(rng):
    values = 5 + rng.normal(size=(30, 64))
    values[10] = values[3]
    values[11] = values[4] * (1 + 1e-4 * rng.normal(size=64))
    values[13] = values[12]
    inputs = [f"{row:064x}" for row in range(30)]
    inputs[21] = inputs[20]
    contents = list(inputs)
    contents[12] = contents[13] = "f" * 64
    patients = [f"P{row:03d}" for row in range(28)] + ["K1.a", "K1.b"]
    values[29] = values[28]
    persons = {patient: patient.split(".")[0] for patient in patients}
    distances = pair_distances(found(values, inputs=inputs, contents=contents, patients=patients))
    pairs = alike(distances, persons, near=0.01, share=0.1)
    kinds = {(pair.patient, pair.other): (pair.kind, pair.same_person) for pair in pairs}
    assert kinds == {
        ("P003", "P010"): ("equal", False),
        ("P004", "P011"): ("near", False),
        ("P012", "P013"): ("same_content", False),
        ("P020", "P021"): ("same_input", False),
        ("K1.a", "K1.b"): ("equal", True),
    }
    by_name = {pair.other: pair for pair in pairs}
    assert by_name["P013"].equal
    assert by_name["P010"].relative_l2 == 0
    assert by_name["P021"].share_of_median > 0.1
    size = np.sqrt(((values[4] ** 2).sum() + (values[11] ** 2).sum()) / 2)
    assert by_name["P011"].relative_l2 == pytest.approx(np.linalg.norm(values[4] - values[11]) / size)
    told = pairs_told(distances, pairs, persons)
    assert (told.same_input, told.same_content, told.equal, told.near, told.same_person) == (1, 1, 1, 1, 1)
    assert told.pairs == 30 * 29 // 2 - 1
    assert sum(told.counts) == told.pairs - 2
    assert told.nearest_share == 0


def test_distances_are_exact_and_in_scipys_order(rng):
    values = rng.normal(size=(9, 5))
    made = pair_distances(found(values))
    far = pdist(found(values).centred)
    np.testing.assert_array_equal(made.far, far)
    assert all(
        made.far[made.place(i, j)] == pdist(found(values).centred[[i, j]])[0] for i in range(9) for j in range(i + 1, 9)
    )
    assert made.median == np.median(far)


def test_a_view_that_hardly_varies_makes_nobody_a_duplicate(rng):
    values = 100 + 1e-3 * rng.normal(size=(20, 64))
    distances = pair_distances(found(values))
    assert distances.relative.max() < 0.01
    assert alike(distances, {}, near=0.01, share=0.1) == ()


def test_pairs_of_entries_that_are_not_finite_are_known_by_their_digests_alone(rng):
    values = rng.normal(size=(5, 4))
    values[:2] = np.nan
    same = ["a" * 64, "a" * 64, "b" * 64, "c" * 64, "d" * 64]
    (pair,) = alike(pair_distances(found(values, inputs=same, not_finite=[4, 4, 0, 0, 0])), {}, near=0.01, share=0.1)
    assert (pair.patient, pair.other, pair.kind) == ("P000", "P001", "same_input")
    assert np.isnan(pair.relative_l2)


def test_a_pseudonym_says_whose_study_it_is_and_a_plain_id_does_not():
    patient, study = "p" + "0" * 20, "s" + "1" * 20
    assert owner_by_name(f"{patient}.{study}") == patient
    assert owner_by_name("P001.baseline") == "P001.baseline"
    assert Subjects({"P001.baseline": "P001"}).owners(["P001.baseline", "x.y"]) == {
        "P001.baseline": "P001",
        "x.y": "x.y",
    }


def hsic(one, two, *, unbiased):
    """Literal estimators: tr(KHLH)/(n−1)² and equation 5 of Song et al. 2012."""
    n = len(one)
    k, other = one @ one.T, two @ two.T
    if not unbiased:
        h = np.eye(n) - 1 / n
        return np.trace(k @ h @ other @ h) / (n - 1) ** 2
    k, other = (each - np.diag(np.diag(each)) for each in (k, other))
    ones = np.ones(n)
    middle = (ones @ k @ ones) * (ones @ other @ ones) / ((n - 1) * (n - 2))
    return (np.trace(k @ other) + middle - 2 * (ones @ k @ other @ ones) / (n - 2)) / (n * (n - 3))


def test_cka_is_the_ratio_of_literal_hsics(rng):
    one, two = rng.normal(size=(12, 5)), rng.normal(size=(12, 7))
    two[:, :2] += one[:, :2]
    for cka, unbiased in ((linear_cka, False), (debiased_cka, True)):
        parts = [hsic(*pair, unbiased=unbiased) for pair in ((one, two), (one, one), (two, two))]
        assert cka(one, two) == pytest.approx(parts[0] / np.sqrt(parts[1] * parts[2]))
    assert (u_centred(one @ one.T) * u_centred(two @ two.T)).sum() / (12 * 9) == pytest.approx(
        hsic(one, two, unbiased=True)
    )
    features = [one - one.mean(axis=0), two - two.mean(axis=0)]
    products = [
        np.linalg.norm(a.T @ b) for a, b in ((features[1], features[0]), (features[0],) * 2, (features[1],) * 2)
    ]
    assert linear_cka(one, two) == pytest.approx(products[0] ** 2 / (products[1] * products[2]))
    assert debiased_cka(one, one @ np.linalg.qr(rng.normal(size=(5, 5)))[0]) == pytest.approx(1)
    with pytest.raises(CohortError, match="do not vary"):
        linear_cka(one, np.ones((12, 3)))


def test_a_patients_own_second_embedding_is_ranked_by_cosine(rng):
    pet, ct = rng.normal(size=(25, 40)), rng.normal(size=(25, 40))
    ct += 0.8 * pet
    both = [found(pet), found(ct, modality="CT")]
    made = aligned(*both, both[0].patients)
    one, two = (np.array([row / np.linalg.norm(row) for row in each.centred]) for each in both)
    np.testing.assert_allclose(made.cosines, one @ two.T)
    ranks = [1 + sum((one @ two.T)[row] > (one @ two.T)[row, row]) for row in range(25)]
    np.testing.assert_array_equal(made.ranks, ranks)
    told = alignment(made, {}, permutations=199, resamples=100, seed=[0])
    assert told.first_share == np.mean(np.array(ranks) == 1) > 0.5
    assert told.rank_p == told.cka_p == 1 / 200
    assert told.cosine.median == pytest.approx(np.median((one * two).sum(axis=1)))
    assert told.risk_cosine.spearman is None
    # dealt to others at random there is nothing left, on average over draws
    dealt = [found(ct[rng.permutation(25)], modality="CT") for _ in range(12)]
    p = [
        alignment(aligned(both[0], each, both[0].patients), {}, permutations=99, resamples=100, seed=[1])
        for each in dealt
    ]
    assert 0.25 < np.mean([one.rank_p for one in p]) < 0.75
    assert 0.25 < np.mean([one.cka_p for one in p]) < 0.75
    assert abs(np.mean([one.cka_debiased for one in p])) < 0.1
    assert np.mean([one.rank.median for one in p]) == pytest.approx(13, abs=3.5)
    assert min(one.cka for one in p) > 0.4


def test_alignment_is_told_beside_the_risk(rng):
    pet = rng.normal(size=(40, 30))
    noise = np.linspace(0.2, 3, 40)
    ct = pet + noise[:, None] * rng.normal(size=(40, 30))
    dice = [0.7 if row < 3 else 0.9 + row / 1000 for row in range(39)] + [None]
    both = found(pet, dice=dice), found(ct, modality="CT")
    risk = {f"P{row:03d}": float(noise[row]) for row in range(1, 40)}
    made = aligned(*both, both[0].patients)
    told = alignment(made, risk, permutations=99, resamples=200, seed=[0])
    own = made.own[1:]
    assert told.risk_cosine.spearman == pytest.approx(stats.spearmanr(own, noise[1:]).statistic)
    assert told.risk_cosine.low <= told.risk_cosine.spearman <= told.risk_cosine.high < -0.5
    assert told.risk_dice.n == 38
    assert told.risk_dice.spearman == pytest.approx(stats.spearmanr(dice[1:39], noise[1:39]).statistic)
    assert told.poor_overlap == 3
    assert told.body_dice.n == 39
    assert [one.cosine for one in told.points] == sorted(made.own.tolist())
    assert sum(one.log_risk is None for one in told.points) == 1


def test_what_cannot_be_correlated_says_why(rng):
    assert "same for all" in correlation(np.ones(20), rng.normal(size=20), resamples=100, seed=[0]).reason
    assert "5 patients" in correlation(np.arange(5.0), np.arange(5.0), resamples=100, seed=[0]).reason


def test_pictures_hold_points_of_groups_and_quarters_and_no_order_of_patients(rng):
    values = rng.normal(size=(20, 6))
    patients = tuple(f"P{row:03d}" for row in range(20))
    risk = {patient: float(row) for row, patient in enumerate(patients[1:])}
    subjects = Subjects(groups={"scanner": {patient: "AB"[row % 2] for row, patient in enumerate(patients[:15])}})
    made = components(found(values))
    (pca,) = pictures(made, patients, subjects, risk, umap=False, seed=0)
    assert pca.explained == pytest.approx(PCA().fit(values).explained_variance_ratio_[:2])
    assert [(one.x, one.y) for one in pca.points] == sorted(map(tuple, made.scores[:, :2].tolist()))
    assert sum(one.levels["scanner"] is None for one in pca.points) == 5
    assert sorted(one.quartile or 0 for one in pca.points) == [0, *[1] * 5, *[2] * 5, *[3] * 4, *[4] * 5]
    assert quarters_of(patients, {}) == {}


def test_umap_parts_what_is_apart_the_same_each_time_and_says_when_it_was_left_out(rng):
    values = rng.normal(size=(40, 8))
    values[:20] += 8
    scores = components(found(values)).scores
    places, reason = umap_places(scores, seed=4)
    assert reason is None
    centres = places[:20].mean(axis=0), places[20:].mean(axis=0)
    nearest = [np.argmin([np.linalg.norm(one - centre) for centre in centres]) for one in places]
    assert nearest == [0] * 20 + [1] * 20
    np.testing.assert_array_equal(places, umap_places(scores, seed=4)[0])
    none, reason = umap_places(scores[:14], seed=4)
    assert none is None
    assert "14 patients, and it needs 15" in reason
    assert place(values).usable.all()


def test_what_cannot_be_right_is_told_as_such_and_left_out_of_the_rest(rng):
    values = rng.normal(size=(12, 6))
    values[1] = 0
    values[2, 3] = np.nan
    made = place(values, not_finite=[0, 0, 1, *[0] * 9])
    facts = list(made.facts)
    facts[4] = replace(facts[4], valid_layers=2, blank_layers=1)
    made = replace(made, facts=tuple(facts), dead_channels=2)
    one = judged(made, Subjects(), {}, Limits(Rules(), 99, 0.01, umap=False)).quality
    assert (one.patients, one.left_out, one.not_finite, one.zero, one.most_rank) == (12, 1, 1, 1, 6)
    assert one.norm.extent.n == 11
    view = ViewQuality(
        view="made-0", snapshot="0" * 64, encoder_trained=True, entries=12, embeddings=(one,), alignments=()
    )
    settings = Settings(near=0.01, share=0.1, outlier=3.5, least_group=5, permutations=99, resamples=100, seed=0)
    told = {(finding.severity, finding.text) for finding in findings([view], settings)}
    assert told >= {
        ("wrong", "1 number NaN or infinite, in 1 entry"),
        ("wrong", "1 embedding 0 throughout"),
        ("wrong", "1 memory layer called valid and 0 throughout"),
        ("look", "2 of 2 memory channels are one number for all patients"),
        ("know", "entries differ in how many memory layers are valid (1: 11, 2: 1)"),
    }


def test_features_with_units_have_no_norm(rng):
    made = place(rng.normal(size=(9, 3)) * [1, 1000, 1e-3], vector=True)
    layout = made.layout.model_copy(update={"features": ("a", "b", "c")})
    one = judged(replace(made, layout=layout), Subjects(), {}, Limits(Rules(), 99, 0.01, umap=False)).quality
    assert (one.norm.extent, one.norm.reason) == (None, "features have units of their own")
    assert one.from_centre.extent.n == 9


def test_a_single_patient_is_no_fault(rng):
    one = judged(place(rng.normal(size=(1, 6))), Subjects(), {}, Limits(Rules(), 99, 0.01, umap=False)).quality
    view = ViewQuality(
        view="made-0", snapshot="0" * 64, encoder_trained=True, entries=1, embeddings=(one,), alignments=()
    )
    settings = Settings(near=0.01, share=0.1, outlier=3.5, least_group=5, permutations=99, resamples=100, seed=0)
    assert findings([view], settings) == ()
    assert (one.constant, one.most_rank, one.pairs.pairs, one.pairs.relative_l2) == (0, 0, 0, None)
    assert one.pictures[0].reason == "embeddings vary in fewer than two directions"
