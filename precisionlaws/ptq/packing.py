"""Codes of b bits, without gaps between them: the bytes of a payload are the bits of its codes."""

import math

import torch
from torch import Tensor

CHUNK = 8  # codes: 8 codes of b bits are b whole bytes, and at most two (little-endian) words


def pack(codes: Tensor, bits: int) -> Tensor:
    """Whole numbers in [0, 2^bits) -> ceil(numel * bits / 8) bytes (uint8), low bits first."""
    flat = codes.reshape(-1)
    padded = torch.zeros(math.ceil(flat.numel() / CHUNK), 2, 4, dtype=torch.int64)
    padded.view(-1)[: flat.numel()] = flat
    a, b, c, d = padded.unbind(-1)
    fours = (a | b << bits) | (c | d << bits) << 2 * bits
    first, last = fours.unbind(-1)
    words = torch.stack((first | last << 4 * bits, last >> 64 - 4 * bits), -1)
    return words.view(torch.uint8)[:, :bits].reshape(-1)[: math.ceil(flat.numel() * bits / 8)]


def unpack(packed: Tensor, bits: int, numel: int) -> Tensor:
    """The first `numel` codes (int64) of `pack`."""
    chunks = math.ceil(numel / CHUNK)
    filled = torch.zeros(chunks * bits, dtype=torch.uint8)
    filled[: packed.numel()] = packed
    stream = torch.zeros(chunks, 16, dtype=torch.uint8)
    stream[:, :bits] = filled.view(chunks, bits)
    low, high = stream.view(torch.int64).unbind(-1)
    rest = (low >> 4 * bits) & ((1 << 64 - 4 * bits) - 1)  # >> repeats the sign
    fours = torch.stack((low, rest | high << 64 - 4 * bits), -1).unsqueeze(-1)
    return (fours >> torch.arange(4) * bits & (1 << bits) - 1).view(-1)[:numel]
