"""SUV by body weight from a PET's header: right numbers by hand, and no number where a field is missing or odd."""

import math

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from extractor.dicom.series import read_pet_series
from store_schema.errors import IntensityError

STORED = np.arange(1, 1 + 4 * 3 * 5, dtype=np.uint16).reshape(4, 3, 5) * 100


def isotope(header):
    return header.RadiopharmaceuticalInformationSequence[0]


def setting(**fields):
    """Sets fields of every header; those of the isotope by their own names; None takes one away."""

    def change(header, rank):
        del rank
        for name, value in fields.items():
            item = isotope(header) if name.startswith("Radi") else header
            if value is None:
                delattr(item, name)
            else:
                setattr(item, name, value)

    return change


@pytest.fixture
def suv(dicom, tmp_path):
    """SUV and scale of a series with a changed header."""

    def read(change=dicom.keep, declared=None, stored=STORED, **options):
        folder = dicom.write_series(tmp_path / "pet", stored, role="PET", change=change, **options)
        volume, scale = read_pet_series(str(folder), declared=declared)
        return volume.array_zyx, scale

    return read


def test_suv_is_activity_times_weight_over_the_dose_that_was_left(suv):
    """370 MBq, one hour before the scan, half-life 6586.2 s, 74 kg: computed by hand."""
    left_bq = 370e6 * math.exp(-math.log(2) * 3600 / 6586.2)
    assert left_bq == pytest.approx(253.3e6, rel=1e-3)
    values, scale = suv(slope=lambda rank: 2.0 + rank)
    expected = STORED * (2.0 + np.arange(4))[:, None, None] * 74_000 / left_bq
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert (scale.units, scale.reference, scale.elapsed_s) == ("BQML", "SeriesTime", 3600.0)


def test_a_dose_corrected_to_its_administration_does_not_decay(suv):
    values, scale = suv(setting(DecayCorrection="ADMIN", RadiopharmaceuticalStartTime=None, SeriesDate=None))
    np.testing.assert_allclose(values, STORED * (74_000 / 370e6), rtol=1e-6)
    assert scale.elapsed_s is None


def elapsed(suv, **fields):
    return suv(setting(**fields))[1].elapsed_s


def test_an_injection_before_midnight_lies_on_the_day_before(suv):
    at = {"SeriesTime": "003000", "AcquisitionTime": "003000.5", "RadiopharmaceuticalStartTime": "234500"}
    assert elapsed(suv, **at) == 45 * 60


def test_an_injection_with_its_date_is_taken_as_it_is(suv):
    at = {"SeriesDate": "20260301", "AcquisitionDate": "20260301", "SeriesTime": "001000", "AcquisitionTime": "001000"}
    whole = {"RadiopharmaceuticalStartDateTime": "20260228231000.000000", "RadiopharmaceuticalStartTime": "231000"}
    assert elapsed(suv, **at, **whole) == 3600


def test_a_series_that_crosses_midnight_keeps_its_own_beginning(suv, dicom):
    def change(header, rank):
        header.SeriesTime, isotope(header).RadiopharmaceuticalStartTime = "235900", "225900"
        header.AcquisitionDate, header.AcquisitionTime = [("20260110", "235900"), ("20260111", "000130")][rank > 1]

    assert suv(change)[1].elapsed_s == 3600


def test_a_series_written_after_its_acquisition_counts_from_its_earliest_acquisition(suv):
    """Slice 0 was acquired at 10:15:00, the others later."""
    values, scale = suv(setting(SeriesTime="183000"))
    assert (scale.reference, scale.elapsed_s) == ("earliest AcquisitionTime", 3600.0)
    assert values[0, 0, 0] == pytest.approx(100 * 74_000 / (370e6 * 0.5 ** (3600 / 6586.2)))


def test_a_series_of_ge_written_later_counts_from_its_private_scan_time(suv):
    def change(header, rank):
        del rank
        header.SeriesTime = "183000"
        header.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20260110101400.00")

    assert suv(change)[1].elapsed_s == 3540.0


