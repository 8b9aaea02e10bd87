"""Says a view's specification in sentences for people; knows no entry."""

from __future__ import annotations

from store_schema.records import Intensity, Json, Layout, ViewSpec

AXES = ("memory layers", "channels", "rows", "columns")


def view_words(spec: ViewSpec) -> list[tuple[str, str]]:
    """What the view is made of, by subject."""
    if spec.prompt.kind == "none" and spec.encoder.name == "table":
        lines = [("Made from", "a table of features that were measured elsewhere; no network took part")]
    else:
        lines = [("Encoder", _encoder(spec)), ("Prompt", _prompt(spec))]
    lines += [(f"Intensity of {name}", _intensity(rule)) for name, rule in sorted(spec.intensity.items())]
    lines += [("Layout", _layout(spec.layout)), ("Grid", f"the {spec.grid.upper()}'s")]
    if spec.regions:
        lines.append(("Regions", "; ".join(f"{name}: {_json(value)}" for name, value in sorted(spec.regions.items()))))
    if spec.flags:
        lines.append(("Flags", ", ".join(f"{name} = {value}" for name, value in sorted(spec.flags.items()))))
    return [*lines, ("Precision and recipe", f"{spec.precision}; recipe {spec.recipe}")]


def _encoder(spec: ViewSpec) -> str:
    encoder = spec.encoder
    trained = "" if encoder.trained else ", UNTRAINED: random weights"
    return f"{encoder.name}{trained}; images of {encoder.image_size} px; weights sha256 {encoder.weights_sha256[:16]}…"


def _prompt(spec: ViewSpec) -> str:
    every = "each slice" if spec.prompt.stride == 1 else f"one of every {spec.prompt.stride} slices"
    return (
        f"{spec.prompt.kind}, mode {spec.prompt.mode}, on {every} that hold{'s' * (spec.prompt.stride == 1)} the region"
    )


def _intensity(rule: Intensity) -> str:
    low, high, outside = (f"{value:g}".replace("-", "−") for value in (rule.low, rule.high, rule.outside))
    return f"{low} to {high} {rule.unit} become grey 0 to 255; {outside} outside the field of view"


def _json(value: Json) -> str:
    """A setting, which may hold others."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_json(one)}" for name, one in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _layout(layout: Layout) -> str:
    if layout.features is not None:
        return f"{layout.name}: a vector of {len(layout.features)} named features, {layout.dtype or 'float16'}"
    if len(layout.shape) != len(AXES):
        return f"{layout.name}: {' × '.join(str(size) for size in layout.shape)}"
    sizes = " × ".join(f"{size} {axis}" for size, axis in zip(layout.shape, AXES, strict=True))
    return f"{layout.name}: {sizes}, {layout.dtype or 'float16'}"
