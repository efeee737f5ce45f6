"""Decode attention on the GPU for any cache geometry: plan, run, float64 reference, timing."""

import collections
import ctypes
import math
import os
import random
import time

import torch

import nvrtc
from driver import Kernel, tensor_map
from settings import configure

CACHE = os.environ.get("APUS_CUBINS")
MULTIPROCESSORS = torch.cuda.get_device_properties(0).multi_processor_count

Geometry = collections.namedtuple("Geometry", "heads groups shared value key once")


def latent(heads, latent_heads, d_c, d_r):
    return Geometry(heads, latent_heads, d_c, 0, d_r, 1)


def tied(heads, groups, width, d_r):
    return Geometry(heads, groups, width - d_r, d_r, d_r, 1)


def grouped(heads, groups, width):
    return Geometry(heads, groups, 0, width, width, 0)


class Params(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in ("query", "cache", "page_table", "pieces", "splits", "arrivals", "output", "lse", "partial", "partial_lse")]
    _fields_ += [("page_elements", ctypes.c_longlong)]
    _fields_ += [(n, ctypes.c_int) for n in ("page_stride", "query_tokens", "query_heads", "heads_per_group", "groups", "lanes", "row_tiles")]
    _fields_ += [("scale_log2", ctypes.c_float)]


class NaiveGeometry(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int) for n in ("query_heads", "groups", "shared_width", "key_width", "value_width", "key_once", "page_size")]


_kernels = {}


def kernel(file, name, shared=0, **defines):
    key = (file, name, shared, tuple(sorted(defines.items())))
    if key not in _kernels:
        _kernels[key] = Kernel(nvrtc.compile_kernel(file, defines, cache=CACHE), name, shared)
    return _kernels[key]


