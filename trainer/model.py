"""Joins towers, fusion, covariates and survival head into one model; knows nothing of how it is fitted or judged."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from store_schema.errors import ConfigError, UsageError
from trainer.attention import AttentionHead
from trainer.fusion import ConcatFusion, GateFusion
from trainer.heads import AverageHead, VolumeHead
from trainer.spec import FLAT_HEADS, SIZED_HEADS, FusionKind, ModelSpec

FUSIONS: dict[FusionKind, type[ConcatFusion] | type[GateFusion]] = {"concat": ConcatFusion, "gate": GateFusion}
VECTOR_WIDTH = 128
"""Length of the vector that the ``vector`` head gives; protocol section 4."""


LOWEST_WORD = -(2**63)
"""From which all 64 bits of a word are drawn."""


class ModelOutput(NamedTuple):
    """What a model says of each patient."""

    log_risk: Float[Tensor, " patient"]
    """Log-risk; higher is worse. Its zero has no meaning."""
    alpha: Float[Tensor, " patient"] | None
    """Gate's weight of the first modality; None where nothing was mixed."""


class SeededDropout(nn.Module):
    """Dropout that draws from a stream of its own, so that no other code in the process can shift its masks."""

    def __init__(self, share: float, stream: torch.Generator) -> None:
        super().__init__()
        self.share = share
        self.stream = stream

    def forward(self, x: Float[Tensor, "patient unit"]) -> Float[Tensor, "patient unit"]:
        """Units kept with probability 1 - share and scaled up in training; the input itself in evaluation."""
        if not self.training or self.share == 0:
            return x
        words = torch.empty(words_of(x.numel()), dtype=torch.int64, device=x.device)
        kept = draw_levels(words, self.stream)[: x.numel()].view(x.shape) >= least_level(self.share)
        return x * kept / (1 - self.share)


