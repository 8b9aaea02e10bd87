"""Says how each network differs from the one that sam2 ships; knows names and numbers only, no module or tensor."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

BASE_CONFIG = "configs/sam2.1/sam2.1_hiera_t.yaml"
"""SAM2.1's tiny model, as the sam2 package ships it; both models are changes of it."""

MODELS: Mapping[str, Mapping[str, int | list[int]]] = {
    # MedSAM2: image size 1024 → 512, and with it the grid of the rotary position encoding 64 → 32.
    "medsam2": {
        "image_size": 512,
        "memory_attention.layer.self_attention.feat_sizes": [32, 32],
        "memory_attention.layer.cross_attention.feat_sizes": [32, 32],
    },
    # The same modules at 128 px, for tests and demonstrations: a sixth of the trunk's width, five of its twelve blocks,
    # half the width elsewhere, two of four attention layers. Memories keep 64 channels, and a pointer still splits into
    # tokens of a memory's width (two for four).
    "mini": {
        "image_size": 128,
        "image_encoder.trunk.embed_dim": 16,
        "image_encoder.trunk.stages": [1, 1, 2, 1],
        "image_encoder.trunk.global_att_blocks": [3],
        "image_encoder.trunk.window_spec": [8, 4, 4, 2],
        "image_encoder.neck.backbone_channel_list": [128, 64, 32, 16],
        "image_encoder.neck.d_model": 128,
        "image_encoder.neck.position_encoding.num_pos_feats": 128,
        "memory_attention.d_model": 128,
        "memory_attention.num_layers": 2,
        "memory_attention.layer.d_model": 128,
        "memory_attention.layer.dim_feedforward": 256,
        "memory_attention.layer.self_attention.embedding_dim": 128,
        "memory_attention.layer.self_attention.feat_sizes": [8, 8],
        "memory_attention.layer.cross_attention.embedding_dim": 128,
        "memory_attention.layer.cross_attention.feat_sizes": [8, 8],
        "memory_encoder.in_dim": 128,
        "memory_encoder.mask_downsampler.embed_dim": 128,
        "memory_encoder.fuser.layer.dim": 128,
    },
}
"""By model, the settings of `BASE_CONFIG` that it changes; everything else is as sam2 ships it."""

Flag = bool | int | float | str

FLAGS: Mapping[str, Flag] = MappingProxyType(
    {
        "binarize_mask_from_pts_for_mem_enc": True,
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
        "fill_hole_area": 0,
        "add_all_frames_to_correct_as_cond": False,
    }
)
"""Switches of SAM2's video predictor that change its numbers, as this engine sets them; part of every view."""
