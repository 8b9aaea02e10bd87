"""The settings of an extraction and the views they stand for; knows no study, image or device.

Everything that changes the numbers is here and ends in a view; where it runs (device, processes) is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from extractor.baseline_layouts import HIERA, VECTOR_DTYPE, Baseline, BaselineName, SliceEncoderName
from extractor.intensity import CT_WINDOWS_HU, PET_CLIPS_SUV, RELATIVE_RANGE
from extractor.layouts import LAYOUTS, Mode, layout_shape
from extractor.perturbation import Perturbation
from extractor.perturbation_kinds import AXES
from extractor.prompts import PromptKind
from extractor.study import PrepareRules
from store_schema import Encoder, Intensity, Layout, Prompt, ViewSpec
from store_schema.errors import ConfigError
from store_schema.files import Place, read_text, without_secret
from store_schema.keys import MAX_ID_LENGTH

RECIPE = 1
"""Raised whenever our own code changes the numbers of a view: a new recipe is a new view."""

BASELINE_RECIPE = 1
"""The same for baseline views, which no change of memories touches."""

LayoutName = Literal["paper", "raw", "pooled", "thirds"]
Modality = Literal["PET", "CT"]
LabelSetName = Literal["totalsegmentator", "totalsegmentator_v1", "moose_2", "moose_3", "moose_all_bones_v1"]
Range = tuple[float, float]


@dataclass(frozen=True)
class Variant:
    """One way of prompting a region."""

    mode: Mode
    prompt: PromptKind

    @property
    def name(self) -> str:
        """Name within views: the mode, and the kind of prompt where it is no box."""
        return self.mode if self.prompt == "box" else f"{self.mode}-{self.prompt}"


@dataclass(frozen=True)
class Product:
    """What a view holds: one layout of one way of prompting."""

    variant: Variant
    layout: str


class ExtractConfig(BaseModel):
    """What is extracted and how: one pass over each modality of a study, and one view per layout.

    References
    ----------
    Guinea-Pérez et al. 2026, sections 2.2 and 2.3.1; where the paper is silent the README says what was decided.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["medsam2", "mini"] = "medsam2"
    """`medsam2`: the published architecture at 512 px. `mini`: the same modules, narrow, for tests and the demo."""
    weights: str | None = None
    """Checkpoint path, a published MedSAM2 file name, or `random:SEED`. The command line's --weights wins."""
    mode: Mode | tuple[Mode, ...] = "sequential"
    """Order of prompting; decides what a memory has seen. Several share one pass of the image encoder, each with its own views."""
    prompt: PromptKind | tuple[PromptKind, ...] = "box"
    """What a slice is prompted with. A mask takes the decoder's place: no history enters a memory of a prompted slice."""
    stride: int = Field(default=2, ge=1)
    """Every stride-th mask-bearing slice is kept, counted from the uppermost."""
    layouts: tuple[LayoutName, ...] = ("paper", "pooled", "thirds", "raw")
    """One view each, all from one pass; the first also holds masks and previews. None of them: baselines alone."""
    baselines: tuple[BaselineName, ...] = ()
    """Encoders without prompt or memory to compare with, one view each, from the same kept slices; `hiera` is the image encoder of
    `model` with `weights`."""
    baseline_weights: dict[SliceEncoderName, str] = Field(default_factory=dict)
    """Checkpoint path, address or `random:SEED` by encoder; the published ImageNet weights where one is not named."""
    modalities: tuple[Modality, ...] = ("PET", "CT")
    rois: tuple[str, ...] | None = None
    """Mask columns of the study table to use; null takes every mask column."""
    derive: tuple[Literal["spine_dilated", "skeleton"], ...] = ()
    """Regions derived from the label map columns."""
    label_set: LabelSetName = "totalsegmentator"
    """What made the label maps. TotalSegmentator 2 or 1, and MOOSE's all_bones: one file, in the column `label_map`. MOOSE 2
    (2.2 to 2.6.2) and 3 (from 2.6.3): `label_map_vertebrae`, for `skeleton` also `label_map_ribs` and
    `label_map_peripheral_bones`."""
    closing_mm: float = Field(default=10.0, ge=0)
    dilation_mm: float = Field(default=10.0, ge=0)
    pet_units: Literal["suv", "relative"] | None = None
    """Must be declared for PETs in NIfTI, NRRD and MetaImage, which cannot say that their numbers are SUV by body weight; a DICOM
    series is converted by its header. `relative`: units are not known, and every PET, DICOM too, is divided by its own 99.5th
    percentile inside the body: uptake can then be compared within a patient only. Other views, named `-relativepet`."""
    ct_window_hu: Range | Literal["bone", "soft_tissue"] = "bone"
    pet_clip_suv: Range | Literal["suv10", "suv20"] = "suv10"
    grid: Literal["ct", "pet"] = "ct"
    """Whose grid the network sees. `pet`: the CT is put on the PET's grid linearly (air outside), regions by nearest neighbour."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: automatic mixed precision, for GPUs; its error against float32 is in tests/benchmarks/RESULTS.md."""
    perturb: Perturbation | None = None
    """Disturbs prompts or images on purpose, to see what embeddings and models make of it; other views, named after it."""

    @model_validator(mode="after")
    def _check(self) -> ExtractConfig:
        for name in ("layouts", "baselines", "modalities", "derive", "rois", "modes", "prompts"):
            values = getattr(self, name) or ()
            if len(set(values)) != len(values):
                raise ValueError(f"{name} names the same thing twice: {list(values)}")
        for name in ("layouts", "modalities", "modes", "prompts"):
            if not getattr(self, name) and not (name == "layouts" and self.baselines):
                raise ValueError(f"{name} is empty: name at least one")
        for low, high in (self.window_hu, self.clip_suv):
            if not low < high:
                raise ValueError(f"an intensity range must rise, got [{low}, {high}]")
        if self.relative and "pet_clip_suv" in self.model_fields_set and self.pet_clip_suv != "suv10":
            raise ValueError("pet_clip_suv says nothing of a PET in relative units: leave one of the two out")
        self._check_perturbation()
        return self

    def _check_perturbation(self) -> None:
        """Refuses a perturbation that would leave something as it was: such a view would seem robust."""
        perturb = self.perturb
        if perturb is None:
            return
        if perturb.kind in AXES and "PET" not in self.modalities:
            raise ValueError(f"{perturb.kind} moves the PET, and modalities leave it out")
        if perturb.kind == "stride" and perturb.amount == self.stride:
            raise ValueError(f"a stride of {self.stride} is the settings' own: give the perturbation another")
        if not perturb.moves_boxes_only:
            return
        unmoved = [f"prompt: {kind}" for kind in self.prompts if kind != "box" and self.layouts]
        unmoved += [f"baseline {name}" for name in self.baselines if Baseline(name).crop != "box"]
        if unmoved:
            raise ValueError(f"{perturb.kind} moves boxes, and {', '.join(unmoved)} has none: leave it out")

    @property
    def window_hu(self) -> Range:
        """CT window in HU: its lower bound becomes grey 0, its upper 255."""
        return CT_WINDOWS_HU[self.ct_window_hu] if isinstance(self.ct_window_hu, str) else self.ct_window_hu

    @property
    def kept_every(self) -> int:
        """Stride over mask-bearing slices, that of a perturbation where it has one."""
        return int(self.perturb.amount) if self.perturb is not None and self.perturb.kind == "stride" else self.stride

    @property
    def asks_bones(self) -> bool:
        """Whether the bones of a study's label maps decide where boxes lie."""
        return self.perturb is not None and self.perturb.kind == "elsewhere"

    @property
    def relative(self) -> bool:
        """Whether PETs are taken without units."""
        return self.pet_units == "relative"

    @property
    def clip_suv(self) -> Range:
        """PET range in SUV by body weight, or as parts of the body's percentile: its lower bound becomes grey 0, its upper 255."""
        if self.relative:
            return RELATIVE_RANGE
        return PET_CLIPS_SUV[self.pet_clip_suv] if isinstance(self.pet_clip_suv, str) else self.pet_clip_suv

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Every order of prompting."""
        return (self.mode,) if isinstance(self.mode, str) else self.mode

    @property
    def prompts(self) -> tuple[PromptKind, ...]:
        """Every kind of prompt."""
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt

    @property
    def slice_encoders(self) -> tuple[SliceEncoderName, ...]:
        """The encoders beside the segmentation network that are needed."""
        wanted = {Baseline(name).encoder for name in self.baselines}
        return tuple(name for name in get_args(SliceEncoderName) if name in wanted)

    @property
    def needs_segmenter(self) -> bool:
        """Whether anything is made by the segmentation network."""
        return bool(self.layouts) or any(Baseline(name).encoder == HIERA for name in self.baselines)

    @property
    def products(self) -> dict[str, Product | Baseline]:
        """What may be made of an entry, by its name in plan and outcomes: memories, then baselines."""
        return {**self.memories, **{name: Baseline(name) for name in self.baselines}}

    @property
    def memories(self) -> dict[str, Product]:
        """Memories by their names: the layout, after the variant where there are several."""
        variants = [Variant(mode, prompt) for mode in self.modes for prompt in self.prompts]
        return {
            layout if len(variants) == 1 else f"{variant.name}-{layout}": Product(variant, layout)
            for variant in variants
            for layout in self.layouts
        }

    def rules(self) -> PrepareRules:
        """The part of the settings that preparing a study needs."""
        return PrepareRules(
            pet_units=self.pet_units,
            ct_window_hu=self.window_hu,
            pet_clip_suv=self.clip_suv,
            derive=self.derive,
            label_set=self.label_set,
            closing_mm=self.closing_mm,
            dilation_mm=self.dilation_mm,
            modalities=self.modalities,
            grid=self.grid,
            perturb=self.perturb,
        )


def load_config(path: Place | None) -> ExtractConfig:
    """The settings in a YAML file, here or at an address, or the defaults where there is none.

    Raises
    ------
    ConfigError
        If the file is not YAML, or a setting is unknown or out of range; names the setting and what is known.
    """
    if path is None:
        return ExtractConfig()
    try:
        settings = yaml.safe_load(read_text(path))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{without_secret(path)} cannot be read as YAML settings: {error}") from error
    if settings is not None and not isinstance(settings, dict):
        raise ConfigError(f"{without_secret(path)} holds a {type(settings).__name__}: expected 'setting: value' lines")
    return parse_config(settings or {}, origin=without_secret(path))


def undisturbed(config: ExtractConfig, command: str) -> ExtractConfig:
    """The settings of a command that shows or measures what is there.

    Raises
    ------
    ConfigError
        If they disturb it.
    """
    if config.perturb is not None:
        raise ConfigError(f"{command} knows no perturbation: leave 'perturb' out of the settings.")
    return config


def parse_config(settings: dict[str, Any], *, origin: str) -> ExtractConfig:
    """Checked settings; `origin` says where they came from in an error."""
    try:
        return ExtractConfig.model_validate(settings)
    except ValidationError as error:
        known = ", ".join(ExtractConfig.model_fields)
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{origin}: {problems}. Known settings: {known}.") from error


class EncoderFacts(BaseModel):
    """What a view must record of the loaded network; `flags` are the predictor's switches that change its numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    image_size: int
    weights_sha256: str
    trained: bool
    flags: dict[str, bool | int | float | str]
    features: int | None = None
    """Length of the vector of a slice, where the network makes one."""


