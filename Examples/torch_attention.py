"""Appending and decode attention through libapus_attention.so on PyTorch tensors, checked against float64.

usage: torch_attention.py path/to/libapus_attention.so
"""

import ctypes
import sys

import torch


class Attention:
    """A plan for one geometry; see apus_attention.h."""

    def __init__(self, library, geometry, page_size, query_tokens, maximum_batch, scale, fp8=False):
        self.library, self.plan = library, ctypes.c_void_p()
        self.message = ctypes.create_string_buffer(512)
        sizes = [ctypes.c_int32(n) for n in (*geometry, page_size, fp8)]
        library.apus_attention_page_bytes.restype = ctypes.c_int64
        self.page_bytes = self.check(library.apus_attention_page_bytes(*sizes, self.message, ctypes.c_size_t(512)))
        self.check(
            library.apus_attention_create(
                *sizes, ctypes.c_int32(query_tokens), ctypes.c_int32(maximum_batch), ctypes.c_float(scale),
                ctypes.c_int32(torch.cuda.current_device()), ctypes.byref(self.plan), self.message, ctypes.c_size_t(512)))

    def check(self, code):
        if code < 0:
            raise RuntimeError(self.message.value.decode())
        return code

    def end(self):
        """The last arguments of every call."""
        return ctypes.c_void_p(torch.cuda.current_stream().cuda_stream), self.message, ctypes.c_size_t(512)

    def schedule(self, lengths):
        self.check(
            self.library.apus_attention_schedule(
                self.plan, ctypes.c_void_p(lengths.data_ptr()), ctypes.c_int32(lengths.numel()), *self.end()))

    def run(self, query, cache, page_table, output, log_sum_exp):
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (query, cache, page_table, output, log_sum_exp)]
        self.check(
            self.library.apus_attention_run(
                self.plan, pointers[0], pointers[1], ctypes.c_int64(cache.numel() * cache.element_size() // self.page_bytes),
                pointers[2], ctypes.c_int32(page_table.shape[1]), pointers[3], pointers[4], *self.end()))

    def close(self):
        self.library.apus_attention_destroy(self.plan)


class Append:
    """A plan for appending to caches of one geometry, without RMSNorm; see apus_attention.h."""

    def __init__(self, library, geometry, page_size, tokens, rotary_width, theta, fp8=False):
        self.library, self.plan = library, ctypes.c_void_p()
        self.message = ctypes.create_string_buffer(512)
        sizes = [ctypes.c_int32(n) for n in (*geometry, page_size, fp8, tokens, rotary_width, 0)]
        self.check(
            library.apus_append_create(
                *sizes, ctypes.c_double(theta), None, ctypes.c_double(1), ctypes.c_int32(0),
                ctypes.c_int32(torch.cuda.current_device()), ctypes.byref(self.plan), self.message, ctypes.c_size_t(512)))

    check, end = Attention.check, Attention.end

    def run(self, rows, key, cache, page_table, lengths):
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (rows, key, cache, page_table, lengths)]
        self.check(
            self.library.apus_append_run(
                self.plan, *pointers[:4], ctypes.c_int32(page_table.shape[1]), pointers[4],
                ctypes.c_int32(lengths.numel()), None, ctypes.c_float(0), *self.end()))

    def close(self):
        self.library.apus_append_destroy(self.plan)


def rotated(key, position, theta):
    """Float64: elements i and i + width / 2 turned by position x theta^(-2 i / width)."""
    angle = position * theta ** (-torch.arange(0, key.shape[-1], 2, device=key.device).double() / key.shape[-1])
    x, y = key.double().chunk(2, -1)
    return torch.cat([x * angle.cos() - y * angle.sin(), y * angle.cos() + x * angle.sin()], -1)


def main():
    library = ctypes.CDLL(sys.argv[1])
    torch.zeros(1, device="cuda")  # PyTorch's primary context, which the library shares
    heads, groups, latent, rope, page, batch = 32, 2, 256, 64, 64, 3
    lengths = torch.tensor([1000, 1, 77], dtype=torch.int32, device="cuda")
    scale = (latent // 2 + rope) ** -0.5
    attention = Attention(library, (heads, groups, latent, rope, 1, 0), page, 1, batch, scale)
    width = groups * latent + rope
    stride = -(-int(lengths.max()) // page)
    pages = batch * stride
    cache = torch.randn(pages, page * width, device="cuda").bfloat16()
    assert cache[0].numel() * 2 == attention.page_bytes
    table = torch.randperm(pages, device="cuda").int().view(batch, stride)
    query = torch.randn(batch, 1, heads, latent + rope, device="cuda").bfloat16()
    output = torch.empty(batch, 1, heads, latent, dtype=torch.bfloat16, device="cuda")
    log_sum_exp = torch.empty(batch, 1, heads, device="cuda")
    append = Append(library, (heads, groups, latent, rope, 1, 0), page, 1, rope, 10000.0)
    new_rows = torch.randn(batch, 1, groups, latent, device="cuda").bfloat16()
    new_keys = torch.randn(batch, 1, rope, device="cuda").bfloat16()
    append.run(new_rows, new_keys, cache, table, lengths)
    attention.schedule(lengths)
    attention.run(query, cache, table, output, log_sum_exp)
    for b, n in enumerate(lengths.tolist()):
        kept = cache[table[b].long()].double()
        rows = kept[:, : page * groups * latent].view(stride, groups, page, latent).transpose(1, 2).reshape(-1, groups, latent)[:n]
        key = kept[:, page * groups * latent :].reshape(-1, rope)[:n]
        assert torch.equal(rows[-1], new_rows[b, 0].double())
        turned = rotated(new_keys[b, 0], n - 1, 10000.0)
        assert float((key[-1] - turned).norm() / turned.norm()) < 3e-3
        q = query[b, 0].double().view(groups, heads // groups, -1)
        scores = torch.einsum("ghd,lgd->ghl", q[..., :latent], rows) + torch.einsum("ghd,ld->ghl", q[..., latent:], key)
        exact = torch.einsum("ghl,lgd->ghd", torch.softmax(scores * scale, -1), rows).reshape(heads, latent)
        error = float((output[b, 0].double() - exact).norm() / exact.norm())
        shift = float((log_sum_exp[b, 0].double() - torch.logsumexp(scores * scale, -1).reshape(-1)).abs().max())
        print(f"{n} tokens: relative error {error:.1e}, log-sum-exp off by {shift:.1e}")
        assert error < 5e-3 and shift < 1e-3
    append.close()
    attention.close()


if __name__ == "__main__":
    main()
