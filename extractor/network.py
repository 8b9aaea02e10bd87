"""SAM2's network with the steps of its video predictor callable one by one, for one slice or many at once.

It knows no volume, region, layout or order of prompting: `tracking` decides what is run when.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import BFloat16, Float, Float32, Int32
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import get_1d_sine_pe
from torch import Tensor
from torch.nn import functional

LOGIT_BOUND = 32.0
"""Previous logits are clamped to ± this before they prompt the decoder, as the predictor does."""


@dataclass(frozen=True)
class SliceFeatures:
    """What the image encoder makes of slices; shared by every stream that keeps the slice."""

    levels: list[Float[Tensor, "cell batch channel"]]
    """Features from the finest to the coarsest grid; the last is what memory attention and memory encoder read."""
    positions: list[Float[Tensor, "cell batch channel"]]
    sizes: list[tuple[int, int]]
    """Rows and columns of each level."""

    def apart(self) -> Iterator[SliceFeatures]:
        """The features of each slice of a batch."""
        for i in range(self.levels[-1].size(1)):
            yield SliceFeatures(
                [level[:, i : i + 1] for level in self.levels],
                [one[:, i : i + 1] for one in self.positions],
                self.sizes,
            )

    def repeated(self, count: int) -> SliceFeatures:
        """The features of one slice, for as many streams; nothing is copied."""
        if count == 1:
            return self
        return SliceFeatures(
            [level.expand(-1, count, -1) for level in self.levels],
            [position.expand(-1, count, -1) for position in self.positions],
            self.sizes,
        )

    @classmethod
    def joined(cls, parts: Sequence[SliceFeatures]) -> SliceFeatures:
        """The features of several slices, of as many streams, as one batch; those of one slice alone are not copied."""
        first = parts[0]
        if all(part is first for part in parts):
            return first.repeated(len(parts))
        return cls(
            [torch.cat(levels, dim=1) for levels in zip(*(part.levels for part in parts), strict=True)],
            [torch.cat(positions, dim=1) for positions in zip(*(part.positions for part in parts), strict=True)],
            first.sizes,
        )

    def maps(self) -> list[Float[Tensor, "batch channel row column"]]:
        """The levels as maps."""
        return [
            level.permute(1, 2, 0).reshape(level.size(1), level.size(2), *size)
            for level, size in zip(self.levels, self.sizes, strict=True)
        ]


@dataclass(frozen=True)
class Points:
    """Clicks or corners of boxes in network pixels."""

    coordinates: Float32[Tensor, "batch point 2"]
    """x, y."""
    labels: Int32[Tensor, "batch point"]
    """SAM2's: 1 inside, 2 and 3 the upper left and lower right corner of a box."""


@dataclass(frozen=True)
class Decoded:
    """What the mask decoder makes of one slice for each stream of a batch."""

    logits: Float32[Tensor, "batch 1 row column"]
    """Mask logits at a quarter of the image size; above 0 is inside."""
    high_res_logits: Float32[Tensor, "batch 1 image_row image_column"]
    pointer: Float[Tensor, "batch channel"]
    object_score: Float[Tensor, "batch 1"]
    prompted: bool
    """Whether a prompt was given: such masks are binarised before they are encoded."""

    def apart(self) -> Iterator[Decoded]:
        """What was made for each stream."""
        for i in range(self.logits.size(0)):
            yield Decoded(
                self.logits[i : i + 1],
                self.high_res_logits[i : i + 1],
                self.pointer[i : i + 1],
                self.object_score[i : i + 1],
                prompted=self.prompted,
            )


@dataclass(frozen=True)
class Remembered:
    """What later slices may attend to of one slice of one stream."""

    memory: BFloat16[Tensor, "1 64 row column"] | None
    """None once the slice is too far back to be attended to."""
    position: Float[Tensor, "1 64 row column"]
    pointer: Float[Tensor, "1 channel"]


