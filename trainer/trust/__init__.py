"""Runs a study and all that tells how far to trust it; fits nothing itself."""
