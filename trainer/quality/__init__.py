"""Tells what is wrong or unusual in embeddings before anything is fitted on them; fits no survival model."""
