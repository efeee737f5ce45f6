"""Checks the kernels of a decoder's step against float64, and times them alone and as a whole step.

usage: decoder_step.py [--batch N,N] [--context N] [--all]; --all times other settings than those chosen too

Needs PyTorch on a Hopper GPU. The shape is SmolLM2-135M's, with random weights. Kernels alone: 30 launches in a CUDA graph, each
with a layer's own weights and pages. Times are the medians of 15 replays.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import torch

import driver
import nvrtc
from decoder_settings import (
    ADD, CHOOSE, PAGE, SMOLLM2, STEPS, STORE, SWIGLU, GroupedStep, Product, RowProduct, alternatives, few, step_definitions,
    step_settings, tall)

CACHE = os.environ.get("APUS_CUBINS")


def address(x):
    return None if x is None else x.data_ptr()


def compiled(file, name, definitions, shared=0):
    folder = nvrtc.KERNELS if file.startswith("grouped") else nvrtc.TENSOR_KERNELS
    return driver.Kernel(nvrtc.compile_kernel(file, definitions, cache=CACHE, folder=folder), name, shared)


def random(*shape, scale=1.0):
    return torch.randn(*shape, device="cuda") * scale


def microseconds(work):
    """The median time of a CUDA graph of `work`."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    times = []
    for _ in range(18):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times[3:])


class LoadedProduct(Product):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.kernel = compiled(self.file, self.file[:-4], self.definitions, self.shared)

    def __call__(self, x, weight, **operands):
        p = RowProduct(
            x.data_ptr(), weight.data_ptr(), rows=self.rows, outputs=self.outputs, stride=self.outputs,
            epsilon=1e-5,
            **{name: address(value) for name, value in operands.items()})
        maps = []
        if self.is_tall:
            maps = [
                driver.tensor_map(t.data_ptr(), (self.width, rows, 1), (self.width * 2, self.width * 2 * rows), (64, box, 1))
                for t, rows, box in ((x, self.rows, self.block_rows), (weight, self.outputs, self.columns))]
        self.kernel(self.grid, self.threads, *maps, p, overlap=True)