def view_of(config: ExtractConfig, encoder: EncoderFacts, product: Product) -> ViewSpec:
    """The frozen specification of one product of this extraction."""
    untrained = "" if encoder.trained else "-untrained"
    variant, layout = product.variant, product.layout
    return ViewSpec(
        name=_fitting(f"{encoder.name}{untrained}-{variant.name}-{layout}{_suffix(config)}"),
        encoder=Encoder(**encoder.model_dump(exclude={"flags", "features"})),
        intensity=_intensities(config),
        prompt=Prompt(kind=variant.prompt, mode=variant.mode, stride=config.kept_every),
        layout=Layout(name=layout, shape=layout_shape(layout, encoder.image_size)),
        flags={**encoder.flags, **_perturbed(config)},
        precision=config.precision,
        recipe=RECIPE,
        grid=config.grid,
        regions=_regions(config),
    )


def _suffix(config: ExtractConfig) -> str:
    """What marks a view that no default setting makes."""
    marks = ("-relativepet" if config.relative else "") + ("-petgrid" if config.grid == "pet" else "")
    return marks + (config.perturb.suffix if config.perturb is not None else "")


def _fitting(name: str) -> str:
    """A name that is not too long for a view: its end is cut, since the digest after it tells views apart."""
    return name if len(name) <= MAX_ID_LENGTH else name[:MAX_ID_LENGTH].rstrip("._-")


