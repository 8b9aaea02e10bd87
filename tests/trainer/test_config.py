"""Settings of a cross-validation: what is taken, what is refused, and how a refusal reads."""

import copy

import pytest
import yaml

from store_schema.errors import ConfigError
from trainer.config import RunConfig, load_config, parse_config
from trainer.spec import FitConfig

BASE = yaml.safe_load("""
columns: {time: t, time_unit: months, event: e, continuous: [age]}
fit: {epochs: 30}
models:
  - {name: image, kind: network, view: v, images: {roi: spine}, fusion: gate, fit: {learning_rate: 0.01}}
  - {name: cox, kind: ridge_cox}
""")


def changed(change) -> dict:
    settings = copy.deepcopy(BASE)
    change(settings)
    return settings


def refusal(change) -> str:
    with pytest.raises(ConfigError) as refused:
        parse_config(changed(change))
    return str(refused.value)


def test_a_model_fits_by_the_configs_settings_but_for_its_own():
    model = parse_config(BASE).models[0]
    assert model.fit == FitConfig(epochs=30, learning_rate=0.01)


def test_resolved_settings_parse_to_themselves():
    config = parse_config(BASE)
    assert parse_config(config.model_dump(mode="json")) == config
    assert RunConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("change", "name", "known"),
    [
        (lambda s: s.update(splts={}), "splts is not a setting, perhaps 'splits'?", "preprocessing"),
        (lambda s: s["fit"].update(epoch=3), "fit.epoch is not a setting, perhaps 'epochs'?", "learning_rate"),
        (
            lambda s: s["models"][0].update(hiden=[3]),
            "models.0.hiden is not a setting, perhaps 'hidden'?",
            "map_scaling",
        ),
        (lambda s: s["models"][0]["images"].update(rois="x"), "models.0.images.rois is not", "modalities, roi"),
        (lambda s: s["models"][1].update(penlty=3), "models.1.penlty is not a setting, perhaps 'penalty'?", "ties"),
        (lambda s: s["columns"].update(covariates=[]), "columns.covariates is not a setting", "categorical"),
    ],
)
def test_an_unknown_setting_is_named_with_the_known_ones(change, name, known):
    message = refusal(change)
    assert name in message
    assert known in message.split("Known here:")[1]
    assert message.count("is not a setting") == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s["models"][0].pop("kind"), "models.0.kind: expected network, ridge_cox, pycox, choice, got none"),
        (lambda s: s["models"][0].update(kind="cnn"), "models.0: Input tag 'cnn'"),
        (lambda s: [s["models"][0].pop(key) for key in ("images", "view")], "model 'image' has no input"),
        (lambda s: s["models"][0].pop("view"), "needs `view` and `images` together"),
        (lambda s: s["models"][0]["images"].update(modalities=["A", "B", "C"]), "the gate mixes two modalities, got 3"),
        (lambda s: s["models"][0]["images"].update(modalities=["A", "A"]), "expected distinct modalities"),
        (lambda s: s["models"][0]["images"].update(roi="a/b"), "is not a modality or roi id"),
        (lambda s: s["models"][0].update(name="a b"), "is not a model id"),
        (lambda s: s["models"][1].update(name="image"), "two models are named image"),
        (lambda s: s["columns"].update(continuous=[]), "cox reads clinical covariates, and `columns` declares none"),
        (lambda s: s["columns"].pop("time"), "columns.time: Field required"),
        (lambda s: s.update(models=[]), "models: "),
        (lambda s: s.update(permuted_control={"models": ["x"]}), "permuted_control names x: the models are image, cox"),
        (lambda s: s.update(splits={"folds": 1}), "splits.folds: "),
        (lambda s: s.update(models="image"), "models: "),
        (lambda s: s["models"][0].update(fit=3), "models.0.fit: "),
    ],
)
def test_what_does_not_fit_together_is_refused_with_its_place(change, reason):
    assert reason in refusal(change)


@pytest.mark.parametrize("text", ["models: [", "- a", ""])
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path, text):
    path = tmp_path / "cv.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"cv\.yaml"):
        load_config(path)


def test_an_absent_file_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")


def test_cox_models_and_small_networks_without_a_search_are_permuted_199_times_unless_told_otherwise(config):
    image = {"name": "image", "kind": "network", "view": "tiny", "images": {"roi": "spine"}}
    vector = {**image, "name": "vector", "head": "vector"}
    models = [
        {"name": "cox", "kind": "ridge_cox"},
        {"name": "chosen", "kind": "ridge_cox", "penalty": "inner_cv"},
        {"name": "tuned", "kind": "ridge_cox", "search": {"penalty": {"log": [0.1, 10]}}},
        {"name": "deep", "kind": "network", "clinical": True},
        image,
        vector,
        {"name": "reference", "kind": "pycox"},
    ]
    control = config(models=models, permuted_control="auto", search={"points": 2}).control
    assert control.models == ("cox", "deep", "vector")
    assert control.repeats == 199
    assert config(models=models, permuted_control=None).control is None
    asked = config(models=models, permuted_control={"models": ["image"], "repeats": 3}).control
    assert (asked.models, asked.repeats) == (("image",), 3)
    assert config(models=[image], permuted_control="auto").control is None
    with pytest.raises(ConfigError, match=r"expected auto, null or .*, got 'always'"):
        config(models=models, permuted_control="always")
    with pytest.raises(ConfigError, match=r"permuted_control.modls is not a setting, perhaps 'models'") as caught:
        config(models=models, permuted_control={"modls": ["cox"]})
    assert "auto" not in str(caught.value)


def test_folds_of_centres_need_centres_and_nothing_else(config):
    with pytest.raises(ConfigError, match="declare it as `columns: centre`"):
        config(splits={"leave_one_centre_out": True})
    with pytest.raises(ConfigError, match="the centres are the folds"):
        config(splits={"leave_one_centre_out": True, "repeats": 2})
