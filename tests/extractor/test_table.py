"""The study table: what is accepted, and the error each mistake gives."""

from pathlib import Path

import fsspec
import pytest

from extractor.config import ExtractConfig
from extractor.table import read_study_table, with_columns
from store_schema.errors import InvalidKeyError, TableError
from store_schema.pseudonyms import Pseudonyms

CONFIG = ExtractConfig(pet_units="suv")
HEADER = "patient,ct,pet,spine\n"


def table(folder: Path, text: str) -> Path:
    path = folder / "studies.csv"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_table(tmp_path):
    (row,) = read_study_table(table(tmp_path, HEADER + "P1,a/ct.nii.gz,a/pet.nii.gz,a/m.nii.gz\n"), CONFIG)
    assert row.files.ct == str(tmp_path / "a/ct.nii.gz")
    assert dict(row.files.masks) == {"spine": str(tmp_path / "a/m.nii.gz")}
    assert row.line == 2


def test_a_table_at_an_address_names_files_beside_it_and_anywhere(tmp_path):
    with fsspec.open("memory://table-1/t/studies.csv", "w") as file:
        file.write(HEADER + "P1,a/ct.nii.gz,https://host/pet.nii.gz?signature=planted,/data/m.nii.gz\n")
    (row,) = read_study_table("memory://table-1/t/studies.csv", CONFIG)
    assert row.files.ct == "memory://table-1/t/a/ct.nii.gz"
    assert row.files.pet.startswith("https://host/pet.nii.gz#")
    assert row.record_name("PET") == "https://host/pet.nii.gz"
    assert row.files.masks["spine"] == "/data/m.nii.gz"
    assert row.missing_files() == ["mask:spine /data/m.nii.gz"]
    assert "planted" not in repr(row)


@pytest.mark.parametrize(
    ("address", "said"),
    [("memory://table-1/none.csv", "is not there"), ("nosuch://x/s.csv", "nothing here knows nosuch://")],
)
def test_a_table_that_cannot_be_fetched_is_refused(address, said):
    with pytest.raises(TableError, match=said):
        read_study_table(address, CONFIG)


def test_pseudonyms_stand_for_patients_studies_and_files(tmp_path):
    ids = Pseudonyms(b"0123456789abcdef")
    text = "patient,study,ct,pet,spine\nKOWALSKA/3,base,KOWALSKA_c.nii,p.nii,m.nii\n"
    (row,) = read_study_table(table(tmp_path, text), CONFIG, ids)
    assert row.patient == ids.key("KOWALSKA/3", "base")
    assert all("KOWALSKA" not in row.record_name(role) for role in row.paths)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (HEADER + "KOWALSKA,c.nii,p.nii,m.nii\nKOWALSKA,c.nii,p.nii,m.nii\n", TableError),
        (HEADER + "KOWALSKA,c.nii,p.nii,m.nii\nKowalska,c.nii,p.nii,m.nii\n", InvalidKeyError),
        (HEADER + "KOWALSKA,KOWALSKA.nii,,m.nii\n", TableError),
        ("patient,ct,pet,spine,name\nP1,c.nii,p.nii,m.nii,Eva KOWALSKA\n", TableError),
        ("patient,study,ct,pet,spine\nKOWALSKA,,c.nii,p.nii,m.nii\n", TableError),
    ],
)
def test_a_refused_table_names_no_patient_behind_pseudonyms(tmp_path, text, error):
    ids = Pseudonyms(b"0123456789abcdef")
    with pytest.raises(error) as caught:
        ids.filtered(lambda: read_study_table(table(tmp_path, text), CONFIG, ids))
    assert "kowalska" not in str(caught.value).lower()


def test_a_study_column_makes_the_key_patient_dot_study(tmp_path):
    text = "patient,study,ct,pet,spine\nP1,base,c.nii,p.nii,m.nii\nP1,month6,c.nii,p.nii,m.nii\n"
    assert [row.patient for row in read_study_table(table(tmp_path, text), CONFIG)] == ["P1.base", "P1.month6"]


def test_an_empty_mask_cell_means_no_such_roi(tmp_path):
    text = "patient,ct,pet,spine,skeleton\nP1,c.nii,p.nii,m.nii,\n"
    (row,) = read_study_table(table(tmp_path, text), CONFIG)
    assert set(row.files.masks) == {"spine"}


