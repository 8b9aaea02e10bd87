"""Where the voxels of an entry's image lie in the patient, as the entry says it; knows no array and no file format."""

from typing import Any, Self

import numpy as np
from pydantic import ValidationError

from store_schema.errors import SchemaError
from trainer.task_results import Record


class ImageGrid(Record):
    """Millimetres towards the patient's left, posterior and superior (LPS).

    Attributes
    ----------
    size_xyz
        Voxels along each axis.
    origin_xyz_mm
        Centre of the first voxel.
    spacing_xyz_mm
        Between centres of neighbours.
    direction
        Nine cosines, row-major: column j is the direction of axis j.
    """

    size_xyz: tuple[int, int, int]
    origin_xyz_mm: tuple[float, float, float]
    spacing_xyz_mm: tuple[float, float, float]
    direction: tuple[float, float, float, float, float, float, float, float, float]

    @classmethod
    def of(cls, attributes: Any, *, where: str) -> Self:
        """The grid that an entry's attributes give.

        Raises
        ------
        SchemaError
            If they give none, or one whose axes do not run towards left, posterior and superior.
        """
        try:
            grid = cls.model_validate(attributes.get("grid"))
        except ValidationError as error:
            raise SchemaError(
                f"{where}: the entry's attribute `grid` is no grid: {error.errors()[0]['msg']}. Make the entry again"
            ) from error
        cosines = np.reshape(grid.direction, (3, 3))
        if (np.abs(cosines).argmax(axis=0) != np.arange(3)).any() or (np.diag(cosines) <= 0).any():
            raise SchemaError(
                f"{where}: the grid's axes run along {grid.direction}, expected left, posterior and superior, as "
                "`extractor occlude` writes them. Make the entry again"
            )
        return grid

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Voxels along z, y and x."""
        x, y, z = self.size_xyz
        return z, y, x
