"""Fake-quantization kernels: tensors and numbers only, never formats, roles or models."""
