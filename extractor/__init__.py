"""Turns PET/CT studies and region masks into entries of a feature store; knows nothing of outcomes."""
