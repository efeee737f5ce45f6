"""The layers of one rank on the GPU: weights, a decode step, prefill, checks against float64, timing. For serving_rank.py.

Products of all tokens with one matrix are PyTorch's (FP8 x FP8, activations with a fixed scale: norms leave values about 1);
absorbed products, router and head are bf16. In a decode step the experts are serving_rank.cu's, in prefill PyTorch's grouped
FP8 product of the same weights. Attention, schedule and append are Apus's kernels.
"""

import ctypes
import types

import torch

import driver
import nvrtc
import serving_rank_settings as s
from decode import CACHE, MULTIPROCESSORS, Decode, kernel
from gpu_check import AppendParams
from training_settings import Plan, Shape, View

SOURCE = str(s.HERE / "serving_rank.cu")
SCALE = (s.NOPE + s.ROPE) ** -0.5
ALL_PICKS = s.PICKS + s.SHARED_EXPERTS
ATTENDED = 1 / 16  # scale of the codes of attention's output, an average over many tokens; the value products give it 16 times
NULL = ctypes.c_void_p(0)
E4M3, LONGEST = torch.float8_e4m3fn, max(prompt + output for prompt, output, _ in s.SETTINGS)


def ones(*shape):
    return torch.ones(shape, device="cuda")


def empty(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, device="cuda", dtype=dtype)


def random(*shape, scale=1.0):
    return torch.randn(shape, device="cuda").mul_(scale).bfloat16()


class Matrix:
    """[outputs][inputs] in e4m3 with a scale."""

    def __init__(self, codes, scale, input_scale=1.0):
        self.codes, self.scale, self.input_scale = codes, scale, ones() * input_scale

    @classmethod
    def random(cls, outputs, inputs, input_scale=1.0):
        """Standard normal, with the scale that keeps products about 1."""
        return cls(torch.randn(outputs, inputs, device="cuda").to(E4M3), ones() * inputs**-0.5, input_scale)

    def __call__(self, codes):
        return torch._scaled_mm(
            codes, self.codes.t(), scale_a=self.input_scale, scale_b=self.scale, out_dtype=torch.bfloat16,
            use_fast_accum=True)

    def exact(self, codes):
        return codes.double() @ self.codes.double().T * float(self.scale) * float(self.input_scale)


class Experts:
    """What both variants have: embedding, head, and in each layer the feed-forward's weights. Routed experts, then shared."""

    def __init__(self):
        torch.manual_seed(0)
        self.embedding, self.head = random(s.VOCABULARY, s.MODEL), random(s.VOCABULARY, s.MODEL, scale=s.MODEL**-0.5)
        self.dense = Matrix.random(2 * s.DENSE_WIDTH, s.MODEL), Matrix.random(s.MODEL, s.DENSE_WIDTH)
        count = s.EXPERTS + s.SHARED_EXPERTS
        self.layers = [None]
        for _ in range(s.LAYERS - s.DENSE_LAYERS):
            layer = types.SimpleNamespace(
                gate_up=empty(count, 2 * s.WIDTH, s.MODEL, dtype=E4M3), down=empty(count, s.MODEL, s.WIDTH, dtype=E4M3),
                router=random(s.EXPERTS, s.MODEL, scale=s.MODEL**-0.5))
            layer.scales = []
            for part in (layer.gate_up, layer.down):
                part.copy_(torch.randn(part.shape, device="cuda"))
                layer.scales.append((0.5 + torch.rand(count, device="cuda")) * part.shape[2] ** -0.5)
            # Side by side the shared experts are one; prefill takes them so, from a second copy of the down weights.
            for scales in layer.scales:
                scales[s.EXPERTS :] = scales[s.EXPERTS]
            layer.shared = (
                Matrix(layer.gate_up[s.EXPERTS :].view(-1, s.MODEL), layer.scales[0][s.EXPERTS].clone()),
                Matrix(torch.cat(list(layer.down[s.EXPERTS :]), 1), layer.scales[1][s.EXPERTS].clone()))
            self.layers.append(layer)


