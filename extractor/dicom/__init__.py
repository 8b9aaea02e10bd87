"""CT and PET images from folders of DICOM files; knows no region, prompt or network.

`series` reads a folder; it asks `headers` which files make the series, `geometry` where their voxels lie, `pixels` for stored
values, and `suv` what a PET's values are worth; what its headers say is in `facts`.
"""
