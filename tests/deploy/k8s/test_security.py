"""What every container may do, takes, and is told: no more than it needs, and no secret in a manifest."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
ROOTLESS = {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
RESTRICTED_VOLUMES = {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}
IMAGE = re.compile(r"registry\.example\.org/engram/engram-(service|extractor|trainer):\d+\.\d+\.\d+")
SECRET = re.compile(r"SECRET|PASSWORD|TOKEN|CREDENTIAL|(^|_)KEY(_|$)")


def test_no_container_is_root_or_writes_to_its_image(pods, folder):
    for pod in pods(folder):
        assert ROOTLESS.items() <= pod.spec["securityContext"].items(), pod.name
        assert pod.container["securityContext"] == CONTAINED, pod.name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys()
        for volume in pod.spec["volumes"]:
            assert volume.keys() - {"name"} <= RESTRICTED_VOLUMES, volume


def test_the_namespace_refuses_what_is_not_restricted(build):
    (namespace,) = [one for one in build("base/platform") if one["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def caches(image: str) -> set[str]:
    """Folders in which an image's libraries keep what they compile, as its Dockerfile names them."""
    (program,) = re.findall(r"engram-(service|extractor|trainer)", image.rpartition("/")[2])
    dockerfile = (ROOT / "deploy" / "docker" / f"{program}.Dockerfile").read_text()
    return set(re.findall(r"\b(?:XDG_CACHE_HOME|MPLCONFIGDIR|NUMBA_CACHE_DIR)=(\S+)", dockerfile))


def test_every_container_can_write_to_tmp_and_to_the_caches_of_its_image(pods, folder):
    for pod in pods(folder):
        sizes = {one["name"]: one.get("emptyDir", {}).get("sizeLimit") for one in pod.spec["volumes"]}
        mounts = [mount for mount in pod.container["volumeMounts"] if sizes[mount["name"]]]
        assert all(mount.keys() == {"name", "mountPath"} for mount in mounts)
        writable = {mount["mountPath"] for mount in mounts}
        needed = {"/tmp"} | caches(pod.container["image"])
        assert len(needed) > 1
        for path in needed:
            assert any(Path(path).is_relative_to(mount) for mount in writable), (pod.name, path)


def test_every_container_asks_for_what_it_needs_and_has_limits(pods, folder):
    for pod in pods(folder):
        resources = pod.container["resources"]
        for kind in ("requests", "limits"):
            assert {"cpu", "memory", "ephemeral-storage"} <= resources[kind].keys(), pod.name
        gpus = {kind: resources[kind].get("nvidia.com/gpu") for kind in ("requests", "limits")}
        assert gpus["requests"] == gpus["limits"], "a GPU is not shared out"


def test_no_pod_has_a_token_or_the_addresses_of_services(pods, folder):
    for pod in pods(folder):
        assert pod.spec["automountServiceAccountToken"] is False
        assert pod.spec["enableServiceLinks"] is False, "links would set ENGRAM_SERVICE_PORT and the like"
        assert pod.spec["serviceAccountName"]


def test_every_account_exists_and_has_no_token(build, pods, overlay):
    accounts = {one["metadata"]["name"]: one for one in build("base/platform") if one["kind"] == "ServiceAccount"}
    assert {pod.spec["serviceAccountName"] for pod in pods(overlay)} == accounts.keys()
    assert not any(account["automountServiceAccountToken"] for account in accounts.values())


def test_no_manifest_holds_a_secret(build, pods, folder):
    for resource in build(folder):
        assert resource["kind"] != "Secret"
        if resource["kind"] == "ConfigMap":
            assert not any(SECRET.search(name) for name in resource["data"])
            assert not any(re.search(r"://[^/\s]*:[^/\s]*@", value) for value in resource["data"].values())
    for pod in pods(folder):
        for variable in pod.container["env"]:
            if SECRET.search(variable["name"]) and variable["name"] != "ENGRAM_TLS_KEY":
                assert variable.keys() == {"name", "valueFrom"}
                assert "secretKeyRef" in variable["valueFrom"], variable


def test_keys_of_object_storage_may_be_left_out_for_an_identity_of_the_cloud(pods, overlay):
    holders = set()
    for pod in pods(overlay):
        for variable in pod.container["env"]:
            if variable["name"].startswith("AWS_"):
                assert variable["valueFrom"]["secretKeyRef"]["optional"] is True, pod.name
                holders.add(pod.name)
    assert holders == {"feature-store", "extract", "complete", "trainer-worker", "cv"}


def test_every_image_is_named_by_its_version(pods, overlay):
    for pod in pods(overlay):
        assert re.fullmatch(
            r"registry\.example\.org/engram/engram-(service|extractor|trainer):\d+\.\d+\.\d+", pod.container["image"]
        )


def test_every_settings_file_that_a_pod_names_is_built_with_it(build, pods, overlay):
    for step in ("service", "extract", "complete", "cluster", "cv"):
        made = {one["metadata"]["name"] for one in build(f"{overlay}/{step}") if one["kind"] == "ConfigMap"}
        for pod in pods(f"{overlay}/{step}"):
            named = {one["configMapRef"]["name"] for one in pod.container.get("envFrom", [])}
            named |= {one["configMap"]["name"] for one in pod.spec["volumes"] if "configMap" in one}
            assert named <= made, pod.name
