"""Latent decode attention (MLA, GLA) on the GPU: plan, run, float64 reference, timing."""

import ctypes
import math
import os
import random
import time

import torch

import nvrtc
from driver import Kernel, tensor_map

CACHE = os.environ.get("APUS_CUBINS")
SHARED_LIMIT = 227 * 1024 - 1024


class Params(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in ("query", "cache", "page_table", "pieces", "splits", "arrivals", "output", "lse", "partial", "partial_lse")]
    _fields_ += [("page_elements", ctypes.c_longlong)]
    _fields_ += [(n, ctypes.c_int) for n in ("page_stride", "query_tokens", "query_heads", "heads_per_latent", "latent_heads", "lanes", "row_tiles")]
    _fields_ += [("scale_log2", ctypes.c_float)]


_kernels = {}


def kernel(file, name, shared=0, **defines):
    key = (file, name, shared, tuple(sorted(defines.items())))
    if key not in _kernels:
        _kernels[key] = Kernel(nvrtc.compile_kernel(file, defines, cache=CACHE), name, shared)
    return _kernels[key]


def configure(d_c, d_r, rows, page_size, **changes):
    """Compile-time choices. Shared memory holds the queries of the tile and as many KV stages as fit."""
    wide = d_c > 256
    groups = changes.pop("WARPGROUPS", 2 if wide or rows > 64 else 1)
    block = changes.pop("BLOCK_N", 64)
    panels = d_c // 64 + 1
    query, stage = (1 if wide else groups) * (panels - 1) * 8192, panels * block * 128
    # More than 120 KiB on their way a multiprocessor only lengthen the memory's queues.
    most = 6 if page_size % 8 or groups == 2 else max(3, 122880 // stage)
    stages = changes.pop("STAGES", min(most, (SHARED_LIMIT - query - 8192 * wide) // stage))
    defines = dict(D_C=d_c, D_R=d_r, PAGE_SIZE=page_size, BLOCK_N=block, STAGES=stages, WARPGROUPS=groups, **changes)
    return defines, query + stages * stage + 8192 * wide


class Latent:
    """One setting: geometry, lengths and a ring of caches; `run(i)` runs on cache i of the ring."""

    def __init__(self, heads, latent_heads, d_c, d_r, query_tokens, lengths, page_size, ring=1, poison=False, gain=1.0,
                 seed=0, workers=None, piece_cost=2, slack=5, **changes):
        generator = torch.Generator("cuda").manual_seed(seed)
        self.heads, self.latent_heads, self.d_c, self.d_r, self.tokens = heads, latent_heads, d_c, d_r, query_tokens
        self.lengths, self.page_size, self.ring = lengths, page_size, ring
        self.per_latent = heads // latent_heads
        batch, rows = len(lengths), self.per_latent * query_tokens
        self.batch = batch
        if 64 % self.per_latent and self.per_latent % 64:
            changes.setdefault("QUERY_TILES", 0)
        self.defines, shared = configure(d_c, d_r, rows, page_size, **changes)
        self.tile_rows = 64 * self.defines["WARPGROUPS"] // (2 if d_c > 256 else 1)
        self.block = self.defines["BLOCK_N"]
        self.row_tiles = -(-rows // self.tile_rows)
        tiles = latent_heads * self.row_tiles
        self.lanes = max(n for n in range(1, 17) if tiles % n == 0)
        self.outers = tiles // self.lanes
        self.workers = workers or 132 // self.lanes
        self.scale = 1 / math.sqrt(d_c // 2 + d_r)

        self.stride = max(1, max(-(-n // page_size) for n in lengths))
        self.page_elements = page_size * (latent_heads * d_c + d_r)
        used = [-(-n // page_size) for n in lengths]
        pages = sum(used) * ring + 1
        order = torch.randperm(pages, device="cuda", generator=generator, dtype=torch.int32)
        self.table = torch.full((ring, batch, self.stride), 2**30, dtype=torch.int32, device="cuda")
        at = 0
        for r in range(ring):
            for b in range(batch):
                self.table[r, b, : used[b]] = order[at : at + used[b]]
                at += used[b]
        self.cache = torch.empty(pages, self.page_elements, dtype=torch.bfloat16, device="cuda")
        for part in self.cache.split(max(1, 2**27 // self.page_elements)):
            part.normal_(generator=generator)
        if poison:  # whatever lies behind the end of a sequence must not matter
            self.cache[order[at:].long()] = float("nan")
            for b, n in enumerate(lengths):
                if n % page_size:
                    for r in range(ring):
                        page = self.cache[int(self.table[r, b, used[b] - 1])]
                        page[: page_size * latent_heads * d_c].view(latent_heads, page_size, d_c)[:, n % page_size :] = float("nan")
                        page[page_size * latent_heads * d_c :].view(page_size, d_r)[n % page_size :] = float("nan")
        self.query = torch.randn(batch, query_tokens, heads, d_c + d_r, device="cuda", generator=generator).mul_(gain).bfloat16()
        self.output = torch.full((batch, query_tokens, heads, d_c), float("nan"), dtype=torch.bfloat16, device="cuda")
        self.lse = torch.full((batch, query_tokens, heads), float("nan"), device="cuda")
        slots = 2 * self.workers
        self.partial = torch.full((slots, self.lanes, self.tile_rows, d_c), float("nan"), device="cuda")
        self.partial_lse = torch.full((slots, self.lanes, self.tile_rows), float("nan"), device="cuda")
        self.device_lengths = torch.tensor(lengths, dtype=torch.int32, device="cuda")
        self.pieces = torch.zeros((self.workers + batch * self.outers + 2 * self.workers) * 8, dtype=torch.int32, device="cuda")
        self.splits = torch.zeros(self.workers * 4, dtype=torch.int32, device="cuda")
        self.arrivals = torch.full((self.workers * self.lanes,), 7, dtype=torch.int32, device="cuda")
        self.split_count = torch.zeros(1, dtype=torch.int32, device="cuda")
        kernel("schedule.cu", "decode_schedule")(
            1, 256, self.device_lengths, batch, self.outers, self.workers, self.block, piece_cost, slack, self.pieces,
            self.splits, self.arrivals, self.lanes, self.split_count)

        name = "latent_decode_wide" if d_c > 256 else "latent_decode"
        self.main = kernel(name + ".cu", name, shared, **self.defines)
        box = min(page_size, self.block)
        base = self.cache.data_ptr()
        if page_size % 8 == 0:
            whole = box == self.block
            self.latent_map = tensor_map(
                base, (64, page_size, d_c // 64, latent_heads, pages),
                (d_c * 2, 128, page_size * d_c * 2, self.page_elements * 2), (64, box, d_c // 64 if whole else 1, 1, 1))
            self.rope_map = tensor_map(
                base + latent_heads * page_size * d_c * 2, (d_r, page_size, pages), (d_r * 2, self.page_elements * 2), (64, box, 1))
        else:
            self.latent_map = self.rope_map = tensor_map(base, (64, 1), (128,), (64, 1))
        width, tiles = d_c + d_r, self.defines.get("QUERY_TILES", 1)
        if tiles:
            box = min(64, self.per_latent)
            self.query_map = tensor_map(
                self.query.data_ptr(), (64, self.per_latent, batch * query_tokens, latent_heads, d_c // 64 + (d_r == 64)),
                (width * 2, heads * width * 2, self.per_latent * width * 2, 128), (64, box, 64 // box, 1, d_c // 64))
        else:
            self.query_map = self.latent_map
        self.params = [
            Params(
                self.query.data_ptr(), base, self.table[r].data_ptr(), self.pieces.data_ptr(), self.splits.data_ptr(),
                self.arrivals.data_ptr(), self.output.data_ptr(),
                self.lse.data_ptr(), self.partial.data_ptr(), self.partial_lse.data_ptr(), self.page_elements, self.stride,
                query_tokens, heads, self.per_latent, latent_heads, self.lanes, self.row_tiles, self.scale * math.log2(math.e))
            for r in range(ring)]

    def run(self, i=0, overlap=False):
        threads = 128 + 128 * self.defines["WARPGROUPS"]
        self.main(self.workers * self.lanes, threads, self.latent_map, self.rope_map, self.query_map, self.params[i % self.ring], overlap=overlap)

    def reference(self, b, ring=0):
        """Sequence b in float64: output [query token][head][d_c], lse."""
        n = self.lengths[b]
        pages = self.cache[self.table[ring, b, : -(-n // self.page_size)].long()]
        latents = pages[:, : self.page_size * self.latent_heads * self.d_c].view(-1, self.latent_heads, self.page_size, self.d_c)
        latents = latents.transpose(1, 2).reshape(-1, self.latent_heads, self.d_c)[:n].double()
        rope = pages[:, self.page_size * self.latent_heads * self.d_c :].reshape(-1, self.d_r)[:n].double()
        q = self.query[b].double().view(self.tokens, self.latent_heads, self.per_latent, -1)
        s = torch.einsum("tghd,lgd->tghl", q[..., : self.d_c], latents) + torch.einsum("tghd,ld->tghl", q[..., self.d_c :], rope)
        s = s * self.scale
        seen = n - self.tokens + 1 + torch.arange(self.tokens, device="cuda")
        hidden = torch.arange(n, device="cuda")[None] >= seen[:, None]
        s = s.masked_fill(hidden[:, None, None], -math.inf)
        lse = torch.logsumexp(s, -1)
        weights = torch.exp(s - torch.where(lse.isfinite(), lse, torch.zeros_like(lse))[..., None])
        o = torch.einsum("tghl,lgd->tghd", weights, latents)
        return o.reshape(self.tokens, self.heads, self.d_c), lse.reshape(self.tokens, self.heads)

    def check(self, sample=None):
        """Largest relative error over sequences, and of the log-sum-exp (absolute); NaN fails."""
        self.output.fill_(float("nan"))
        self.lse.fill_(float("nan"))
        self.run()
        torch.cuda.synchronize()
        first = self.output.clone()
        worst = worst_lse = 0.0
        chosen = range(self.batch) if sample is None else random.sample(range(self.batch), min(sample, self.batch))
        for b in chosen:
            o, lse = self.reference(b)
            norm = o.norm()
            error = float((self.output[b].double() - o).norm() / norm) if norm > 0 else float(self.output[b].double().abs().max())
            same = (self.lse[b] == lse) | ((self.lse[b].double() - lse).abs() < 1e-3 * (1 + lse.abs()))
            worst = max(worst, error) if error == error else math.nan
            if not bool(same.all()):
                worst_lse = math.nan
            if worst != worst:
                break
        if not bool(self.output.isfinite().all()):
            worst = math.nan
        for _ in range(2):
            self.output.fill_(float("nan"))
            self.run()
            torch.cuda.synchronize()
            if not torch.equal(self.output, first):
                return worst, worst_lse, False
        return worst, worst_lse, True

    def bytes(self):
        """KV (the RoPE key once), queries, output."""
        kv = sum(self.lengths) * (self.latent_heads * self.d_c + self.d_r) * 2
        return kv, self.query.numel() * 2 + self.output.numel() * 2

    def flops(self):
        return 2 * self.heads * self.tokens * sum(self.lengths) * (2 * self.d_c + self.d_r)


def time_graph(run, launches=20, repeats=15, rest=0.0):
    """Median microseconds of one launch; `launches` of them in a CUDA graph. Seconds of `rest` before each replay."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(3):
            run(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(launches):
            run(i)
    for _ in range(2):
        graph.replay()
    times = []
    for _ in range(repeats):
        time.sleep(rest)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1000 / launches)
    return sorted(times)[len(times) // 2]
