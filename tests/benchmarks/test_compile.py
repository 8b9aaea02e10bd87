"""Whether torch.compile, and CUDA graphs on a GPU, pay for the image encoder and memory attention; nothing is asserted of a time.

Each way computes the same in turn; medians are printed, with the seconds that compiling took and how far the numbers moved.
ENGRAM_BENCH_DEVICE sets the device, ENGRAM_BENCH_ROUNDS the rounds, ENGRAM_BENCH_MODEL the architecture (medsam2).
"""

import os
import statistics
import time

import pytest
import torch

from extractor.segmenter import load_segmenter

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(3600),
    # rotary positions are complex numbers
    pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex"),
]
DEVICE = os.environ.get("ENGRAM_BENCH_DEVICE", "cpu")
ROUNDS = int(os.environ.get("ENGRAM_BENCH_ROUNDS", "5"))
MODEL = os.environ.get("ENGRAM_BENCH_MODEL", "medsam2")
ON_GPU = DEVICE.startswith("cuda")
WAYS = {"torch.compile": {}, **({"CUDA graphs": {"mode": "reduce-overhead"}} if ON_GPU else {})}
"""Options of torch.compile by what people call them."""


def seconds(act):
    if ON_GPU:
        torch.cuda.synchronize()
    start = time.perf_counter()
    act()
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def encoder(network, batch):
    """The image encoder, and slices for it."""
    stream = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, network.image_size, network.image_size, generator=stream).to(DEVICE)
    return network.image_encoder, (images,), lambda made: made["vision_features"]


def attention(network, batch):
    """Memory attention over seven memories and sixteen pointers of each stream, and its arguments."""
    stream = torch.Generator().manual_seed(0)
    cells, side = (network.image_size // network.backbone_stride) ** 2, network.hidden_dim
    tokens = 7 * cells + 16 * (side // network.mem_dim)
    shapes = [(cells, batch, side)] * 2 + [(tokens, batch, network.mem_dim)] * 2
    curr, curr_pos, memory, memory_pos = (torch.randn(*shape, generator=stream).to(DEVICE) for shape in shapes)
    named = {"curr": [curr], "curr_pos": [curr_pos], "memory": memory, "memory_pos": memory_pos}
    pointers = 16 * (side // network.mem_dim)
    return network.memory_attention, (), lambda made: made, {**named, "num_obj_ptr_tokens": pointers}


@pytest.mark.parametrize("part", [encoder, attention])
def test_compiled_beside_as_it_is(part):
    if not ON_GPU:
        torch.set_num_threads(1)
    segmenter = load_segmenter(MODEL, "random:0", device=DEVICE, precision="bfloat16" if ON_GPU else "float32")
    module, arguments, of, *named = part(segmenter.network, 8 if ON_GPU else 1)
    options = named[0] if named else {}
    acts = {"as it is": lambda: of(module(*arguments, **options))}
    with segmenter.running():
        expected, taken = acts["as it is"]().float(), {"as it is": []}
        compiling, moved = {}, {}
        for way, settings in WAYS.items():
            made = torch.compile(module, **settings)
            acts[way] = lambda made=made: of(made(*arguments, **options))
            compiling[way] = seconds(acts[way])
            found = acts[way]().float()
            moved[way] = float((found - expected).norm() / expected.norm())
            taken[way] = []
        for _ in range(ROUNDS):
            for way, act in acts.items():
                taken[way].append(seconds(act))
    plain = statistics.median(taken["as it is"])
    print(f"\n{part.__name__}, {MODEL}, {DEVICE}: {plain * 1e3:.1f} ms as it is")
    for way in WAYS:
        median = statistics.median(taken[way])
        print(
            f"  {way}: {median * 1e3:.1f} ms, {plain / median:.2f} x; compiling {compiling[way]:.0f} s; "
            f"numbers moved by {moved[way]:.1e}"
        )
