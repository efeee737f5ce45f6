"""Training steps of `apus bench train --device cuda` beside PyTorch's: the same model, batch and work in the same call.

A step is forward, backward, clipping by the norm of all gradients, and AdamW on float32 weights with bf16 products. PyTorch's
is compiled (torch.compile of the whole forward with its loss), with bf16 autocast, its own attention and the fused AdamW.

    python3 Benchmarks/gpu/training.py --apus .build/release/apus
"""

import argparse
import collections
import json
import subprocess
import sys
import time

Shape = collections.namedtuple("Shape", "width layers heads kv_heads feed_forward vocabulary sequences length bar memory")
SHAPES = {
    "smollm2": Shape(576, 30, 9, 3, 1536, 49152, 16, 1024, 1.4, 13),
    "114m": Shape(768, 12, 12, 4, 2048, 50304, 32, 1024, 1.15, None),
}


def settings(shape):
    return [
        "model.attention=gqa", f"model.hidden_size={shape.width}", f"model.layers={shape.layers}", f"model.heads={shape.heads}",
        f"model.kv_heads={shape.kv_heads}", f"model.feed_forward_width={shape.feed_forward}",
        f"model.vocabulary={shape.vocabulary}", f"data.batch_size={shape.sequences}", f"data.sequence_length={shape.length}"]


def ours(apus, shape, steps, profile):
    command = [apus, "bench", "train", "--device", "cuda", "--steps", str(steps)]
    found = json.loads(subprocess.run(command + ["--json"] + settings(shape), capture_output=True, text=True, check=True).stdout)
    if profile:
        print(subprocess.run(command + ["--profile"] + settings(shape), capture_output=True, text=True).stdout, flush=True)
    return found["tokensPerSecond"], found["peakDeviceMemory"] / 2**30


def peer(shape, steps):
    """Median tokens/s and GiB at the peak."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy, scaled_dot_product_attention, silu

    head = shape.width // shape.heads
    queries, keys = shape.heads * head, shape.kv_heads * head

    def rotate(x, cosine, sine):
        a, b = x.float().chunk(2, -1)
        return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1).to(x.dtype)

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            linear = lambda a, b: nn.Linear(a, b, bias=False)
            self.norm, self.second = (nn.RMSNorm(shape.width, 1e-5) for _ in range(2))
            self.qkv, self.out = linear(shape.width, queries + 2 * keys), linear(queries, shape.width)
            self.gate_up, self.down = linear(shape.width, 2 * shape.feed_forward), linear(shape.feed_forward, shape.width)

        def forward(self, x, cosine, sine):
            n, t, _ = x.shape
            q, k, v = self.qkv(self.norm(x)).split([queries, keys, keys], -1)
            q, k, v = (y.view(n, t, -1, head).transpose(1, 2) for y in (q, k, v))
            y = scaled_dot_product_attention(
                rotate(q, cosine, sine), rotate(k, cosine, sine), v, is_causal=True, enable_gqa=shape.heads != shape.kv_heads)
            x = x + self.out(y.transpose(1, 2).reshape(n, t, queries))
            gate, up = self.gate_up(self.second(x)).chunk(2, -1)
            return x + self.down(silu(gate) * up)

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(shape.vocabulary, shape.width)
            self.layers = nn.ModuleList(Layer() for _ in range(shape.layers))
            self.norm = nn.RMSNorm(shape.width, 1e-5)
            angle = torch.outer(torch.arange(shape.length), 10_000.0 ** (-torch.arange(0, head, 2) / head))
            self.register_buffer("cosine", angle.cos())
            self.register_buffer("sine", angle.sin())
            for p in self.parameters():
                if p.dim() > 1:
                    nn.init.normal_(p, std=0.02)

        def forward(self, tokens, targets):
            with torch.autocast("cuda", torch.bfloat16):
                x = self.table(tokens)
                for layer in self.layers:
                    x = layer(x, self.cosine, self.sine)
                logits = self.norm(x) @ self.table.weight.T
                return cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    torch.manual_seed(0)
    model = Decoder().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    forward = torch.compile(model)
    tokens, targets = (torch.randint(shape.vocabulary, (shape.sequences, shape.length), device="cuda") for _ in range(2))

    def step():
        loss = forward(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    for _ in range(4):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step().item()
        times.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**30
    return shape.sequences * shape.length / sorted(times)[len(times) // 2], peak


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--apus", default=".build/release/apus")
    parser.add_argument("--shapes", default="smollm2,114m")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--profile", action="store_true", help="list the kernels of a step of ours")
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args(arguments)
    for name in options.shapes.split(","):
        shape = SHAPES[name]
        rate, peak = ours(options.apus, shape, options.steps, options.profile)
        print(f"{name}: apus {rate:,.0f} tokens/s, peak {peak:.2f} GiB" + (f" (bar {shape.memory})" if shape.memory else ""), flush=True)
        if options.no_peer:
            continue
        try:
            other, other_peak = peer(shape, options.steps)
        except RuntimeError as problem:
            print(f"{name}: PyTorch failed: {str(problem).splitlines()[0]}", flush=True)
            continue
        print(
            f"{name}: PyTorch {other:,.0f} tokens/s, peak {other_peak:.2f} GiB; ratio {rate / other:.2f} (bar {shape.bar})", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
