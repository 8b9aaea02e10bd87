"""Steps that bring the tables of an older version to this one; each is final once it was released."""
