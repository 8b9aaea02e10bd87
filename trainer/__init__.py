"""Trains and judges survival models on a feature store; knows nothing of images or encoders."""