def words_of(units: int) -> int:
    """Words of 64 bits that hold a level for each of so many units."""
    return -(-units // 4)


def draw_levels(words: Int[Tensor, " word"], stream: torch.Generator) -> Int[Tensor, " level"]:
    """Random levels of 16 bits, four a word, drawn into these words in place.

    Four units share one draw of the stream: a tenth of the time of as many draws from Bernoulli's distribution, which is
    most of what a small network costs.
    """
    return words.random_(LOWEST_WORD, None, generator=stream).view(torch.int16)


def least_level(share: float) -> int:
    """Least level of a unit that is kept: levels are uniform over 16 bits, so the share dropped is exact to 2⁻¹⁷."""
    lowest = torch.iinfo(torch.int16).min
    return min(lowest + round(share * 2**16), torch.iinfo(torch.int16).max)


class SurvivalHead(nn.Sequential):
    """DeepSurv: hidden layers (linear, batch normalisation, ReLU, dropout), then a linear log-risk without bias.

    A bias there would cancel in the partial likelihood.

    References
    ----------
    Katzman et al. 2018; Guinea-Pérez et al. 2026, section 2.3.3.
    """

    def __init__(self, width: int, spec: ModelSpec, stream: torch.Generator) -> None:
        layers: list[nn.Module] = []
        for hidden in spec.hidden:
            layers += _hidden_layer(width, hidden, spec, stream)
            width = hidden
        super().__init__(*layers, nn.Linear(width, 1, bias=False))


class VectorHead(nn.Sequential):
    """Vector of 128 from a z-scored vector of features: linear, batch normalisation, ReLU, dropout.

    References
    ----------
    Protocol section 4.
    """

    width = VECTOR_WIDTH
    """Length of the vector."""

    def __init__(self, features: int, spec: ModelSpec, stream: torch.Generator) -> None:
        super().__init__(*_hidden_layer(features, self.width, spec, stream))


class FlatHead(nn.Identity):
    """The flat tensor itself, on its way straight into fusion: heads ``flatten`` and ``pca``, which have no weights.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.3.1, discarded configurations (ii) and (iii).
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.width = features
        """Length of the vector."""


def _hidden_layer(width: int, hidden: int, spec: ModelSpec, stream: torch.Generator) -> list[nn.Module]:
    # batch normalisation takes the mean off, and with it any bias before it
    linear = nn.Linear(width, hidden, bias=not spec.batch_norm)
    norm = [nn.BatchNorm1d(hidden, momentum=spec.norm_momentum)] if spec.batch_norm else []
    return [linear, *norm, nn.ReLU(), SeededDropout(spec.dropout, stream)]


Tower = AverageHead | AttentionHead | VolumeHead | VectorHead | FlatHead
"""Makes a vector of one modality."""


def _towers(spec: ModelSpec, stream: torch.Generator) -> list[Tower]:
    """One of each modality, in their order."""
    if spec.head in SIZED_HEADS and not spec.features:
        raise UsageError(f"head {spec.head!r} needs the size of what enters it: see trainer.preparing.sized")
    if spec.head == "attention":
        return [AttentionHead(layers) for layers in spec.features]
    if spec.head == "vector":
        return [VectorHead(features, spec, stream) for features in spec.features]
    if spec.head in FLAT_HEADS:
        return [FlatHead(features) for features in spec.features]
    return [VolumeHead() if spec.head == "cnn3d" else AverageHead() for _ in spec.modalities]


class SurvivalModel(nn.Module):
    """Log-risk from the images of a patient's modalities, the clinical vector, or both.

    Build it with `build_model`, which seeds it.
    """

    def __init__(self, spec: ModelSpec, stream: torch.Generator) -> None:
        super().__init__()
        if not spec.modalities and spec.clinical_features == 0:
            raise ConfigError("the model has no input: name a modality, or give it clinical covariates that vary")
        self.spec = spec
        towers = _towers(spec, stream)
        self.towers = nn.ModuleList(towers)
        width = spec.clinical_features
        if spec.modalities:
            fusion = FUSIONS[spec.fusion]([tower.width for tower in towers])
            width += fusion.width
            self.fusion = fusion
        self.survival = SurvivalHead(width, spec, stream)

    def forward(
        self,
        maps: Mapping[str, Float[Tensor, "patient ..."]],
        clinical: Float[Tensor, "patient feature"] | None = None,
    ) -> ModelOutput:
        """Log-risk of each patient.

        Parameters
        ----------
        maps
            Standardised tensors by modality, as the head takes them: (patient, 1, row, column) for ``average``,
            (patient, layer, channel, row, column) for ``attention``, (patient, 1, depth, row, column) for ``cnn3d``,
            (patient, feature) for the flat heads. Other modalities than the model's are not looked at.
        clinical
            Preprocessed covariates, where the model has them.

        Raises
        ------
        UsageError
            If a modality is missing, or the clinical or a flat vector is not of the model's length.
        """
        self._check(maps, clinical)
        parts: list[Tensor] = []
        alpha = None
        if self.spec.modalities:
            vector, alpha = self.fusion(
                [tower(maps[name]) for name, tower in zip(self.spec.modalities, self.towers, strict=True)]
            )
            parts.append(vector)
        if clinical is not None and self.spec.clinical_features:
            parts.append(clinical)
        return ModelOutput(self.survival(torch.cat(parts, dim=1)).squeeze(1), alpha)

    def _check(self, maps: Mapping[str, Tensor], clinical: Tensor | None) -> None:
        missing = [modality for modality in self.spec.modalities if modality not in maps]
        if missing:
            raise UsageError(f"the model needs maps of {', '.join(missing)}, got {', '.join(maps) or 'none'}")
        if self.spec.head in FLAT_HEADS:
            shapes = tuple(tuple(maps[modality].shape[1:]) for modality in self.spec.modalities)
            if shapes != tuple((features,) for features in self.spec.features):
                raise UsageError(f"the {self.spec.head} head takes {self.spec.features} features, got {shapes}")
        features = 0 if clinical is None else clinical.shape[1]
        if features != self.spec.clinical_features and (self.spec.clinical_features or not self.spec.modalities):
            raise UsageError(f"the model takes {self.spec.clinical_features} clinical features, got {features}")


def build_model(spec: ModelSpec, *, seed: int, device: torch.device | str = "cpu") -> SurvivalModel:
    """Model with fresh weights and a dropout stream, both from this seed alone.

    Neither reads nor moves torch's global random state. Weights are drawn on the CPU, so that they are the same for
    every device.

    Raises
    ------
    ConfigError
        If the specification leaves the model without an input.
    """
    with torch.device("meta"):
        model = SurvivalModel(spec, torch.Generator(device="cpu"))
    model.to_empty(device="cpu")
    _initialise(model, torch.Generator(device="cpu").manual_seed(seed))
    stream = dropout_stream(seed, device)
    for module in model.modules():
        if isinstance(module, SeededDropout):
            module.stream = stream
    return model.to(device)


def dropout_stream(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Stream from which a model of this seed draws its dropout on a device, at its start."""
    # another stream than that of the weights, so that a layer more does not shift the masks
    return torch.Generator(device=device).manual_seed(seed + 1)


def _initialise(model: SurvivalModel, stream: torch.Generator) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=stream)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d | nn.GroupNorm):
            module.reset_parameters()
        if name == "fusion.gate" or name.endswith(".excite.2"):
            # starts even-handed: alpha is 0.5 for everybody, and every channel has the same attention
            nn.init.zeros_(module.weight)
    last = model.survival[-1]
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight, std=1 / math.sqrt(last.in_features), generator=stream)
