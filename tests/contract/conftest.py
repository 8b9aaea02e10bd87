"""Lets pytest explain the asserts of the contract, which live in the package; where another test imported it, they stay plain."""

import sys

import pytest

if "store_schema.testing" not in sys.modules:
    pytest.register_assert_rewrite("store_schema.testing")
