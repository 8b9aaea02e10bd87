"""Averages embeddings over blocks, for the heads that see them so; knows no store and no model."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from store_schema.errors import ConfigError

LARGEST_SIDE = 32
"""Rows and columns that heads of memories see at most, and depth of a volume."""


def pooled(
    maps: Float[np.ndarray, "*stack row column"], block: int
) -> Float[np.ndarray, "*stack pooled_row pooled_column"]:
    """Maps or memories averaged in plane over blocks of `block` × `block` cells, at least float32; 1 gives them as they are.

    Raises
    ------
    ConfigError
        If the blocks do not part the maps evenly.
    """
    if block == 1:
        return maps
    *stack, rows, columns = maps.shape
    _refuse_uneven(rows, columns, block)
    blocks = maps.reshape(*stack, rows // block, block, columns // block, block)
    return np.asarray(blocks.mean(axis=(-3, -1), dtype=np.float64), dtype=np.result_type(maps.dtype, np.float32))


def _refuse_uneven(rows: int, columns: int, block: int) -> None:
    if rows % block or columns % block:
        raise ConfigError(f"images.pool: blocks of {block} do not part maps of {rows} × {columns} evenly")


def even_block(sides: Sequence[int], largest: int) -> int:
    """Edge of the smallest blocks that part each side evenly into `largest` parts at most."""
    fits = (block for block in range(1, max(sides) + 1) if all(not n % block and n // block <= largest for n in sides))
    return next(fits, max(sides))


def plane_block(rows: int, columns: int, pool: int) -> int:
    """Edge of the blocks over which heads of memories see them averaged in plane.

    Raises
    ------
    ConfigError
        If blocks of `pool` do not part the plane evenly.
    """
    _refuse_uneven(rows, columns, pool)
    return pool * even_block((rows // pool, columns // pool), LARGEST_SIDE)


def volumes(
    memory: Float[np.ndarray, "patient layer channel row column"],
) -> Float[np.ndarray, "patient 1 depth row column"]:
    """Memories as volumes of one channel: layer after layer, averaged over neighbours to `LARGEST_SIDE` in depth at most."""
    stacked = memory.reshape(len(memory), -1, *memory.shape[3:])
    block = even_block(stacked.shape[1:2], LARGEST_SIDE)
    deep = stacked.reshape(len(stacked), -1, block, *stacked.shape[2:])
    return np.asarray(deep.mean(axis=2, dtype=np.float32))[:, np.newaxis]