class Rank:
    """A variant's attention weights beside the experts, the kernels, and angles of positions."""

    def __init__(self, variant, experts):
        torch.manual_seed(1)
        self.variant, self.experts, self.latent = variant, experts, s.LATENTS[variant]
        self.row = s.QUERY_LATENT + self.latent + s.ROPE
        self.norm, self.query_norm, self.latent_norm = ones(s.MODEL), ones(s.QUERY_LATENT), ones(self.latent)
        self.layers = []
        for _ in range(s.LAYERS):
            key = random(s.HEADS, s.NOPE, self.latent, scale=self.latent**-0.5)
            value = random(s.HEADS, self.latent, s.VALUE, scale=self.latent**-0.5 / ATTENDED)
            self.layers.append(types.SimpleNamespace(
                first=Matrix.random(self.row, s.MODEL), query=Matrix.random(s.HEADS * (s.NOPE + s.ROPE), s.QUERY_LATENT),
                key=key, value=value,
                key_value=torch.cat([key.transpose(1, 2), value], 2).transpose(0, 1).reshape(self.latent, -1).contiguous(),
                output=Matrix.random(s.MODEL, s.HEADS * s.VALUE, ATTENDED)))
        definitions = s.definitions(variant)
        self.kernels = types.SimpleNamespace(**{
            name: kernel(SOURCE, name, **definitions)
            for name in (
                "choose", "route", "experts_gate_up", "experts_down", "swiglu_codes", "add_norm", "split_norm", "rotate_queries")})
        self.append_kernel = kernel("append.cu", "append", **s.append_definitions(variant))
        self.frequencies = 10000.0 ** (-2 * torch.arange(s.ROPE // 2, device="cuda").double() / s.ROPE)
        angles = torch.arange(LONGEST + 1, device="cuda")[:, None] * self.frequencies
        self.angles = torch.stack([angles.cos(), angles.sin()], 2).float()

    def pages(self, lengths, query_tokens, layers):
        """Decode attention over `layers` random caches that hold `lengths` tokens, with a page table each."""
        found = Decode(s.geometry(self.variant), query_tokens, lengths, s.PAGE, ring=layers)
        found.scale = SCALE
        for parameters in found.params:
            parameters.scale_log2 = SCALE * 1.4426950408889634
        return found

    def add_norm(self, b, other=None, y=None, weights=None, places=None, addends=0):
        rows = (x if x is not None else NULL for x in (other, y, weights, places))
        self.kernels.add_norm(b.tokens, s.MODEL // 8, b.residual, *rows, addends, self.norm, s.EPSILON, b.x, b.codes)

    def swiglu(self, rows, width):
        """Codes [...][width] of rows [...][gate | up]."""
        codes = empty(rows.numel() // (2 * width), width, dtype=E4M3)
        self.kernels.swiglu_codes(-(-codes.numel() // 2048), 256, rows, codes, len(codes), width)
        return codes

    def project(self, layer, b):
        """Query latent and latents of b.codes; queries [token][head][NOPE | ROPE], not yet rotated."""
        b.first = layer.first(b.codes)
        self.kernels.split_norm(
            b.tokens, s.QUERY_LATENT // 8, b.first, self.query_norm, s.EPSILON, b.query_codes, b.latents, b.key)
        b.queries = layer.query(b.query_codes)

    def append(self, pages, index, b, new_tokens):
        self.append_kernel(
            (2, new_tokens, pages.batch), 128, AppendParams(
                b.latents.data_ptr(), b.key.data_ptr(), self.latent_norm.data_ptr(), self.frequencies.data_ptr(),
                pages.cache.data_ptr(), pages.table[index].data_ptr(), pages.device_lengths.data_ptr(), sum(pages.parts),
                pages.table.shape[2], new_tokens, 1, s.EPSILON, 1.0))

    def output(self, layer, b):
        b.value_codes.copy_(b.values)
        b.attended = layer.output(b.value_codes)
        self.add_norm(b, b.attended)

    def dense(self, b):
        self.add_norm(b, self.experts.dense[1](self.swiglu(self.experts.dense[0](b.codes), s.DENSE_WIDTH)))


def buffers(rank, tokens):
    """Activations of so many tokens; FP8 products want multiples of 16, so there are rows that nobody reads."""
    rows = -(-tokens // 16) * 16
    codes = lambda width: torch.zeros(rows, width, device="cuda").to(E4M3)
    return types.SimpleNamespace(
        tokens=tokens, residual=random(rows, s.MODEL), x=random(rows, s.MODEL), codes=codes(s.MODEL),
        query_codes=codes(s.QUERY_LATENT), latents=empty(rows, rank.latent), key=empty(rows, s.ROPE),
        values=torch.zeros(rows, s.HEADS * s.VALUE, device="cuda").bfloat16(), value_codes=codes(s.HEADS * s.VALUE))


class Step:
    """A decode step of sequences for which `lengths` tokens are reserved, the first `prompt` of them a prompt."""

    def __init__(self, rank, lengths, query_tokens, layers=s.LAYERS, prompt=0):
        self.rank, self.layers, self.query_tokens, self.prompt = rank, layers, query_tokens, prompt
        self.pages = rank.pages(lengths, query_tokens, layers)
        self.full = max(lengths)
        tokens = len(lengths) * query_tokens
        b = self.b = buffers(rank, tokens)
        b.chosen = torch.randint(s.VOCABULARY, (tokens,), device="cuda")
        b.chunks, b.pairs = empty(s.chunks(tokens), 4, dtype=torch.int32), empty(tokens * ALL_PICKS, dtype=torch.int32)
        b.weights = empty(tokens * ALL_PICKS, dtype=torch.float32)
        b.hidden, b.y = empty(tokens * ALL_PICKS, s.WIDTH), empty(tokens * ALL_PICKS, s.MODEL)
        self.touched = torch.zeros(layers, dtype=torch.int32, device="cuda")

    def attention(self, index):
        rank, b, pages, t = self.rank, self.b, self.pages, self.b.tokens
        layer, latent, width = rank.layers[index], rank.latent, rank.latent + s.ROPE
        rank.project(layer, b)
        query = pages.query.view(t, s.HEADS, width)
        torch.bmm(
            b.queries[:t].view(t, s.HEADS, -1)[:, :, : s.NOPE].transpose(0, 1), layer.key,
            out=query[:, :, :latent].transpose(0, 1))
        rank.kernels.rotate_queries(
            t, 256, b.queries, rank.angles, pages.device_lengths, self.query_tokens,
            ctypes.c_void_p(query.data_ptr() + 2 * latent), s.HEADS * width, width)
        rank.append(pages, index, b, self.query_tokens)
        pages.run(index)
        torch.bmm(
            pages.output.view(t, s.HEADS, latent).transpose(0, 1), layer.value,
            out=b.values[:t].view(t, s.HEADS, s.VALUE).transpose(0, 1))
        rank.output(layer, b)

    def feed_forward(self, index):
        rank, b, t = self.rank, self.b, self.b.tokens
        layer, k = rank.experts.layers[index], rank.kernels
        if layer is None:
            return rank.dense(b)
        b.logits = torch.mm(b.x, layer.router.t())
        k.route(
            1, 1024, b.logits, t, s.ROUTING_FACTOR, b.chunks, len(b.chunks), b.pairs, b.weights, self.touched[index:])
        k.experts_gate_up(
            (s.WIDTH // 16, len(b.chunks), 1), 256, b.chunks, b.x, layer.gate_up, layer.scales[0], b.pairs, b.hidden)
        k.experts_down((s.MODEL // 256, len(b.chunks), 1), 256, b.chunks, b.hidden, layer.down, layer.scales[1], b.pairs, b.y)
        rank.add_norm(b, y=b.y, weights=b.weights, addends=ALL_PICKS)

    def run(self):
        """A step: every sequence's next tokens in, the most likely ones out; what is full begins again after its prompt."""
        b, pages = self.b, self.pages
        pages.schedule()
        torch.index_select(self.rank.experts.embedding, 0, b.chosen, out=b.residual[: b.tokens])
        self.rank.add_norm(b)
        for index in range(self.layers):
            self.attention(index)
            self.feed_forward(index)
        torch.argmax(torch.mm(b.x, self.rank.experts.head.t())[: b.tokens], 1, out=b.chosen)
        lengths = pages.device_lengths.add_(self.query_tokens)
        lengths.sub_((lengths > self.full) * (self.full - self.prompt))


def captured(run):
    """`run` as a CUDA graph, after a first call that loads what it needs."""
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def time_steps(rank, prompt, output, running, query_tokens, steps):
    """Seconds of a step, the mean over `steps` in the middle of the sequences' lives, which are spread evenly."""
    step = Step(rank, [prompt + output] * running, query_tokens, prompt=prompt)
    warm = 12
    for i in range(running):
        done = int((i + 0.5) * output / running - query_tokens * (warm + steps / 2)) % output
        step.pages.device_lengths[i] = prompt + max(query_tokens, done)
    graph = captured(step.run)
    for _ in range(warm - 2):
        graph.replay()
    step.touched.zero_()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(5)]
    marks[0].record()
    for mark in marks[1:]:
        for _ in range(steps // 4):
            graph.replay()
        mark.record()
    torch.cuda.synchronize()
    if not bool(step.b.residual[: step.b.tokens].isfinite().all()):
        raise SystemExit("a step left numbers that are not finite")
    quarters = [a.elapsed_time(b) * 1e-3 / (steps // 4) for a, b in zip(marks, marks[1:])]
    touched = float(step.touched[1:].double().mean()) / (steps // 4 * 4)
    del graph, step
    torch.cuda.empty_cache()
    return dict(step=sum(quarters) / 4, quarters=quarters, touched=touched)


class Prefill:
    """A chunk of `new` tokens of one sequence after `cached` ones: explicit keys and values of all of them."""

    def __init__(self, rank, new, cached, layers):
        self.rank, self.new, self.cached, self.layers = rank, new, cached, layers
        self.pages = rank.pages([cached + new], 1, layers)
        self.b, self.unit = buffers(rank, new), ones(new * s.PICKS)
        self.plan = plan = Plan(Shape(s.HEADS, s.HEADS, s.NOPE, s.ROPE, s.VALUE), [0, cached + new], SCALE)
        plan.row_items = plan.row_items[plan.row_items[:, 2] >= cached]
        self.items = torch.from_numpy(plan.row_items).cuda()
        self.counters, self.lse = torch.zeros(2, dtype=torch.int32, device="cuda"), empty(new, s.HEADS, dtype=torch.float32)
        cubin = nvrtc.compile_kernel("attention_forward.cu", plan.forward_definitions, CACHE, folder=nvrtc.TENSOR_KERNELS)
        self.attention_kernel = driver.Kernel(cubin, "attention_forward", plan.forward_shared)

    def held(self, index):
        """Latents and rotated keys of all tokens, from the pages."""
        whole, pages = self.cached + self.new, self.pages
        rows, keys = pages.views(pages.cache)
        used = pages.table[index, 0, : -(-whole // s.PAGE)]
        return rows[used].reshape(-1, self.rank.latent)[:whole], keys[used].reshape(-1, s.ROPE)[:whole]

    def attention(self, index):
        rank, b, pages = self.rank, self.b, self.pages
        layer, width = rank.layers[index], s.NOPE + s.ROPE
        rank.project(layer, b)
        rank.kernels.rotate_queries(
            self.new, 256, b.queries, rank.angles, pages.device_lengths, self.new,
            ctypes.c_void_p(b.queries.data_ptr() + 2 * s.NOPE), s.HEADS * width, width)
        rank.append(pages, index, b, self.new)
        latents, keys = self.held(index)
        pair, both = s.NOPE + s.VALUE, torch.mm(latents, layer.key_value)
        # Items count rows from the sequence's beginning, of which only the new ones are there and read.
        before = lambda x, row_bytes: x.data_ptr() - self.cached * row_bytes
        views = (
            View(before(b.queries, 2 * s.HEADS * width), s.HEADS, width, s.HEADS * width, width),
            View(both.data_ptr(), s.HEADS, s.NOPE, s.HEADS * pair, pair), View(keys.data_ptr(), 1, s.ROPE, s.ROPE, s.ROPE),
            View(both.data_ptr() + 2 * s.NOPE, s.HEADS, s.VALUE, s.HEADS * pair, pair))
        self.plan.forward(
            driver, self.attention_kernel, views, self.items.data_ptr(), self.counters.data_ptr(),
            before(b.values, 2 * s.HEADS * s.VALUE), before(self.lse, 4 * s.HEADS), MULTIPROCESSORS)
        rank.output(layer, b)

    def feed_forward(self, index):
        rank, b, new = self.rank, self.b, self.new
        layer = rank.experts.layers[index]
        if layer is None:
            return rank.dense(b)
        b.logits = torch.mm(b.x, layer.router.t())
        b.experts, b.weights = empty(new * s.PICKS, dtype=torch.int16), empty(new, s.PICKS, dtype=torch.float32)
        rank.kernels.choose(-(-new // 8), 256, b.logits, new, s.ROUTING_FACTOR, b.experts, b.weights)
        ordered, order = b.experts.sort()
        ends = torch.searchsorted(ordered, torch.arange(s.EXPERTS, device="cuda", dtype=torch.int16), right=True).int()
        b.places = torch.empty_like(order, dtype=torch.int32)
        b.places[order] = torch.arange(len(order), device="cuda", dtype=torch.int32)
        x = b.codes[:new].view(torch.int64)[order // s.PICKS].view(E4M3)
        product = lambda x, w, scales: torch._scaled_grouped_mm(
            x, w[: s.EXPERTS].transpose(1, 2), self.unit, scales[: s.EXPERTS, None].expand(-1, w.shape[1]).contiguous(),
            offs=ends, out_dtype=torch.bfloat16, use_fast_accum=True)
        b.y = product(rank.swiglu(product(x, layer.gate_up, layer.scales[0]), s.WIDTH), layer.down, layer.scales[1])
        hidden = rank.swiglu(layer.shared[0](b.codes), s.WIDTH).view(-1, s.SHARED_EXPERTS * s.WIDTH)
        b.shared = layer.shared[1](hidden)
        rank.add_norm(b, b.shared, b.y, b.weights, b.places, s.PICKS)

    def run(self, first=0):
        self.rank.add_norm(self.b)
        for index in range(first, self.layers):
            self.attention(index)
            self.feed_forward(index)


def time_prefill(rank, cached):
    """Seconds of a chunk of all layers after `cached` tokens; after many, of six layers times ten."""
    layers, first = (s.LAYERS, 0) if cached == 0 else (7, 1)
    chunk, times = Prefill(rank, s.PREFILL_CHUNK, cached, layers), []
    graph = captured(lambda: chunk.run(first))
    for _ in range(3):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3 * s.LAYERS / (layers - first))
    del graph, chunk
    torch.cuda.empty_cache()
    return min(times[1:])


# ---- checks ----

def route(logits):
    """Experts [token][pick] and their weights; of equal logits the first."""
    order = logits.double() - 1e-9 * torch.arange(s.EXPERTS, device="cuda")
    groups = order.view(-1, s.EXPERT_GROUPS, s.EXPERTS // s.EXPERT_GROUPS)
    kept = torch.zeros_like(groups[:, :, 0], dtype=torch.bool).scatter_(1, groups.amax(2).topk(s.GROUPS_KEPT, 1).indices, True)
    experts = groups.masked_fill(~kept[:, :, None], -torch.inf).flatten(1).topk(s.PICKS, 1).indices
    return experts, s.ROUTING_FACTOR * logits.softmax(1).gather(1, experts).float()


def relative(found, exact):
    return float((found.double() - exact).norm() / exact.norm())


def rotated(rank, x, positions):
    angles = positions.double()[:, None] * rank.frequencies
    cosine, sine = angles.cos(), angles.sin()
    if x.dim() == 3:
        cosine, sine = cosine[:, None], sine[:, None]
    first, second = x.double().chunk(2, -1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def normed(x):
    return x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + s.EPSILON)


def attended(rank, layer, query_codes, positions, latents, keys):
    """Values [token][head x VALUE] in float64 by explicit keys and values, from queries' codes and what the cache holds."""
    queries = layer.query.exact(query_codes).view(len(positions), s.HEADS, -1)
    content, rope = queries[..., : s.NOPE], rotated(rank, queries[..., s.NOPE :], positions)
    latents, keys = latents.double(), keys.double()
    scores = torch.einsum("thd,lhd->thl", content, torch.einsum("lc,hdc->lhd", latents, layer.key.double()))
    scores = (scores + torch.einsum("thd,ld->thl", rope, keys)) * SCALE
    scores = scores.masked_fill(torch.arange(len(latents), device="cuda") > positions[:, None, None], -torch.inf)
    values = torch.einsum("lc,hcd->lhd", latents, layer.value.double())
    return torch.einsum("thl,lhd->thd", scores.softmax(2), values).flatten(1)


def experts_exact(layer, x, experts, weights):
    """The feed-forward of a few tokens in float64."""
    result = torch.zeros(len(x), s.MODEL, device="cuda", dtype=torch.float64)
    shared = range(s.EXPERTS, s.EXPERTS + s.SHARED_EXPERTS)
    for t, row in enumerate(x.double()):
        for expert, weight in list(zip(experts[t].tolist(), weights[t].tolist())) + [(e, 1.0) for e in shared]:
            gate, up = (layer.gate_up[expert].double() @ row * layer.scales[0][expert].double()).chunk(2)
            hidden = torch.nn.functional.silu(gate) * up
            result[t] += weight * (layer.down[expert].double() @ hidden) * layer.scales[1][expert].double()
    return result


def verdict(errors, limits):
    """`errors` as text; ends the run where one is above its limit."""
    if any(not errors[name] < limits[name] for name in limits):
        raise SystemExit(f"wrong: {errors}, limits {limits}")
    return ", ".join(f"{name} {error:.1e}" for name, error in errors.items())


# Rounding to e4m3 leaves 2.6e-2 of a vector, to bf16 1.7e-3.
LIMITS = {
    "first product": 1e-2, "query latent": 4e-2, "appended": 5e-3, "attention": 1e-2, "output": 1e-2, "sum": 1e-2, "norm": 1e-2,
    "weights": 1e-2, "experts": 1e-2, "residual": 1e-2}


def check_decode(rank, lengths, query_tokens, index=1):
    """Relative errors of a layer's parts against float64, each from what the part before it left."""
    step = Step(rank, lengths, query_tokens, layers=index + 1)
    b, pages, layer, t = step.b, step.pages, rank.layers[index], step.b.tokens
    rank.add_norm(b)
    before = b.residual[:t].double()
    codes = b.codes.clone()
    step.attention(index)
    middle, x = b.residual[:t].double(), b.x[:t].clone()
    step.feed_forward(index)
    torch.cuda.synchronize()
    wanted, kept, values = [], [], []
    rows, keys = pages.views(pages.cache)
    for i, length in enumerate(lengths):
        own, used = slice(i * query_tokens, (i + 1) * query_tokens), pages.table[index, i, : -(-length // s.PAGE)]
        positions = torch.arange(length - query_tokens, length, device="cuda")
        latents, rope = rows[used].reshape(-1, rank.latent)[:length], keys[used].reshape(-1, s.ROPE)[:length]
        first = b.first[own]
        wanted.append(torch.cat([normed(first[:, s.QUERY_LATENT : -s.ROPE]), rotated(rank, first[:, -s.ROPE :], positions)], 1))
        kept.append(torch.cat([latents, rope], 1)[-query_tokens:])
        values.append(attended(rank, layer, b.query_codes[own], positions, latents, rope))
    weights = b.weights.view(t, ALL_PICKS)
    experts, exact_weights = route(b.logits[:t].float())
    moe = experts_exact(rank.experts.layers[index], x, experts, exact_weights)
    found = (b.y.view(t, ALL_PICKS, -1).double() * weights[:, :, None]).sum(1)
    attention_output = layer.output.exact(b.value_codes)[:t]
    return verdict({
        "first product": relative(b.first, layer.first.exact(codes)),
        "query latent": relative(b.query_codes[:t].to(torch.float32), normed(b.first[:t, : s.QUERY_LATENT])),
        "appended": relative(torch.cat(kept), torch.cat(wanted)), "attention": relative(b.values[:t], torch.cat(values)),
        "output": relative(b.attended[:t], attention_output), "sum": relative(middle, before + attention_output), "norm": relative(x, normed(middle)),
        "weights": relative(weights[:, : s.PICKS], exact_weights.double()), "experts": relative(found, moe),
        "residual": relative(b.residual[:t], middle + moe)}, LIMITS)


def check_prefill(rank, new, cached, index=1):
    """The same of a chunk's last tokens; hidden activations of the experts are rounded to e4m3."""
    chunk = Prefill(rank, new, cached, index + 1)
    b, layer, last = chunk.b, rank.layers[index], slice(new - 4, new)
    rank.add_norm(b)
    chunk.attention(index)
    x = b.x[last].clone()
    codes = b.codes[last].to(torch.float32)
    chunk.feed_forward(index)
    torch.cuda.synchronize()
    latents, keys = chunk.held(index)
    positions = torch.arange(cached + new - 4, cached + new, device="cuda")
    weights = b.weights[last].double()
    found = (b.y[b.places.view(new, s.PICKS)[last].long()].double() * weights[:, :, None]).sum(1) + b.shared[last].double()
    experts, exact_weights = route(b.logits[last].float())
    moe = experts_exact(rank.experts.layers[index], codes, experts, exact_weights)
    return verdict({
        "attention": relative(b.values[last], attended(rank, layer, b.query_codes[last], positions, latents, keys)),
        "codes": relative(codes, x.double()), "experts": relative(found, moe)},
        {"attention": 1e-2, "codes": 4e-2, "experts": 5e-2})
