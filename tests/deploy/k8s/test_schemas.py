"""Every manifest is what Kubernetes and the Dask operator take, and nothing beside."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

VERSIONS = ("1.30", "1.37")
"""Of Kubernetes: the oldest that has everything used here on by default, and the newest known."""
OPERATOR = Path(__file__).with_name("daskcluster-2026.3.0.json")
"""What the operator's custom resource says of a DaskCluster. The operator's own package is not installed: it adds itself to every
`dask` command, and brings three clients of Kubernetes."""


def custom_schema() -> dict[str, Any]:
    """Schema of a DaskCluster, by which unknown fields are refused."""
    return closed(json.loads(OPERATOR.read_text())["openAPIV3Schema"], top=True)


def closed(schema: dict[str, Any], *, top: bool = False) -> dict[str, Any]:
    """A schema in which what it does not name is refused; at the top Kubernetes adds names of its own."""
    found = dict(schema)
    if "properties" in found:
        found["properties"] = {name: closed(inner) for name, inner in found["properties"].items()}
        if top:
            found["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
        if not found.get("x-kubernetes-preserve-unknown-fields"):
            found["additionalProperties"] = False
    if "items" in found:
        found["items"] = closed(found["items"])
    if found.pop("x-kubernetes-int-or-string", False):
        found.pop("type", None)
        found["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_what_kubernetes_takes(build, folder, version):
    for resource in build(folder):
        if resource["kind"] != "DaskCluster":
            kubernetes_validate.validate(resource, version, strict=True)


def test_every_dask_cluster_is_what_the_operator_takes(build, folder):
    for resource in build(folder):
        if resource["kind"] == "DaskCluster":
            jsonschema.Draft202012Validator(custom_schema()).validate(resource)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_pod_of_the_operator_is_what_kubernetes_takes(pods, folder, version):
    for pod in pods(folder):
        resource = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod.name, "labels": pod.labels},
            "spec": pod.spec,
        }
        kubernetes_validate.validate(resource, version, strict=True)


def test_a_field_that_is_none_is_refused_by_both_schemas(build):
    (cluster,) = [one for one in build("base/cluster") if one["kind"] == "DaskCluster"]
    wrong = yaml.safe_load(yaml.safe_dump(cluster))
    wrong["spec"]["worker"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(jsonschema.ValidationError, match="livenessprobe"):
        jsonschema.Draft202012Validator(custom_schema()).validate(wrong)
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"portz": []}}
    with pytest.raises(kubernetes_validate.ValidationError, match="portz"):
        kubernetes_validate.validate(service, VERSIONS[0], strict=True)


def test_every_overlay_has_every_step(build, overlay):
    kinds = {
        step: {resource["kind"] for resource in build(f"{overlay}/{step}")}
        for step in ("service", "extract", "complete", "cluster", "cv")
    }
    assert {"Namespace", "Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget"} <= kinds["service"]
    assert "DaskCluster" in kinds["cluster"]
    for step in ("extract", "complete", "cv"):
        assert "Job" in kinds[step]
