"""Shares feature stores between projects over HTTP; knows nothing of models or images."""