def test_times_with_offsets_are_brought_to_one_zone(suv):
    zoned = {"RadiopharmaceuticalStartDateTime": "20260110081500+0000", "RadiopharmaceuticalStartTime": None}
    assert elapsed(suv, **zoned, TimezoneOffsetFromUTC="+0100") == 3600
    with pytest.raises(IntensityError, match="TimezoneOffsetFromUTC"):
        suv(setting(**zoned))


def philips(**factors):
    def change(header, rank):
        del rank
        header.Units = "CNTS"
        block = header.private_block(0x7053, "Philips PET Private Group", create=True)
        for element, value in factors.items():
            block.add_new(int(element[1:], 16), "DS", value)

    return change


def test_counts_of_philips_become_suv_by_its_private_factor(suv):
    values, scale = suv(philips(x00="0.0005", x09="3.5"), slope=lambda rank: 1.0 + rank)
    np.testing.assert_allclose(values, STORED * (1.0 + np.arange(4))[:, None, None] * 0.0005, rtol=1e-6)
    assert "7053,1000" in scale.reference


@pytest.mark.parametrize("absent", [{}, {"x00": "0"}])
def test_counts_of_philips_become_activity_where_only_that_factor_is_given(suv, dicom, absent):
    values, _ = suv(philips(**absent, x09="3.5"))
    np.testing.assert_allclose(values, STORED * 3.5 * dicom.BQML_TO_SUV, rtol=1e-6)


def test_counts_of_anybody_else_are_refused(suv):
    with pytest.raises(IntensityError, match="7053,1009"):
        suv(setting(Units="CNTS"))


def test_suv_by_body_weight_is_taken_as_it_is(suv):
    values, scale = suv(setting(Units="GML", SUVType="BW", PatientWeight=None), stored=STORED // 100)
    np.testing.assert_array_equal(values, STORED // 100)
    assert scale.factor == 1


def test_suv_of_an_unsaid_kind_needs_the_declaration(suv):
    with pytest.raises(IntensityError, match="pet_units: suv"):
        suv(setting(Units="GML"))
    assert suv(setting(Units="GML"), declared="suv")[1].factor == 1


@pytest.mark.parametrize("kind", ["LBM", "BSA", "IBW"])
def test_suv_by_another_measure_contradicts_the_declaration_and_is_refused(suv, kind):
    with pytest.raises(IntensityError, match=f"SUV by {kind}"):
        suv(setting(Units="GML", SUVType=kind), declared="suv")


NEEDED = {
    "PatientWeight": "PatientWeight (0010,1030)",
    "RadionuclideTotalDose": "RadionuclideTotalDose (0018,1074)",
    "RadionuclideHalfLife": "RadionuclideHalfLife (0018,1075)",
    "RadiopharmaceuticalStartTime": "RadiopharmaceuticalStartTime (0018,1072)",
    "SeriesTime": "SeriesTime (0008,0031)",
    "SeriesDate": "SeriesDate (0008,0021)",
    "AcquisitionTime": "AcquisitionTime (0008,0032)",
    "AcquisitionDate": "AcquisitionDate (0008,0022)",
    "DecayCorrection": "DecayCorrection (0054,1102)",
    "CorrectedImage": "CorrectedImage (0028,0051)",
    "Units": "Units (0054,1001)",
}


@pytest.mark.parametrize("empty", [False, True], ids=["absent", "empty"])
@pytest.mark.parametrize("name", NEEDED)
def test_each_field_that_is_missing_is_named(suv, name, empty):
    with pytest.raises(IntensityError) as refused:
        suv(setting(**{name: "" if empty else None}))
    assert NEEDED[name] in str(refused.value)
    assert "lacks" in str(refused.value)


def test_all_fields_that_are_missing_are_named_at_once(suv):
    def change(header, rank):
        del rank
        for name in ("PatientWeight", "SeriesTime", "AcquisitionTime", "CorrectedImage", "DecayCorrection"):
            delattr(header, name)
        header.RadiopharmaceuticalInformationSequence = Sequence([Dataset()])

    with pytest.raises(IntensityError) as refused:
        suv(change)
    assert all(
        said in str(refused.value)
        for name, said in NEEDED.items()
        if name not in {"Units", "SeriesDate", "AcquisitionDate"}
    )
    assert "DOE" not in str(refused.value)


def test_a_header_without_an_isotope_names_what_it_should_hold(suv):
    with pytest.raises(IntensityError, match=r"RadiopharmaceuticalInformationSequence.*RadionuclideTotalDose"):
        suv(lambda header, rank: delattr(header, "RadiopharmaceuticalInformationSequence"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"RadionuclideTotalDose": 370}, "MBq"),
        ({"RadionuclideTotalDose": 370e3}, "MBq"),
        ({"RadionuclideTotalDose": 370e12}, "multiplied twice"),
        ({"RadionuclideTotalDose": -370e6}, "-3.7e"),
        ({"RadionuclideHalfLife": 109.77}, "minutes"),
        ({"PatientWeight": 74000}, "grams"),
        ({"PatientWeight": 1}, "placeholder"),
        ({"PatientWeight": -74}, "-74 kg"),
        ({"DecayCorrection": "NONE"}, "NONE"),
        ({"CorrectedImage": ["NORM", "DECY"]}, "not corrected for ATTN"),
        ({"CorrectedImage": ["ATTN"]}, "not corrected for DECY"),
        ({"Units": "PROPCPS"}, "PROPCPS"),
        ({"RadiopharmaceuticalStartTime": "101500"}, "0.0 minutes"),
        ({"RadiopharmaceuticalStartTime": "102000"}, "1435.0 minutes"),
        ({"RadiopharmaceuticalStartTime": "250000"}, "no time of day"),
        ({"SeriesDate": "20261301"}, "no date"),
        ({"RadiopharmaceuticalStartDateTime": "20260110081500"}, "differ by 60 minutes"),
        ({"RadiopharmaceuticalStartDateTime": "20260109091500"}, "1500.0 minutes"),
        ({"RadiopharmaceuticalStartDateTime": "20260111091500"}, "-1380.0 minutes"),
        ({"SeriesTime": "093000"}, "45.0 minutes before its first acquisition"),
        ({"RescaleSlope": 0}, "RescaleSlope"),
        ({"RescaleSlope": None}, "lacks RescaleSlope"),
    ],
)
def test_what_cannot_be_right_is_refused(suv, fields, said):
    with pytest.raises(IntensityError, match=said):
        suv(setting(**fields))


