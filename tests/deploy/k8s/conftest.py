"""The manifests as kustomize builds them, and the pods that come of them."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
K8S = ROOT / "deploy" / "k8s"
KUBECTL = Path(sys.executable).with_name("kubectl")
OVERLAYS = ("small", "gpu", "eight-gpus")
STEPS = ("service", "extract", "complete", "cluster", "cv")
FOLDERS = sorted(
    str(file.parent.relative_to(K8S))
    for file in K8S.rglob("kustomization.yaml")
    if yaml.safe_load(file.read_text())["kind"] == "Kustomization"
)


@dataclass(frozen=True)
class Pod:
    """A pod that a resource makes."""

    name: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def container(self) -> dict[str, Any]:
        """Its one container."""
        (container,) = self.spec["containers"]
        return container


@cache
def built(folder: str) -> tuple[dict[str, Any], ...]:
    """The resources of a kustomization below deploy/k8s."""
    done = subprocess.run([KUBECTL, "kustomize", K8S / folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def pods_of(resource: dict[str, Any]) -> Iterator[Pod]:
    """The pods of a resource; of a DaskCluster with the labels that the operator gives them."""
    name, labels = resource["metadata"]["name"], resource["metadata"].get("labels", {})
    if resource["kind"] in {"Deployment", "Job"}:
        template = resource["spec"]["template"]
        yield Pod(name, template["metadata"]["labels"], template["spec"])
    if resource["kind"] == "DaskCluster":
        for component in ("scheduler", "worker"):
            given = labels | {"dask.org/cluster-name": name, "dask.org/component": component}
            yield Pod(f"{name}-{component}", given, resource["spec"][component]["spec"])


@pytest.fixture(scope="session")
def build() -> Callable[[str], tuple[dict[str, Any], ...]]:
    """Builds a kustomization below deploy/k8s."""
    return built


@pytest.fixture(scope="session")
def pods() -> Callable[[str], list[Pod]]:
    """The pods of a kustomization below deploy/k8s, or of every step of an overlay."""

    def found(folder: str) -> list[Pod]:
        steps = [folder] if folder in FOLDERS else [f"{folder}/{step}" for step in STEPS]
        return [pod for step in steps for resource in built(step) for pod in pods_of(resource)]

    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every kustomization, where a test asks for a `folder`; every overlay, where it asks for one."""
    if "folder" in metafunc.fixturenames:
        metafunc.parametrize("folder", FOLDERS)
    if "overlay" in metafunc.fixturenames:
        metafunc.parametrize("overlay", [f"overlays/{name}" for name in OVERLAYS])
