"""The attention head beside the figure's layers: one training step of 145 patients on one core; nothing is asserted.

Both are timed in turn on the same patients, a share of the 145, and scaled to them. The floor is what the activation alone
costs, forward and backward, by torch's own kernels on activations that lie in the caches.
"""

import statistics
import time

import pytest
import torch
from torch import nn

from trainer.attention import AttentionHead

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
PATIENTS, SHARE, ROUNDS = 145, 16, 5
LAYOUTS = {"paper": (2, 32, 32, 32), "raw": (7, 64, 32, 32)}
BASE = 32


class PlainHead(nn.Module):
    """Fig. 3(b) layer by layer, with the weights of a head of ours."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, memory):
        x = nn.functional.gelu(self.head.norm(self.head.mix(memory)))
        weights = torch.softmax(self.head.excite(x.mean(dim=(3, 4)).transpose(1, 2)), dim=1)
        collapsed = (weights.transpose(1, 2)[:, :, :, None, None] * x).sum(dim=2)
        return self.head.project(nn.functional.adaptive_avg_pool2d(collapsed, 1).flatten(1))


def step(network, memory):
    network.zero_grad()
    network(memory).square().sum().backward()


def evaluation(network, memory):
    with torch.no_grad():
        network(memory)


def milliseconds(run, *arguments):
    start = time.thread_time()
    run(*arguments)
    return (time.thread_time() - start) * 1e3


def floor_milliseconds(activations):
    """Of GELU and its derivative for so many activations."""
    some = torch.randn(2**17)
    result, ones = torch.empty_like(some), torch.ones_like(some)

    def both():
        for _ in range(32):
            torch.ops.aten.gelu.out(some, out=result)
            torch.ops.aten.gelu_backward.grad_input(ones, some, grad_input=result)

    return milliseconds(both) / (32 * some.numel()) * activations


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_training_step_beside_the_plain_layers(name):
    layout = LAYOUTS[name]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    share = SHARE if name == "paper" else SHARE // 4
    memory = torch.randn(share, *layout)
    head = AttentionHead(layout[0])
    plain = PlainHead(head)
    found = {"ours": [], "evaluation": [], "plain": [], "floor": []}
    for _ in range(ROUNDS):
        found["ours"].append(milliseconds(step, head, memory))
        found["evaluation"].append(milliseconds(evaluation, head, memory))
        found["plain"].append(milliseconds(step, plain, memory))
        found["floor"].append(floor_milliseconds(memory[0, 0].numel() * BASE * share))
    torch.set_num_threads(before)
    ms = {kind: statistics.median(times) * PATIENTS / share for kind, times in found.items()}
    print(
        f"\n| {name} {' × '.join(map(str, layout))} | step {ms['ours']:.0f} ms | plain {ms['plain']:.0f} ms "
        f"({ms['plain'] / ms['ours']:.1f} ×) | evaluation {ms['evaluation']:.0f} ms | floor {ms['floor']:.0f} ms "
        f"({ms['floor'] / ms['ours']:.0%} of the step) |"
    )