def _perturbed(config: ExtractConfig) -> dict[str, bool | int | float | str]:
    """What marks a view of a perturbation; absent from every other, so that their ids do not know of it."""
    return {} if config.perturb is None else config.perturb.flags


def baseline_view_of(config: ExtractConfig, encoder: EncoderFacts, baseline: Baseline) -> ViewSpec:
    """The frozen specification of one baseline; `encoder` is the segmentation network for `hiera`."""
    untrained = "" if encoder.trained else "-untrained"
    base, _, options = baseline.name.partition("-")
    named = (f"{encoder.name}{untrained}", *([base] if base != encoder.name else []), *([options] if options else []))
    assert encoder.features is not None
    shape = baseline.shape(encoder.features)
    return ViewSpec(
        name=_fitting("-".join(named) + _suffix(config)),
        encoder=Encoder(**encoder.model_dump(exclude={"flags", "features"})),
        intensity=_intensities(config),
        prompt=Prompt(kind="none", mode="slices", stride=config.kept_every),
        layout=Layout(name=baseline.layout, shape=shape, dtype=None if baseline.is_map else VECTOR_DTYPE),
        flags={
            "baseline": base,
            "crop": baseline.crop,
            "aggregate": baseline.aggregate,
            **_fed(encoder, baseline),
            **_perturbed(config),
        },
        precision=config.precision,
        recipe=BASELINE_RECIPE,
        grid=config.grid,
        regions=_regions(config),
    )