def test_parquet_reads_as_csv(tmp_path):
    pd = pytest.importorskip("pandas")
    csv = table(tmp_path, HEADER + "P1,c.nii,p.nii,m.nii\nP2,c2.nii,p2.nii,m2.nii\n")
    pd.read_csv(csv, dtype=str).to_parquet(tmp_path / "studies.parquet")
    assert read_study_table(tmp_path / "studies.parquet", CONFIG) == read_study_table(csv, CONFIG)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (HEADER + "P1,c.nii,p.nii,m.nii\nP1,c.nii,p.nii,m.nii\n", TableError, "more than one row"),
        (HEADER + "p1,c.nii,p.nii,m.nii\nP1,c.nii,p.nii,m.nii\n", InvalidKeyError, "case alone"),
        (HEADER + "../x,c.nii,p.nii,m.nii\n", InvalidKeyError, "line 2"),
        ("patient,ct,pet,spine,age\nP1,c.nii,p.nii,m.nii,61\n", TableError, "unknown column 'age'"),
        ("patient,ct,spine\nP1,c.nii,m.nii\n", TableError, r"lacks the column\(s\) \['pet'\]"),
        ("patient,ct,pet\nP1,c.nii,p.nii\n", TableError, "no ROI"),
        (HEADER, TableError, "no studies"),
        (HEADER + "P1,c.nii,,m.nii\n", TableError, "no pet file"),
        (HEADER + "P1,c.nii,p.nii,\n", TableError, "no mask"),
        ("", TableError, "cannot be read"),
        (HEADER + "P1,c.nii,p.nii,m.nii,\n", TableError, "line 2 has 5 cells, and the header 4"),
        (HEADER + "P1,c.nii,p.nii,m.nii\nP2,c.nii,p.nii\n", TableError, "line 3 has 3 cells, and the header 4"),
        ("patient,ct,pet,spine,pet\nP1,c.nii,p.nii,m.nii,q.nii\n", TableError, "names 'pet' more than once"),
        ("patient,ct,pet,a,A\nP1,c.nii,p.nii,m.nii,n.nii\n", InvalidKeyError, "a, A differ by case alone"),
        ("patient,study,ct,pet,spine\nP1,,c.nii,p.nii,m.nii\n", TableError, "line 2: patient 'P1' has no study"),
    ],
    ids=[
        "twice",
        "case twins",
        "bad id",
        "unknown column",
        "no pet",
        "no roi",
        "empty",
        "no pet cell",
        "no mask",
        "no text",
        "trailing comma",
        "short row",
        "column twice",
        "roi twins",
        "no study",
    ],
)
def test_a_mistake_is_refused_and_named(tmp_path, text, error, said):
    with pytest.raises(error, match=said):
        read_study_table(table(tmp_path, text), CONFIG)


def test_a_linked_image_keeps_the_name_of_the_link(tmp_path):
    (tmp_path / "blob").mkdir()
    (tmp_path / "blob" / "abc123").write_bytes(b"")
    (tmp_path / "ct.nii.gz").symlink_to(tmp_path / "blob" / "abc123")
    (row,) = read_study_table(table(tmp_path, HEADER + "P1,ct.nii.gz,p.nii,m.nii\n"), CONFIG)
    assert row.files.ct == str(tmp_path / "ct.nii.gz")
    assert row.missing_files() == [f"PET {tmp_path / 'p.nii'}", f"mask:spine {tmp_path / 'm.nii'}"]


def test_an_empty_label_map_cell_is_no_label_map(tmp_path):
    config = ExtractConfig(pet_units="suv", derive=("spine_dilated",))
    (row,) = read_study_table(table(tmp_path, "patient,ct,pet,label_map\nP1,c.nii,p.nii,\n"), config)
    assert row.files.label_map is None


PARTS = "patient,ct,pet,label_map_vertebrae,label_map_ribs,label_map_peripheral_bones\n"


def test_a_label_set_in_several_files_has_a_column_each(tmp_path):
    config = ExtractConfig(pet_units="suv", derive=("skeleton",), label_set="moose_3")
    (row,) = read_study_table(table(tmp_path, PARTS + "P1,c.nii,p.nii,v.nii,r.nii,b.nii\n"), config)
    files = {part: str(tmp_path / name) for part, name in (("vertebrae", "v.nii"), ("ribs", "r.nii"))}
    assert row.files.label_maps == files | {"peripheral_bones": str(tmp_path / "b.nii")}
    assert list(row.paths)[2:] == ["label_map_vertebrae", "label_map_ribs", "label_map_peripheral_bones"]
    assert set(row.paths.values()) == set(row.files.places)


def test_only_the_label_maps_that_the_regions_need_are_read(tmp_path):
    config = ExtractConfig(pet_units="suv", derive=("spine_dilated",), label_set="moose_3")
    (row,) = read_study_table(table(tmp_path, PARTS + "P1,c.nii,p.nii,v.nii,,\n"), config)
    assert list(row.files.label_maps) == ["vertebrae"]


def test_columns_of_another_label_set_are_refused_with_the_sets_that_fit(tmp_path):
    config = ExtractConfig(pet_units="suv", derive=("skeleton",))
    with pytest.raises(
        TableError, match=r"lacks the column\(s\) \['label_map'\].*these columns fit: moose_2, moose_3\."
    ):
        read_study_table(table(tmp_path, PARTS + "P1,c.nii,p.nii,v.nii,r.nii,b.nii\n"), config)


def test_a_table_for_another_folder_has_absolute_paths_and_the_new_columns(tmp_path):
    text = "patient,study,ct,pet\nP1,a,c.nii,s3://bucket/p.nii\n"
    frame = with_columns(table(tmp_path, text), {"label_map_ribs": ["P1.a/r.nii"]})
    assert frame.to_dict("records") == [
        {
            "patient": "P1",
            "study": "a",
            "ct": str(tmp_path / "c.nii"),
            "pet": "s3://bucket/p.nii",
            "label_map_ribs": "P1.a/r.nii",
        }
    ]


def test_a_roi_in_the_settings_must_be_a_column(tmp_path):
    config = ExtractConfig(pet_units="suv", rois=("tumour",))
    with pytest.raises(TableError, match="tumour"):
        read_study_table(table(tmp_path, HEADER + "P1,c.nii,p.nii,m.nii\n"), config)


def test_a_region_cannot_be_both_mask_and_derived(tmp_path):
    config = ExtractConfig(pet_units="suv", derive=("skeleton",))
    text = "patient,ct,pet,label_map,skeleton\nP1,c.nii,p.nii,l.nii,m.nii\n"
    with pytest.raises(TableError, match="both a mask column and a derived region"):
        read_study_table(table(tmp_path, text), config)