@dataclass(frozen=True)
class History:
    """What attention can see from one frame of one stream."""

    first: Remembered
    """The conditioning slice, frame 0."""
    recent: Mapping[int, Remembered]
    """Later slices by frame number; those further back than attention sees are ignored."""
    frame: int
    frames: int
    """How many frames the stream has in all: fewer than 16 shorten the reach of pointers."""


class SliceNetwork(SAM2Base):  # type: ignore[misc] # sam2 carries no types
    """SAM2's own modules, with the steps of its video predictor callable one by one.

    References
    ----------
    sam2 1.1.0, `sam2_video_predictor_legacy.py` (order of the steps) and `modeling/sam2_base.py` (the steps).
    """

    def encode(self, images: Float32[Tensor, "batch 3 row column"]) -> SliceFeatures:
        """Image features of slices."""
        _, levels, positions, sizes = self._prepare_backbone_features(self.forward_image(images))
        return SliceFeatures(levels, positions, sizes)

    def without_history(self, features: SliceFeatures) -> Float[Tensor, "batch channel row column"]:
        """Features of slices that see no other: the learned no-memory embedding is added."""
        conditioned: Tensor = self._prepare_memory_conditioned_features(
            frame_idx=0,
            is_init_cond_frame=True,
            current_vision_feats=features.levels[-1:],
            current_vision_pos_embeds=features.positions[-1:],
            feat_sizes=features.sizes[-1:],
            output_dict={},
            num_frames=1,
        )
        return conditioned

    def attend(
        self, features: SliceFeatures, histories: Sequence[History]
    ) -> Float[Tensor, "batch channel row column"]:
        """Features conditioned on earlier slices, for each stream of a batch.

        Parameters
        ----------
        features
            Of the slice of each stream.
        histories
            Of each stream; all must offer as many tokens (`token_counts`).
        """
        tokens = [self._tokens(history) for history in histories]
        conditioned: Tensor = self.memory_attention(
            curr=features.levels[-1:],
            curr_pos=features.positions[-1:],
            memory=torch.cat([memory for memory, _ in tokens], dim=1),
            memory_pos=torch.cat([position for _, position in tokens], dim=1),
            num_obj_ptr_tokens=self.token_counts(histories[0])[1],
        )
        # the channels' count is the features': a batch is laid out as (cell, batch, channel)
        return conditioned.permute(1, 2, 0).reshape(len(histories), -1, *features.sizes[-1])

    def token_counts(self, history: History) -> tuple[int, int]:
        """How many memories and how many pointer tokens attention sees; streams of equal counts make one batch."""
        return len(self._memories(history)), len(self._pointers(history)) * (self.hidden_dim // self.mem_dim)

    def _memories(self, history: History) -> list[tuple[int, Remembered]]:
        """Distance class and slice of what is seen by its memory: 0 the first slice, then from far to near."""
        seen = [(0, history.first)]
        for place in range(1, self.num_maskmem):
            entry = history.recent.get(history.frame - (self.num_maskmem - place))
            if entry is not None:
                seen.append((place, entry))
        return seen

    def _pointers(self, history: History) -> list[tuple[int, Remembered]]:
        """Distance in frames and slice of what is seen by its pointer: the first slice, then from near to far."""
        reach = min(history.frames, self.max_obj_ptrs_in_encoder)
        near = ((distance, history.recent.get(history.frame - distance)) for distance in range(1, reach))
        return [(history.frame, history.first), *((distance, entry) for distance, entry in near if entry is not None)]

    def _tokens(self, history: History) -> tuple[Float[Tensor, "token 1 64"], Float[Tensor, "token 1 64"]]:
        """Values and positions of all tokens of one stream.

        References
        ----------
        sam2 1.1.0, `SAM2Base._prepare_memory_conditioned_features`: the same tensors in the same order.
        """
        values, positions = [], []
        for place, entry in self._memories(history):
            assert entry.memory is not None
            values.append(entry.memory.flatten(2).permute(2, 0, 1))
            where = entry.position.flatten(2).permute(2, 0, 1)
            positions.append(where + self.maskmem_tpos_enc[self.num_maskmem - place - 1])
        pointers = self._pointers(history)
        parts = self.hidden_dim // self.mem_dim
        stacked = torch.stack([entry.pointer for _, entry in pointers])
        values.append(stacked.reshape(-1, 1, parts, self.mem_dim).permute(0, 2, 1, 3).flatten(0, 1))
        reach = min(history.frames, self.max_obj_ptrs_in_encoder) - 1
        distances = torch.tensor([distance for distance, _ in pointers], device=stacked.device)
        placed = self.obj_ptr_tpos_proj(get_1d_sine_pe(distances / reach, dim=self.hidden_dim))
        positions.append(placed.unsqueeze(1).repeat_interleave(parts, dim=0))
        return torch.cat(values), torch.cat(positions)

    def decode(
        self,
        features: SliceFeatures,
        conditioned: Float[Tensor, "batch channel row column"],
        *,
        points: Points | None,
        previous: Float32[Tensor, "batch 1 row column"] | None = None,
    ) -> Decoded:
        """The mask of each stream on a slice, prompted by points and earlier logits, or tracked without either."""
        given = None if points is None else {"point_coords": points.coordinates, "point_labels": points.labels}
        outputs = self._forward_sam_heads(
            backbone_features=conditioned,
            point_inputs=given,
            mask_inputs=None if previous is None else previous.clamp(-LOGIT_BOUND, LOGIT_BOUND),
            high_res_features=features.maps()[:-1],
            multimask_output=self._use_multimask(is_init_cond_frame=False, point_inputs=given),
        )
        return _decoded(outputs, prompted=points is not None)

    def adopt(self, features: SliceFeatures, masks: Float32[Tensor, "batch 1 image_row image_column"]) -> Decoded:
        """Given masks taken for the decoder's: memory attention is bypassed, and no history enters.

        References
        ----------
        sam2 1.1.0, `SAM2Base._use_mask_as_output`; the predictor encodes the mask after it went to a quarter of the size and back.
        """
        *coarse_last, top = features.maps()
        decoded = _decoded(self._use_mask_as_output(top, coarse_last, masks), prompted=True)
        size = (self.image_size, self.image_size)
        again = functional.interpolate(decoded.logits, size=size, mode="bilinear", align_corners=False)
        return Decoded(decoded.logits, again, decoded.pointer, decoded.object_score, prompted=True)

    def remember(self, features: SliceFeatures, decoded: Decoded) -> list[Remembered]:
        """The memory of a slice in each stream: its raw image features and its mask, as bfloat16 on every device."""
        memory, positions = self._encode_new_memory(
            current_vision_feats=features.levels,
            feat_sizes=features.sizes,
            pred_masks_high_res=decoded.high_res_logits,
            object_score_logits=decoded.object_score,
            is_mask_from_pts=decoded.prompted,
        )
        memory = memory.to(torch.bfloat16)
        return [
            Remembered(memory[i : i + 1], positions[-1][i : i + 1], decoded.pointer[i : i + 1])
            for i in range(memory.size(0))
        ]


def _decoded(outputs: Sequence[Any], *, prompted: bool) -> Decoded:
    _, _, _, logits, high_res_logits, pointer, object_score = outputs
    return Decoded(logits, high_res_logits, pointer, object_score, prompted=prompted)


def stacked(decoded: Sequence[Decoded]) -> Decoded:
    """What was made for several streams as one batch; all prompted, or none."""
    if len(decoded) == 1:
        return decoded[0]
    return Decoded(
        torch.cat([one.logits for one in decoded]),
        torch.cat([one.high_res_logits for one in decoded]),
        torch.cat([one.pointer for one in decoded]),
        torch.cat([one.object_score for one in decoded]),
        prompted=decoded[0].prompted,
    )
