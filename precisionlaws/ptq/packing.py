"""Codes of b bits, without gaps between them: the bytes of a payload are the bits of its codes."""

import math

import torch
from torch import Tensor

CHUNK = 8  # codes: 8 codes of b bits are b whole bytes


def pack(codes: Tensor, bits: int) -> Tensor:
    """Whole numbers in [0, 2^bits) -> ceil(numel * bits / 8) bytes (uint8), low bits first."""
    flat = codes.reshape(-1).to(torch.int64)
    padded = torch.zeros(math.ceil(flat.numel() / CHUNK) * CHUNK, dtype=torch.int64)
    padded[: flat.numel()] = flat
    places = torch.arange(bits)
    stream = (padded.unsqueeze(1) >> places & 1).view(-1, 8)  # (bytes, 8)
    packed = (stream << torch.arange(8)).sum(1).to(torch.uint8)
    return packed[: math.ceil(flat.numel() * bits / 8)]


def unpack(packed: Tensor, bits: int, numel: int) -> Tensor:
    """The first `numel` codes (int64) of `pack`."""
    stream = (packed.to(torch.int64).unsqueeze(1) >> torch.arange(8) & 1).view(-1)
    stream = stream[: numel * bits].view(numel, bits)
    return (stream << torch.arange(bits)).sum(1)