def _fed(encoder: EncoderFacts, baseline: Baseline) -> dict[str, bool | int | float | str]:
    """How slices are fed and features read; the predictor's switches touch no number of the image encoder."""
    return {"read": "top level of the neck"} if baseline.encoder == HIERA else dict(encoder.flags)


def views_of(
    config: ExtractConfig, encoder: EncoderFacts | None, slice_encoders: Mapping[str, EncoderFacts] | None = None
) -> dict[str, ViewSpec]:
    """A view for each product of this extraction, in the order of the settings.

    Parameters
    ----------
    encoder
        The segmentation network; None where none is needed.
    slice_encoders
        The others, by name.
    """
    assert set(config.layouts) <= set(LAYOUTS)
    others = {HIERA: encoder, **(slice_encoders or {})}
    views: dict[str, ViewSpec] = {}
    for name, product in config.products.items():
        facts = others[product.encoder] if isinstance(product, Baseline) else encoder
        assert facts is not None
        views[name] = (
            baseline_view_of(config, facts, product)
            if isinstance(product, Baseline)
            else view_of(config, facts, product)
        )
    return views


def _intensities(config: ExtractConfig) -> dict[str, Intensity]:
    """A rule for each modality, whichever are extracted: a view must not depend on what a run left out."""
    (ct_low, ct_high), (pet_low, pet_high) = config.window_hu, config.clip_suv
    return {
        "CT": Intensity(unit="HU", low=ct_low, high=ct_high, outside=-1024.0),
        "PET": Intensity(unit="relative" if config.relative else "SUV", low=pet_low, high=pet_high, outside=0.0),
    }


def _regions(config: ExtractConfig) -> dict[str, Any]:
    """How regions would be derived, whether or not this run derives any, so that runs share their views."""
    return {"label_set": config.label_set, "closing_mm": config.closing_mm, "dilation_mm": config.dilation_mm}
