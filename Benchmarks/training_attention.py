#!/usr/bin/env python3
"""Time PyTorch's scaled_dot_product_attention, forward and backward, on the shapes of training_attention.c.

    Benchmarks/training_attention.py [threads]

Keys and values are given once per query head (PyTorch's fastest case); what repeating them for grouped heads, and summing
their gradients, would cost is not counted. Times are the least of several runs.
"""

import sys
import time

import torch
from torch.nn.functional import scaled_dot_product_attention

# sequences, tokens, heads, key width, value width
SHAPES = [(16, 256, 4, 64, 64), (8, 512, 8, 64, 64), (8, 512, 8, 96, 64), (1, 2048, 8, 64, 64), (1, 2048, 8, 96, 64)]


def rows(sequences, tokens, heads, width, dtype):
    return torch.randn(sequences, tokens, heads, width).to(dtype).transpose(1, 2)


def measure(sequences, tokens, heads, key, value, dtype):
    q, k, v = (rows(sequences, tokens, heads, w, dtype).requires_grad_() for w in (key, key, value))
    gradient = rows(sequences, tokens, heads, value, dtype)
    forward = backward = float("inf")
    begin = time.perf_counter()
    while time.perf_counter() - begin < 0.6:
        start = time.perf_counter()
        output = scaled_dot_product_attention(q, k, v, is_causal=True)
        middle = time.perf_counter()
        torch.autograd.grad(output, (q, k, v), gradient)
        forward = min(forward, middle - start)
        backward = min(backward, time.perf_counter() - middle)
    return forward * 1e3, backward * 1e3


torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
for sequences, tokens, heads, key, value in SHAPES:
    for dtype in (torch.bfloat16, torch.float32):
        forward, backward = measure(sequences, tokens, heads, key, value, dtype)
        print(f"{sequences:2} x {tokens:4}, {heads} heads, key {key}, value {value}, {dtype}: forward {forward:.2f} ms, "
              f"backward {backward:.2f} ms, both {forward + backward:.2f} ms")
