"""Who may speak to whom, as the network policies say it, for pods and labels that exist."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

DOCUMENTED = {"kube-system", "monitoring", "dask-operator", "ingress-nginx"}
"""Namespaces outside Engram's that the guide names."""


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector takes labels; an empty one takes all."""
    assert selector.keys() <= {"matchLabels", "matchExpressions"}, selector
    checks: dict[str, Callable[[str | None, list[str]], bool]] = {
        "In": lambda value, values: value in values,
        "NotIn": lambda value, values: value not in values,
    }
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        checks[one["operator"]](labels.get(one["key"]), one["values"]) for one in selector.get("matchExpressions", [])
    )


def peers(policies: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for policy in policies:
        for way, side in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(way, []):
                yield from rule[side]


class Network:
    """The policies of an overlay and its pods."""

    def __init__(self, policies, pods):
        self.policies, self.pods = policies, {pod.name: pod for pod in pods}

    def reaches(self, source: str, target: str, port: str) -> bool:
        """Whether a pod may open a connection to a named port of another."""
        away, here = self.pods[source].labels, self.pods[target].labels
        return self._passes("egress", "to", away, here, port) and self._passes("ingress", "from", here, away, port)

    def _passes(self, way: str, side: str, own: dict[str, str], other: dict[str, str], port: str) -> bool:
        mine = [
            policy["spec"]
            for policy in self.policies
            if way.capitalize() in policy["spec"]["policyTypes"] and matches(policy["spec"]["podSelector"], own)
        ]
        assert mine, "nothing restricts this pod"
        return any(
            ("ports" not in rule or port in {one["port"] for one in rule["ports"]})
            and any("podSelector" in peer and matches(peer["podSelector"], other) for peer in rule[side])
            for spec in mine
            for rule in spec.get(way, [])
        )

    def leaves(self, source: str, port: int) -> bool:
        """Whether a pod may open connections to any address outside at a port."""
        return any(
            matches(policy["spec"]["podSelector"], self.pods[source].labels)
            and port in {one["port"] for one in rule["ports"]}
            and any(peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0" for peer in rule["to"])
            for policy in self.policies
            for rule in policy["spec"].get("egress", [])
            if "ports" in rule
        )


@pytest.fixture
def network(build, pods, overlay) -> Network:
    return Network([one for one in build(f"{overlay}/service") if one["kind"] == "NetworkPolicy"], pods(overlay))


def test_nothing_is_open_unless_said(network):
    (deny,) = [one["spec"] for one in network.policies if one["metadata"]["name"] == "default-deny"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_every_selector_takes_a_pod_that_there_is(network):
    for policy in network.policies:
        chosen = [pod for pod in network.pods.values() if matches(policy["spec"]["podSelector"], pod.labels)]
        assert chosen, policy["metadata"]["name"]
    for peer in peers(network.policies):
        if "podSelector" in peer:
            assert any(matches(peer["podSelector"], pod.labels) for pod in network.pods.values()), peer


def test_every_named_port_is_one_of_the_pods_that_it_opens(network):
    for policy in network.policies:
        for rule in policy["spec"].get("ingress", []):
            opened = [pod for pod in network.pods.values() if matches(policy["spec"]["podSelector"], pod.labels)]
            for port in rule.get("ports", []):
                for pod in opened:
                    assert port["port"] in {one["name"] for one in pod.container["ports"]}, (pod.name, port)


def test_every_other_namespace_is_one_that_the_guide_names(network):
    named = {
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for peer in peers(network.policies)
        if "namespaceSelector" in peer
    }
    assert {"kube-system", "monitoring", "dask-operator"} <= named <= DOCUMENTED


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        ("extract", "feature-store", "http"),
        ("complete", "feature-store", "http"),
        ("cv", "feature-store", "http"),
        ("trainer-worker", "feature-store", "http"),
        ("trainer-worker", "trainer-scheduler", "tcp-comm"),
        ("cv", "trainer-scheduler", "tcp-comm"),
        ("trainer-scheduler", "trainer-worker", "any"),
        ("trainer-worker", "trainer-worker", "any"),
    ],
)
def test_what_must_speak_may(network, source, target, port):
    assert network.reaches(source, target, port)


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        ("feature-store", "trainer-scheduler", "tcp-comm"),
        ("extract", "trainer-scheduler", "tcp-comm"),
        ("extract", "trainer-worker", "any"),
        ("feature-store", "trainer-worker", "any"),
        ("cv", "trainer-worker", "any"),
        ("cv", "trainer-scheduler", "http-dashboard"),
        ("trainer-worker", "trainer-scheduler", "http-dashboard"),
        ("trainer-scheduler", "feature-store", "http"),
        ("feature-store", "extract", "metrics"),
    ],
)
def test_what_need_not_speak_may_not(network, source, target, port):
    assert not network.reaches(source, target, port)


def test_object_storage_is_reached_by_all_but_the_scheduler_and_the_database_by_the_service_alone(network):
    assert {name for name in network.pods if network.leaves(name, 443)} == network.pods.keys() - {"trainer-scheduler"}
    assert {name for name in network.pods if network.leaves(name, 5432)} == {"feature-store"}


def test_nobody_reaches_the_credentials_of_the_node(network):
    for peer in peers(network.policies):
        if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0":
            assert peer["ipBlock"]["except"] == ["169.254.0.0/16"]
