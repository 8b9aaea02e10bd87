"""Tells how embeddings and risks hold when prompts or images are disturbed; fits nothing that a run did not fit before."""