class Model:
    def __init__(self, shape, batch, context):
        self.shape, self.batch, self.context = s, _, _ = shape, batch, context
        bf16 = lambda *n: random(*n, scale=0.02).bfloat16()
        self.embedding = bf16(s.vocabulary, s.width)
        projected = (s.heads + 2 * s.groups) * s.head
        self.layers = [
            dict(qkv=bf16(projected, s.width), out=bf16(s.width, s.heads * s.head), up=bf16(2 * s.inner, s.width),
                 down=bf16(s.width, s.inner)) for _ in range(s.layers)]
        self.norm = 1 + random(s.width, scale=0.1)
        stride = (context + PAGE - 1) // PAGE
        self.pages = batch * stride
        self.table = torch.randperm(self.pages, device="cuda", dtype=torch.int32).view(batch, stride)
        self.cache = torch.randn(s.layers, self.pages, s.groups, PAGE, 2 * s.head, device="cuda", dtype=torch.bfloat16)
        self.lengths = torch.full((batch,), context, device="cuda", dtype=torch.int32)
        pairs = torch.arange(s.head // 2, device="cuda") / (s.head // 2)
        angle = torch.arange(context + 1, device="cuda")[:, None] * 1e5**-pairs
        self.cosine, self.sine = angle.cos().contiguous(), angle.sin().contiguous()
        self.tokens = torch.randint(s.vocabulary, (batch,), device="cuda", dtype=torch.int32)
        new = lambda *n, t=torch.bfloat16: torch.zeros(batch, *n, device="cuda", dtype=t)
        self.residual, self.normed, self.projected = new(s.width, t=torch.float32), new(s.width), new(projected)
        self.attended, self.inner, self.squares = new(s.heads * s.head), new(s.inner), new(64, t=torch.float32)
        self.logits, self.best = new(s.vocabulary, t=torch.float32), new(1024, t=torch.float32)
        self.index, self.chosen, self.after = new(1024, t=torch.int32), new(t=torch.int32), self.lengths.clone()
        self.history, self.zeros = new(context + 1, t=torch.int32), new(t=torch.float32)
        self.seeds = new(t=torch.int64)
        self.step_kernels = {name: compiled("decoder_step.cu", name, {}) for name in ("embed_rows", "choose_tokens")}

    def attend(self, kernel, warps, layer):
        s = self.shape
        p = GroupedStep(
            address(self.projected), None, None, address(self.cosine), address(self.sine), address(self.cache[layer]),
            address(self.table), address(self.lengths), address(self.attended), page_elements=self.cache[0, 0].numel(),
            page_stride=self.table.shape[1], groups=s.groups, window=1 << 30, epsilon=1e-6,
            scale_log2=s.head**-0.5 * 1.4426950408889634)
        kernel((s.groups, self.batch, 1), 32 * warps, p, overlap=True)

    def products(self, settings):
        """The five products of a step; `settings`: those that are not the chosen ones, by name."""
        s, n = self.shape, self.batch
        make = lambda name, *a, **o: LoadedProduct(*a, setting=settings.get(name), **o)
        out = make("out", s.heads * s.head, s.width, n, ADD)
        down = make("down", s.inner, s.width, n, ADD)
        if out.parts != down.parts:
            raise ValueError(f"parts of sums of squares: {out.parts} and {down.parts}")
        parts = dict(parts=down.parts)
        return dict(
            qkv=make("qkv", s.width, self.projected.shape[1], n, STORE, **parts), out=out,
            up=make("up", s.width, 2 * s.inner, n, SWIGLU, **parts), down=down,
            head=make("head", s.width, s.vocabulary, n, CHOOSE, **parts))

    def multiply(self, name, product, layer, logits=False):
        weight = self.embedding if name == "head" else self.layers[layer][name]
        after = dict(sums=self.residual, out=self.normed, next_weight=self.norm, next_squares=self.squares)
        if name == "qkv":
            product(self.normed, weight, squares=self.squares, out=self.projected)
        elif name == "out":
            product(self.attended, weight, **after)
        elif name == "up":
            product(self.normed, weight, squares=self.squares, out=self.inner)
        elif name == "down":
            product(self.inner, weight, **after)
        else:
            product(
                self.normed, weight, squares=self.squares, sums=self.logits if logits else None, temperatures=self.zeros,
                seeds=self.seeds, positions=self.lengths, best=self.best, best_index=self.index)

    def step(self, products, attention, warps, logits=False):
        s = self.shape
        self.step_kernels["embed_rows"](
            self.batch, 256, self.tokens, self.embedding, 1.0, self.norm, self.residual, self.normed, self.squares,
            products["down"].parts, s.width, s.vocabulary, overlap=True)
        for layer in range(s.layers):
            self.multiply("qkv", products["qkv"], layer)
            self.attend(attention, warps, layer)
            for name in ("out", "up", "down"):
                self.multiply(name, products[name], layer)
        self.multiply("head", products["head"], 0, logits)
        self.step_kernels["choose_tokens"](
            -(-self.batch // 8), 256, self.best, self.index, products["head"].grid[0], self.chosen, self.after, self.history,
            self.history.shape[1], self.batch, overlap=True)

    # ---- float64 ----

    def normalised(self, x):
        return x * torch.rsqrt((x**2).mean(-1, keepdim=True) + 1e-5) * self.norm.double()

    def expected(self):
        """Logits in float64."""
        s, n = self.shape, self.batch
        x = self.embedding[self.tokens.long()].double()
        cosine, sine = (t[self.context - 1].double() for t in (self.cosine, self.sine))
        for layer, weights in enumerate(self.layers):
            w = {name: weight.double() for name, weight in weights.items()}
            qkv = (self.normalised(x) @ w["qkv"].T).view(n, -1, s.head)
            a, b = qkv[:, : s.heads + s.groups].chunk(2, -1)
            qk = torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)
            rows = self.cache[layer][self.table.long()].permute(0, 2, 1, 3, 4).reshape(n, s.groups, -1, 2 * s.head)
            rows = rows[:, :, : self.context - 1].double()
            value = torch.cat([rows[..., : s.head], qkv[:, s.heads + s.groups :, None]], 2)
            key = torch.cat([rows[..., s.head :], qk[:, s.heads :, None]], 2)
            query = qk[:, : s.heads].view(n, s.groups, -1, s.head)
            weight = torch.softmax(query @ key.transpose(-1, -2) * s.head**-0.5, -1)
            x = x + (weight @ value).reshape(n, -1) @ w["out"].T
            turns = (self.normalised(x) @ w["up"].T).view(n, -1, 2, 8)
            x = x + (torch.nn.functional.silu(turns[:, :, 0]) * turns[:, :, 1]).reshape(n, -1) @ w["down"].T
        return self.normalised(x) @ self.embedding.double().T


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", default="1,64,256")
    parser.add_argument("--context", type=int, default=192)
    parser.add_argument("--all", action="store_true")
    arguments = parser.parse_args()
    for batch in map(int, arguments.batch.split(",")):
        model = Model(SMOLLM2, batch, arguments.context)
        everything = range(model.shape.layers)
        products = model.products({})
        usual = step_settings(model.shape, batch)
        kernel = compiled("grouped_step.cu", "grouped_step", step_definitions(model.shape, *usual))
        model.step(products, kernel, usual[0], logits=True)
        expected = model.expected()
        error = float(((model.logits - expected).norm(dim=1) / expected.norm(dim=1)).max())
        print(f"{batch} logits: worst relative error {error:.1e}", flush=True)
        for warps, ahead in STEPS if arguments.all else [usual]:
            kernel = compiled("grouped_step.cu", "grouped_step", step_definitions(model.shape, warps, ahead))
            time = microseconds(lambda: [model.attend(kernel, warps, i) for i in everything]) / len(everything)
            print(f"{batch} attention warps {warps} ahead {ahead}: {time:.2f} us", flush=True)
        for name, product in products.items():
            settings = [product.setting]
            if arguments.all:
                settings += [f(product.width, product.outputs, batch, product.epilogue) for f in (few, tall)]
                settings += alternatives(name, batch)
            for setting in dict.fromkeys(settings):
                made = LoadedProduct(
                    product.width, product.outputs, batch, product.epilogue, setting=setting,
                    parts=product.definitions["PARTS"] if product.definitions["NORM"] else 0)
                count = 4 if name == "head" else len(everything)
                time = microseconds(lambda: [model.multiply(name, made, i) for i in range(count)]) / count
                print(f"{batch} {name} {setting} {made.shared} B: {time:.2f} us", flush=True)
        for warps, ahead in STEPS if arguments.all else [usual]:
            kernel = compiled("grouped_step.cu", "grouped_step", step_definitions(model.shape, warps, ahead))
            time = microseconds(lambda: model.step(products, kernel, warps))
            print(f"{batch} step, warps {warps} ahead {ahead}: {time:.1f} us, {batch / time * 1e6:.0f} tokens/s", flush=True)


if __name__ == "__main__":
    main()
