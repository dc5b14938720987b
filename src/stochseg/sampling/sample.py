"""From images and latents to class maps: z-free work once an image, samples in chunks of bounded memory."""

import torch
from torch import Tensor

from stochseg.models.class_maps import class_maps
from stochseg.models.interfaces import RefinementNet

PIXELS_AT_ONCE = 2**21
"""Pixels of all samples that the refinement network works on at once; 64x64: 512 samples."""
CPU_PIXELS_AT_ONCE = 2**18
"""The same on a CPU, whose caches hold so much: four times as many samples at once took up to 1.4 times as long each."""


def decode_in_chunks(refinement: RefinementNet, images: Tensor, q: Tensor, z: Tensor, soft: bool = False) -> Tensor:
    """Samples for images [b c h w], q [b k h w] and z [b n z].

    Returns class maps uint8 [b n h w], or with `soft` probabilities float32 [b n k h w]. Only so many pixels
    are in work at a time as these limits say, however many images and samples are asked for.
    """
    b, n = z.shape[:2]
    h, w = images.shape[-2:]
    limit = min(PIXELS_AT_ONCE, CPU_PIXELS_AT_ONCE) if images.device.type == "cpu" else PIXELS_AT_ONCE
    room = max(1, limit // (h * w))
    images_at_once, samples_at_once = min(b, room), max(1, room // b)
    pieces = []
    for start in range(0, b, images_at_once):
        rows = slice(start, start + images_at_once)
        features = refinement.encode(images[rows], q[rows])
        chunks = []
        for first in range(0, n, samples_at_once):
            logits = refinement.decode(features, z[rows, first : first + samples_at_once])
            chunks.append(logits.float().softmax(2) if soft else class_maps(logits))
        pieces.append(torch.cat(chunks, 1))
    return torch.cat(pieces)
