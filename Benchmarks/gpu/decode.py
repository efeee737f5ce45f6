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
from settings import configure, query_panels

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
    _fields_ = [(n, ctypes.c_int) for n in ("query_heads", "groups", "shared_width", "key_width", "value_width", "key_once", "page_size", "fp8")]


_kernels = {}


def kernel(file, name, shared=0, **defines):
    key = (file, name, shared, tuple(sorted(defines.items())))
    if key not in _kernels:
        _kernels[key] = Kernel(nvrtc.compile_kernel(file, defines, cache=CACHE), name, shared)
    return _kernels[key]


class Decode:
    """One setting: geometry, lengths and a ring of caches; `run(i)` runs on cache i of the ring."""

    def __init__(self, geometry, query_tokens, lengths, page_size, ring=1, poison=False, gain=1.0, seed=0, piece_cost=2,
                 slack=5, fp8=False, any_scale=False, **changes):
        generator = torch.Generator("cuda").manual_seed(seed)
        g = self.geometry = geometry
        self.tokens, self.lengths, self.page_size, self.ring = query_tokens, lengths, page_size, ring
        per_group = g.heads // g.groups
        batch, rows = len(lengths), per_group * query_tokens
        self.batch = batch
        self.width, query_width = g.shared + g.value, g.shared + g.key
        self.row_width = self.width + (0 if g.once else g.key)
        self.fp8 = fp8
        name, self.defines, shared, resident = configure(g, rows, page_size, fp8, **changes)
        tile_rows = self.defines.get("ROWS", 64 * self.defines.get("WARPGROUPS", 1) // (1 if name == "decode" else 2))
        self.block = self.defines.get("BLOCK_N", 64)
        row_tiles = -(-rows // tile_rows)
        tiles = g.groups * row_tiles
        self.lanes = max(n for n in range(1, 17) if tiles % n == 0)
        outers = tiles // self.lanes
        self.workers = MULTIPROCESSORS * resident // self.lanes
        self.scale = 1 / math.sqrt(query_width if not g.shared or g.value else g.shared // 2 + g.key)

        stride = max(1, max(-(-n // page_size) for n in lengths))
        # Bytes of a page: rows, the key kept once, with FP8 the scales.
        rows_bytes = page_size * g.groups * self.row_width * (1 if fp8 else 2)
        self.parts = rows_bytes, page_size * g.key * g.once * 2, page_size * g.groups * 4 * fp8
        page_bytes = sum(self.parts)
        used = [-(-n // page_size) for n in lengths]
        pages = sum(used) * ring + 1
        order = torch.randperm(pages, device="cuda", generator=generator, dtype=torch.int32)
        self.table = torch.full((ring, batch, stride), 2**30, dtype=torch.int32, device="cuda")
        at = 0
        for r in range(ring):
            for b in range(batch):
                self.table[r, b, : used[b]] = order[at : at + used[b]]
                at += used[b]
        self.cache = torch.empty(pages, page_bytes, dtype=torch.uint8, device="cuda")
        for part in self.cache.split(max(1, 2**28 // page_bytes)):
            for target in self.views(part):
                values = torch.randn(target.shape, device="cuda", generator=generator)
                if target.dtype == torch.float32:  # scales: of any value, or powers of two as they are appended
                    values = torch.exp2(values.clamp(-2, 2) if any_scale else values.clamp(-2, 2).round())
                target.copy_(values)
        if poison:  # whatever lies behind the end of a sequence must not matter
            for target in self.views(self.cache):
                nan = torch.tensor(math.nan, device="cuda").to(target.dtype)
                token = target.dim() - (1 if target.dtype == torch.float32 else 2)
                as_bytes = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[target.element_size()]
                target, nan = target.view(as_bytes), nan.view(as_bytes)
                target[order[at:].long()] = nan
                for b, n in enumerate(lengths):
                    for r in range(ring if n % page_size else 0):
                        page = target[int(self.table[r, b, used[b] - 1])]
                        page.narrow(token - 1, n % page_size, page_size - n % page_size).fill_(nan)
        self.query = torch.randn(batch, query_tokens, g.heads, query_width, device="cuda", generator=generator).mul_(gain).bfloat16()
        self.output = torch.full((batch, query_tokens, g.heads, self.width), float("nan"), dtype=torch.bfloat16, device="cuda")
        self.lse = torch.full((batch, query_tokens, g.heads), float("nan"), device="cuda")
        slots = 2 * self.workers
        partial = torch.full((slots, self.lanes, tile_rows, -(-self.width // 32) * 32), float("nan"), dtype=torch.bfloat16, device="cuda")
        partial_lse = torch.full((slots, self.lanes, tile_rows), float("nan"), device="cuda")
        self.device_lengths = torch.tensor(lengths, dtype=torch.int32, device="cuda")
        pieces = torch.zeros((3 * self.workers + batch * outers) * 8, dtype=torch.int32, device="cuda")
        splits = torch.zeros(self.workers * 4, dtype=torch.int32, device="cuda")
        arrivals = torch.full((slots * self.lanes,), 7, dtype=torch.int32, device="cuda")
        self.split_count = torch.zeros(1, dtype=torch.int32, device="cuda")
        self.memory = partial, partial_lse, pieces, splits, arrivals
        self.schedule_costs = outers, piece_cost, slack
        self.schedule()

        self.threads = 128 + 128 * self.defines.get("WARPGROUPS", 2)
        self.main = kernel(name + ".cu", name, shared, **self.defines)
        box = min(page_size, self.block)
        base, w = self.cache.data_ptr(), self.row_width
        strides = (w * 2, 128, page_size * w * 2, page_bytes)
        rows_map = key_map = query_map = tensor_map(base, (64, 1), (128,), (64, 1))
        if page_size % 8 == 0:
            bits, strides = (8, (w, 64, page_size * w, page_bytes)) if fp8 else (16, strides)
            if name == "decode_fp8_tall":
                rows_map = tensor_map(base, (w, page_size, 1, g.groups, pages), (w, w, *strides[2:]), (w, box, 1, 1, 1), bits, 0)
            elif w % 64:
                rows_map = tensor_map(base, (w, page_size, 1, g.groups, pages), strides, (64, box, 1, 1, 1), bits)
            else:
                panels = w // 64 // (2 if name == "decode_wide" else 1) if box == self.block else 1
                rows_map = tensor_map(base, (64, page_size, w // 64, g.groups, pages), strides, (64, box, panels, 1, 1), bits)
            if g.once:
                key_map = tensor_map(
                    base + rows_bytes, (g.key, page_size, pages), (g.key * 2, page_bytes), (64, box, 1))
        if self.defines.get("QUERY_TILES") and query_width > 64:
            head_box = min(64, per_group)
            query_map = tensor_map(
                self.query.data_ptr(), (64, per_group, batch * query_tokens, g.groups, query_width // 64),
                (query_width * 2, g.heads * query_width * 2, per_group * query_width * 2, 128),
                (64, head_box, 64 // head_box, 1, query_panels(query_width + (fp8 and query_width % 64 == 0))))
        self.maps = rows_map, key_map, query_map
        self.params = [
            Params(
                self.query.data_ptr(), base, self.table[r].data_ptr(), pieces.data_ptr(), splits.data_ptr(),
                arrivals.data_ptr(), self.output.data_ptr(), self.lse.data_ptr(), partial.data_ptr(), partial_lse.data_ptr(),
                page_bytes // 2, stride, query_tokens, g.heads, per_group, g.groups, self.lanes, row_tiles,
                self.scale * math.log2(math.e))
            for r in range(ring)]

    def views(self, pages):
        """Rows [page][group][token][width], the key kept once [page][token][width], scales [page][group][token]."""
        g, (rows, key, _) = self.geometry, self.parts
        kinds = [torch.float8_e4m3fn if self.fp8 else torch.bfloat16, torch.bfloat16, torch.float32]
        shapes = [(g.groups, self.page_size, self.row_width), (self.page_size, g.key), (g.groups, self.page_size)]
        cuts = [pages[:, :rows], pages[:, rows : rows + key], pages[:, rows + key :]]
        return [
            cut.view(kind).unflatten(1, shape) for cut, kind, shape in zip(cuts, kinds, shapes) if cut.shape[1]]

    def schedule(self):
        """Cuts the sequences of `device_lengths` into pieces."""
        outers, piece_cost, slack = self.schedule_costs
        kernel("schedule.cu", "decode_schedule")(
            1, 256, self.device_lengths, self.batch, outers, self.workers, self.block, piece_cost, slack, *self.memory[2:],
            self.lanes, self.split_count)

    def run(self, i=0, overlap=False):
        self.main(self.workers * self.lanes, self.threads, *self.maps, self.params[i % self.ring], overlap=overlap)

    def naive(self):
        """Output and log-sum-exp of the checker kernel, float32."""
        g, output, lse = self.geometry, torch.full_like(self.output, float("nan"), dtype=torch.float32), torch.full_like(self.lse, float("nan"))
        kernel("naive_decode.cu", "naive_decode")(
            (g.heads, self.tokens, self.batch), 128, self.query, self.cache, self.table, self.table.shape[2],
            self.device_lengths, output, lse,
            NaiveGeometry(g.heads, g.groups, g.shared, g.key, g.value, g.once, self.page_size, self.fp8), self.tokens, self.scale)
        return output, lse

    def reference(self, b, ring=0):
        """Sequence b in float64: output [query token][head][width], lse."""
        g, n = self.geometry, self.lengths[b]
        views = self.views(self.cache[self.table[ring, b, : -(-n // self.page_size)].long()])
        rows = views[0].to(torch.float32).double()
        if self.fp8:
            rows = rows * views[2].double()[..., None]
        rows = rows.transpose(1, 2).reshape(-1, g.groups, self.row_width)[:n]
        q = self.query[b].double().view(self.tokens, g.groups, g.heads // g.groups, -1)
        s = torch.einsum("tghd,lgd->tghl", q[..., : g.shared], rows[..., : g.shared])
        if g.once:
            key = views[1].reshape(-1, g.key)[:n].double()
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
        kv = sum(self.lengths) * sum(self.parts) // self.page_size
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
