"""In-plane pooling of maps before the head."""

import numpy as np
import pytest

from store_schema.errors import ConfigError
from trainer.pooling import pooled


def test_blocks_are_averaged_and_an_enlarged_map_comes_back():
    small = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)
    enlarged = small.repeat(4, axis=1).repeat(4, axis=2)
    np.testing.assert_array_equal(pooled(enlarged, 4), small)
    np.testing.assert_allclose(pooled(enlarged, 8), pooled(small, 2), rtol=1e-6)
    assert pooled(small, 1) is small


def test_blocks_that_do_not_part_the_map_are_refused():
    with pytest.raises(ConfigError, match="blocks of 3"):
        pooled(np.zeros((1, 4, 4), np.float32), 3)