def test_a_half_life_of_another_nuclide_than_the_one_named_is_refused(suv):
    def change(header, rank):
        del rank
        code = Dataset()
        code.CodeValue = "C-111A1"
        isotope(header).RadionuclideCodeSequence = Sequence([code])
        isotope(header).RadionuclideHalfLife = 1221.8

    with pytest.raises(IntensityError, match="F-18"):
        suv(change)


def test_a_weight_that_differs_between_slices_is_refused(suv):
    with pytest.raises(IntensityError, match="weight_kg differ"):
        suv(lambda header, rank: setattr(header, "PatientWeight", 70 + rank))


def test_two_injections_are_refused(suv):
    def change(header, rank):
        del rank
        header.RadiopharmaceuticalInformationSequence = Sequence([isotope(header), isotope(header)])

    with pytest.raises(IntensityError, match="2 items"):
        suv(change)


def test_a_private_scan_time_of_ge_far_from_the_acquisition_is_refused(suv):
    def change(header, rank):
        del rank
        header.SeriesTime = "183000"
        header.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20260110083000.00")

    with pytest.raises(IntensityError, match=r"105\.0 minutes"):
        suv(change)


HALF_LIFE_S = 6586.2


def beds(*, first_bed=0, reference="101500", series="101500", factor=True, offset=True, minutes=3.0):
    """Two slices a bed, each bed three minutes after the one before; everything is written as PS3.3 C.8.9.4 says it."""

    def change(header, rank):
        start_s = (first_bed + rank // 2) * minutes * 60
        decay = math.log(2) / HALF_LIFE_S
        within = decay * minutes * 60
        header.SeriesTime = series
        clock = 10 * 3600 + 15 * 60 + start_s
        header.AcquisitionTime = f"{int(clock // 3600):02d}{int(clock // 60 % 60):02d}{clock % 60:05.2f}"
        header.ActualFrameDuration = str(int(minutes * 60_000))
        late_s = 3600 * int(reference[:2]) + 60 * int(reference[2:4]) - (10 * 3600 + 15 * 60)
        if factor:
            header.DecayFactor = f"{math.exp(decay * (start_s - late_s)) * within / (1 - math.exp(-within)):.6g}"
        if offset:
            average_s = math.log(within / (1 - math.exp(-within))) / decay
            header.FrameReferenceTime = f"{1000 * (start_s - late_s + average_s):.1f}"

    return change


def by_hand(stored, elapsed_s):
    return stored * 74_000.0 / (370e6 * math.exp(-math.log(2) * elapsed_s / HALF_LIFE_S))


def test_decay_factors_that_agree_with_the_series_time_change_no_number(suv):
    values, scale = suv(beds())
    assert scale.reference == "SeriesTime"
    np.testing.assert_allclose(values, by_hand(STORED, 3600), rtol=1e-6)


def test_a_series_time_before_the_true_reference_is_refused_by_the_decay_factors(suv):
    """Ten minutes early would be 6.5% too little, and looks like any SUV. 8.5: factors may leave the frame's own decay out."""
    with pytest.raises(IntensityError, match=r"DecayFactor .* 8\.5 minutes after .*SeriesTime"):
        suv(beds(series="100500"))


def test_values_corrected_to_the_injection_and_called_start_are_refused(suv):
    """They would be 46% too high."""
    with pytest.raises(IntensityError, match=r"60\.0 minutes before .*DecayCorrection .* wrong"):
        suv(beds(reference="091500"))


def test_values_corrected_to_the_start_and_called_admin_are_refused(suv):
    def change(header, rank):
        beds()(header, rank)
        header.DecayCorrection = "ADMIN"

    with pytest.raises(IntensityError, match=r"58\.5 minutes after .*ADMIN"):
        suv(change)


def test_values_corrected_to_the_injection_by_their_factors_are_taken_as_admin(suv):
    def change(header, rank):
        beds(reference="091500")(header, rank)
        header.DecayCorrection = "ADMIN"

    np.testing.assert_allclose(suv(change)[0], STORED * (74_000 / 370e6), rtol=1e-6)


@pytest.mark.parametrize("factor", [True, False])
def test_a_rewritten_series_that_lost_its_first_beds_counts_from_its_frame_reference_times(suv, factor):
    """Its earliest acquisition is six minutes late: SUV would be 3.9% too high."""
    values, scale = suv(beds(first_bed=2, series="183000", factor=factor))
    assert scale.reference == "AcquisitionTime less FrameReferenceTime"
    assert scale.elapsed_s == pytest.approx(3600, abs=1)
    np.testing.assert_allclose(values, by_hand(STORED, 3600), rtol=2e-4)


def test_a_rewritten_series_that_lost_its_first_beds_is_refused_where_its_factors_alone_tell(suv):
    with pytest.raises(IntensityError, match=r"6\.0 minutes before .*earliest AcquisitionTime"):
        suv(beds(first_bed=2, series="183000", offset=False))


def test_a_factor_of_one_says_nothing(suv):
    """Scanners write it where they do not know it."""
    assert suv(setting(DecayFactor="1", FrameReferenceTime="0"))[1].elapsed_s == 3600


ZIRCONIUM_S = 282_276.0


def test_an_injection_without_a_date_is_refused_where_the_nuclide_lives_for_days(suv):
    """Zirconium is imaged after four days: a time of day says nothing of which."""
    with pytest.raises(IntensityError, match=r"some days later.*RadiopharmaceuticalStartDateTime"):
        suv(setting(RadionuclideHalfLife=ZIRCONIUM_S))
    values, scale = suv(setting(RadionuclideHalfLife=ZIRCONIUM_S, RadiopharmaceuticalStartDateTime="20260106091500"))
    assert scale.elapsed_s == 4 * 86_400 + 3600
    left_bq = 370e6 * 0.5 ** ((4 * 86_400 + 3600) / ZIRCONIUM_S)
    np.testing.assert_allclose(values, STORED * 74_000.0 / left_bq, rtol=1e-6)
