"""Writes the page and the figures of a finished run; fits nothing and reads the run folder alone."""
