"""Which views that nobody named are judged together, by hand-made sets of patients."""

from trainer.robustness.choosing import too_few

COHORT = frozenset(f"P{row:02d}" for row in range(40))


def without(*rows):
    return COHORT - {f"P{row:02d}" for row in rows}


def test_a_view_of_few_patients_is_left_out_and_the_others_are_not():
    found = {"whole": COHORT, "pilot": frozenset(["P00", "P01", "P02"]), "most": without(1, 2, 3, 4)}
    left = too_few(found, named={}, cohort=COHORT)
    assert list(left) == ["pilot"]
    assert left["pilot"].startswith("holds what the row reads of 3 of 40 patients, and ")
    assert too_few({"most": without(1, 2, 3, 4, 5)}, named={}, cohort=COHORT).keys() == {"most"}


def test_strangers_to_the_cohort_make_no_view_larger():
    stranger = {f"Q{row:02d}" for row in range(40)}
    assert too_few({"view": without(*range(20)) | stranger}, named={}, cohort=COHORT).keys() == {"view"}


def test_views_that_each_lack_others_leave_nine_tenths_together():
    found = {f"v{start}": without(*range(start, start + 3)) for start in (0, 3, 6)}
    left = too_few({"last": COHORT, **found}, named={}, cohort=COHORT)
    # 40, 37, and 34 would be less than 36
    assert list(left) == ["v3", "v6"]
    assert left["v3"].startswith("leaves 34 of the 37 patients that the other views hold, of 40, and ")


def test_what_somebody_named_is_taken_and_the_others_are_held_against_what_it_leaves():
    few = without(*range(20))
    assert too_few({"found": few | without(*range(20, 40))}, named={"few": few}, cohort=COHORT) == {}
    # 17 of the named view's 20
    assert too_few({"found": without(37, 38, 39)}, named={"few": few}, cohort=COHORT).keys() == {"found"}