class Decode:
    """One setting: geometry, lengths and a ring of caches; `run(i)` runs on cache i of the ring."""

    def __init__(self, geometry, query_tokens, lengths, page_size, ring=1, poison=False, gain=1.0, seed=0, piece_cost=2,
                 slack=5, **changes):
        generator = torch.Generator("cuda").manual_seed(seed)
        g = self.geometry = geometry
        self.tokens, self.lengths, self.page_size, self.ring = query_tokens, lengths, page_size, ring
        per_group = g.heads // g.groups
        batch, rows = len(lengths), per_group * query_tokens
        self.batch = batch
        self.width, query_width = g.shared + g.value, g.shared + g.key
        self.row_width = self.width + (0 if g.once else g.key)
        name, self.defines, shared, resident = configure(g, rows, page_size, **changes)
        tile_rows = 64 * self.defines["WARPGROUPS"] // (2 if self.width > 256 else 1)
        row_tiles = -(-rows // tile_rows)
        tiles = g.groups * row_tiles
        self.lanes = max(n for n in range(1, 17) if tiles % n == 0)
        outers = tiles // self.lanes
        self.workers = MULTIPROCESSORS * resident // self.lanes
        self.scale = 1 / math.sqrt(query_width if not g.shared or g.value else g.shared // 2 + g.key)

        stride = max(1, max(-(-n // page_size) for n in lengths))
        self.plane = page_size * g.groups * self.row_width
        page_elements = self.plane + page_size * g.key * g.once
        used = [-(-n // page_size) for n in lengths]
        pages = sum(used) * ring + 1
        order = torch.randperm(pages, device="cuda", generator=generator, dtype=torch.int32)
        self.table = torch.full((ring, batch, stride), 2**30, dtype=torch.int32, device="cuda")
        at = 0
        for r in range(ring):
            for b in range(batch):
                self.table[r, b, : used[b]] = order[at : at + used[b]]
                at += used[b]
        self.cache = torch.empty(pages, page_elements, dtype=torch.bfloat16, device="cuda")
        for part in self.cache.split(max(1, 2**27 // page_elements)):
            part.normal_(generator=generator)
        if poison:  # whatever lies behind the end of a sequence must not matter
            self.cache[order[at:].long()] = float("nan")
            for b, n in enumerate(lengths):
                if n % page_size:
                    for r in range(ring):
                        page = self.cache[int(self.table[r, b, used[b] - 1])]
                        page[: self.plane].view(g.groups, page_size, self.row_width)[:, n % page_size :] = float("nan")
                        page[self.plane :].view(page_size, g.key * g.once)[n % page_size :] = float("nan")
        self.query = torch.randn(batch, query_tokens, g.heads, query_width, device="cuda", generator=generator).mul_(gain).bfloat16()
        self.output = torch.full((batch, query_tokens, g.heads, self.width), float("nan"), dtype=torch.bfloat16, device="cuda")
        self.lse = torch.full((batch, query_tokens, g.heads), float("nan"), device="cuda")
        slots = 2 * self.workers
        partial = torch.full((slots, self.lanes, tile_rows, self.width), float("nan"), device="cuda")
        partial_lse = torch.full((slots, self.lanes, tile_rows), float("nan"), device="cuda")
        self.device_lengths = torch.tensor(lengths, dtype=torch.int32, device="cuda")
        pieces = torch.zeros((3 * self.workers + batch * outers) * 8, dtype=torch.int32, device="cuda")
        splits = torch.zeros(self.workers * 4, dtype=torch.int32, device="cuda")
        arrivals = torch.full((self.workers * self.lanes,), 7, dtype=torch.int32, device="cuda")
        self.split_count = torch.zeros(1, dtype=torch.int32, device="cuda")
        self.memory = partial, partial_lse, pieces, splits, arrivals
        kernel("schedule.cu", "decode_schedule")(
            1, 256, self.device_lengths, batch, outers, self.workers, self.defines["BLOCK_N"], piece_cost, slack, pieces,
            splits, arrivals, self.lanes, self.split_count)

        self.threads = 128 + 128 * self.defines["WARPGROUPS"]
        self.main = kernel(name + ".cu", name, shared, **self.defines)
        box = min(page_size, self.defines["BLOCK_N"])
        base, w = self.cache.data_ptr(), self.row_width
        strides = (w * 2, 128, page_size * w * 2, page_elements * 2)
        rows_map = key_map = query_map = tensor_map(base, (64, 1), (128,), (64, 1))
        if page_size % 8 == 0:
            if w % 64:
                rows_map = tensor_map(base, (w, page_size, 1, g.groups, pages), strides, (64, box, 1, 1, 1))
            else:
                panels = w // 64 if box == self.defines["BLOCK_N"] else 1
                rows_map = tensor_map(base, (64, page_size, w // 64, g.groups, pages), strides, (64, box, panels, 1, 1))
            if g.once:
                key_map = tensor_map(
                    base + self.plane * 2, (g.key, page_size, pages), (g.key * 2, page_elements * 2), (64, box, 1))
        if self.defines["QUERY_TILES"] and query_width > 64:
            head_box = min(64, per_group)
            query_map = tensor_map(
                self.query.data_ptr(), (64, per_group, batch * query_tokens, g.groups, query_width // 64),
                (query_width * 2, g.heads * query_width * 2, per_group * query_width * 2, 128),
                (64, head_box, 64 // head_box, 1, (query_width - 1) // 64))
        self.maps = rows_map, key_map, query_map
        self.params = [
            Params(
                self.query.data_ptr(), base, self.table[r].data_ptr(), pieces.data_ptr(), splits.data_ptr(),
                arrivals.data_ptr(), self.output.data_ptr(), self.lse.data_ptr(), partial.data_ptr(), partial_lse.data_ptr(),
                page_elements, stride, query_tokens, g.heads, per_group, g.groups, self.lanes, row_tiles,
                self.scale * math.log2(math.e))
            for r in range(ring)]

    def run(self, i=0, overlap=False):
        self.main(self.workers * self.lanes, self.threads, *self.maps, self.params[i % self.ring], overlap=overlap)

    def naive(self):
        """Output and log-sum-exp of the checker kernel, float32."""
        g, output, lse = self.geometry, torch.full_like(self.output, float("nan"), dtype=torch.float32), torch.full_like(self.lse, float("nan"))
        kernel("naive_decode.cu", "naive_decode")(
            (g.heads, self.tokens, self.batch), 128, self.query, self.cache, self.table, self.table.shape[2],
            self.device_lengths, output, lse,
            NaiveGeometry(g.heads, g.groups, g.shared, g.key, g.value, g.once, self.page_size), self.tokens, self.scale)
        return output, lse

    def reference(self, b, ring=0):
        """Sequence b in float64: output [query token][head][width], lse."""
        g, n = self.geometry, self.lengths[b]
        pages = self.cache[self.table[ring, b, : -(-n // self.page_size)].long()]
        rows = pages[:, : self.plane].view(-1, g.groups, self.page_size, self.row_width)
        rows = rows.transpose(1, 2).reshape(-1, g.groups, self.row_width)[:n].double()
        q = self.query[b].double().view(self.tokens, g.groups, g.heads // g.groups, -1)
        s = torch.einsum("tghd,lgd->tghl", q[..., : g.shared], rows[..., : g.shared])
        if g.once:
            key = pages[:, self.plane :].reshape(-1, g.key)[:n].double()
            s = s + torch.einsum("tghd,ld->tghl", q[..., g.shared :], key)
        else:
            s = s + torch.einsum("tghd,lgd->tghl", q[..., g.shared :], rows[..., self.width :])
        s = s * self.scale
        seen = n - self.tokens + 1 + torch.arange(self.tokens, device="cuda")
        hidden = torch.arange(n, device="cuda")[None] >= seen[:, None]
        s = s.masked_fill(hidden[:, None, None], -math.inf)
        lse = torch.logsumexp(s, -1)
        weights = torch.exp(s - torch.where(lse.isfinite(), lse, torch.zeros_like(lse))[..., None])
        o = torch.einsum("tghl,lgd->tghd", weights, rows[..., : self.width])
        return o.reshape(self.tokens, g.heads, self.width), lse.reshape(self.tokens, g.heads)

    def errors(self, output, lse, sample=None):
        """Largest relative error over sequences; NaN if anything was left unwritten or a log-sum-exp is off."""
        worst = 0.0
        for b in range(self.batch) if sample is None else random.sample(range(self.batch), min(sample, self.batch)):
            o, exact = self.reference(b)
            norm = o.norm()
            error = float((output[b].double() - o).norm() / norm) if norm > 0 else float(output[b].double().abs().max())
            same = (lse[b] == exact) | ((lse[b].double() - exact).abs() < 1e-3 * (1 + exact.abs()))
            if error != error or not bool(same.all()):
                return math.nan
            worst = max(worst, error)
        return worst if bool(output.isfinite().all()) else math.nan

    def check(self, sample=None):
        """The relative error (see `errors`), and whether two more runs gave the same bits."""
        runs = []
        for _ in range(3):
            self.output.fill_(float("nan"))
            self.lse.fill_(float("nan"))
            self.run()
            torch.cuda.synchronize()
            runs.append((self.output.clone(), self.lse.clone()))
        same = all(torch.equal(runs[0][0], r[0]) and torch.equal(runs[0][1], r[1]) for r in runs[1:])
        return self.errors(*runs[0], sample), same

    def bytes(self):
        """KV (the key kept once read once); queries and output."""
        g = self.geometry
        kv = sum(self.lengths) * (g.groups * self.row_width + g.key * g.once) * 2
        return kv, self.query.numel() * 2 + self.output.numel() * 2

    def flops(self):
        g = self.geometry
        return 2 * g.heads * self.tokens * sum(self.lengths) * (2 * g.shared + g.key + g.value)


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
