"""Loads the networks of a run once, before any work, and says what a worker has to open; knows no study and no plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from extractor.baseline_layouts import SliceEncoderName
from extractor.config import EncoderFacts, ExtractConfig
from extractor.worker import BaselineSpec, WorkerSpec
from store_schema.errors import ConfigError
from store_schema.files import is_remote

if TYPE_CHECKING:
    from extractor.baselines import SliceEncoder
    from extractor.segmenter import Segmenter

DEFAULT_WEIGHTS = "MedSAM2_latest.pt"


def load_networks(
    config: ExtractConfig, store_url: str, *, device: str, looked_at_on: str
) -> tuple[WorkerSpec, EncoderFacts | None, dict[str, EncoderFacts]]:
    """Loads every network once here, so that a wrong checkpoint fails before any worker starts.

    Parameters
    ----------
    device
        Where the workers compute.
    looked_at_on
        Where this process loads the networks.

    Returns
    -------
    What a worker opens; the facts of the segmentation network, None where none is needed; those of baselines by name.

    Raises
    ------
    ConfigError, WeightsError
        If settings and weights do not make a network.
    """
    facts = _load_segmenter(config, looked_at_on) if config.needs_segmenter else None
    others: dict[str, EncoderFacts] = {}
    for name in config.slice_encoders:
        others[name] = _load_encoder(name, config, looked_at_on)
    spec = WorkerSpec(
        store_url,
        config.model,
        _whole_path(config.weights or DEFAULT_WEIGHTS),
        facts.weights_sha256 if facts else "",
        device,
        config.precision,
        tuple(_baseline_spec(name, config, others[name]) for name in config.slice_encoders),
        segmenter=config.needs_segmenter,
    )
    return spec, facts, others


def _baseline_spec(name: SliceEncoderName, config: ExtractConfig, facts: EncoderFacts) -> BaselineSpec:
    weights = config.baseline_weights.get(name)
    return BaselineSpec(name, None if weights is None else _whole_path(weights), facts.weights_sha256)


def _load_encoder(name: SliceEncoderName, config: ExtractConfig, device: str) -> EncoderFacts:
    from extractor.baselines import load_encoder  # noqa: PLC0415 - keeps --help and table errors instant

    weights = config.baseline_weights.get(name)
    encoder = load_encoder(name, weights, device=device, precision=config.precision)
    return _facts(encoder, encoder.features)


def _load_segmenter(config: ExtractConfig, device: str) -> EncoderFacts:
    from extractor.segmenter import load_segmenter  # noqa: PLC0415 - keeps --help and table errors instant

    if config.weights is None and config.model == "mini":
        raise ConfigError("the mini model has no published weights: give --weights random:SEED or a checkpoint path.")
    weights = _whole_path(config.weights or DEFAULT_WEIGHTS)
    segmenter = load_segmenter(config.model, weights, device=device, precision=config.precision)
    return _facts(segmenter, segmenter.feature_channels)


def _facts(network: SliceEncoder | Segmenter, features: int) -> EncoderFacts:
    return EncoderFacts(
        name=network.name,
        image_size=network.image_size,
        weights_sha256=network.weights_sha256,
        trained=network.trained,
        flags=dict(network.flags),
        features=features,
    )


def _whole_path(weights: str) -> str:
    """A checkpoint file by its whole path, since a worker may be in another folder; anything else as it is."""
    path = None if is_remote(weights) else Path(weights).expanduser()
    return str(path.absolute()) if path is not None and path.is_file() else weights
