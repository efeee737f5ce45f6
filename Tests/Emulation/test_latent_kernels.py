"""What tied and latent attention (GTA, MLA, GLA) need beside attention itself, run on the CPU, against float64."""

import ctypes
import sys
import unittest
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import emulate
from emulate import aligned, to_bf16
from test_decoder_kernels import Case, address, array, error, rotate, rotation, wide


class SharedAppend(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in "projected first_norm norm cosine sine first cache page_table sequences positions lengths".split()]
    _fields_ += [("page_elements", ctypes.c_longlong)]
    _fields_ += [(name, ctypes.c_int) for name in ("page_stride", "tokens", "parts", "groups", "width")]
    _fields_ += [("epsilon", ctypes.c_float)]


class HeadProduct(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in "x weight bias out cosine sine positions lengths".split()]
    _fields_ += [(name, ctypes.c_longlong) for name in ("x_row", "x_head", "out_row", "out_head")]
    _fields_ += [("rows", ctypes.c_int)]


class Shape:
    """A token's row: queries, states of groups, key. `parts`: of the queries; `part` 0: they are left alone."""

    def __init__(self, groups, shared, value, key, rotated, interleaved, latent, parts, part, page_size, queries=0):
        self.groups, self.shared, self.value, self.key, self.rotated = groups, shared, value, key, rotated
        self.interleaved, self.latent, self.parts, self.part, self.page_size = interleaved, latent, parts, part, page_size
        self.state = shared + value
        self.queries = parts * part or queries
        self.width = self.queries + groups * self.state + key
        self.definitions = dict(
            SHARED=shared, VALUE=value, KEY=key, PAGE_SIZE=page_size, ROTATED=rotated, INTERLEAVED=interleaved, NORM=latent,
            PART=part)


GTA = Shape(4, 32, 32, 32, 32, 0, 0, parts=12, part=64, page_size=64)
NARROW = Shape(1, 48, 16, 16, 8, 1, 0, parts=3, part=64, page_size=16)
MLA = Shape(1, 512, 0, 64, 64, 1, 1, parts=1, part=1536, page_size=64)
GLA = Shape(2, 128, 0, 32, 32, 0, 1, parts=2, part=136, page_size=64)
DIRECT = Shape(2, 272, 0, 48, 48, 0, 1, parts=0, part=0, page_size=16, queries=5 * 80)
SHAPES = [GTA, NARROW, MLA, GLA, DIRECT]


class Pages:
    """Pages of states and keys kept once; what no token fills is NaN."""

    def __init__(self, random, lengths, shape):
        used = [-(-n // shape.page_size) for n in lengths]
        order, self.shape = random.permutation(sum(used) + 1), shape
        self.table = aligned((len(lengths), max(used) + 1), np.int32, 2**30)
        self.cache = aligned((len(order), shape.page_size * (shape.groups * shape.state + shape.key)), np.uint16, 0x7FFF)
        for b, count in enumerate(used):
            self.table[b, :count] = order[sum(used[:b]) : sum(used[:b]) + count]

    def token(self, sequence, token):
        """States [group][state] and key of a token, as views."""
        s = self.shape
        page, at = self.cache[self.table[sequence, token // s.page_size]], token % s.page_size
        cut = s.groups * s.page_size * s.state
        return page[:cut].reshape(s.groups, s.page_size, s.state)[:, at], page[cut:].reshape(s.page_size, s.key)[at]


class Appending(Case):
    @classmethod
    def setUpClass(cls):
        emulate.prepare([("shared_append.cu", "shared_append", s.definitions) for s in SHAPES])

    def normed(self, x, weight):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight

    def append(self, s, sequences, positions, lengths, rows):
        """Runs the kernel over `rows` tokens and holds what it leaves of those that exist against float64."""
        pages = Pages(self.random, [100] * 3, s)
        projected = to_bf16(self.normal(rows, s.width) * 3)
        first_norm, norm = array(self.normal(max(s.parts, 1), max(s.part, 1))), array(self.normal(s.groups, s.state))
        cosine, sine = rotation(s.rotated // 2, 100)
        first = aligned((rows, max(s.parts, 1), max(s.part, 1)), np.uint16)
        held = [None if x is None else array(x, np.int32) for x in (sequences, positions, lengths)]
        p = SharedAppend(
            *map(address, (projected, first_norm, norm, cosine, sine, first, pages.cache, pages.table, *held)),
            page_elements=pages.cache[0].size, page_stride=pages.table.shape[1], tokens=rows, parts=s.parts,
            groups=s.groups, width=s.width, epsilon=1e-6)
        kernel = emulate.Kernel("shared_append.cu", "shared_append", s.definitions)
        self.twice(lambda seed, lazy=False: kernel(3, 128, p, seed=seed), first, pages.cache)
        written, x = 0, wide(projected)
        for i in range(rows):
            sequence = i if sequences is None else sequences[i]
            position = lengths[i] - 1 if positions is None else positions[i]
            if position < 0:
                self.assertTrue((first[i] == 0xFFFF).all())
                continue
            turned = lambda key: rotate(key, cosine[position], sine[position], s.interleaved)
            queries = x[i, : s.queries].reshape(max(s.parts, 1), -1)
            if s.part and s.latent:
                self.assertLess(error(wide(first[i]), self.normed(queries, first_norm)), 4e-3)
            elif s.part:
                self.assertTrue(np.array_equal(wide(first[i])[:, : s.shared], queries[:, : s.shared]))
                self.assertLess(error(wide(first[i])[:, s.shared :], turned(queries[:, s.shared :])), 4e-3)
            states, key = pages.token(sequence, position)
            expected = x[i, s.queries : -s.key].reshape(s.groups, s.state)
            expected = self.normed(expected, norm) if s.latent else expected
            self.assertLess(error(wide(states), expected), 4e-3 if s.latent else 1e-9)
            self.assertLess(error(wide(key), turned(x[i, -s.key :])), 4e-3)
            written += states.size + key.size
        self.assertEqual(int((pages.cache != 0x7FFF).sum()), written, "nothing else is written")

    def test_tokens_of_prompts(self):
        for shape in SHAPES:
            self.append(shape, [0, 0, 0, 2, 2, 1], [5, 6, 7, 0, 1, 70], None, 6)

    def test_a_step(self):
        for shape in SHAPES:
            self.append(shape, None, None, [64, 0, 65], 3)


# Inputs, outputs, heads, rows, row tiles, strips, split, and of a tail: key, rotated, interleaved.
PRODUCTS = [
    (64, 256, 3, 1, 1, 1, 2, (32, 32, 0)), (128, 512, 2, 40, 2, 1, 4, (64, 64, 1)), (48, 48, 5, 70, 4, 4, 1, (16, 8, 0)),
    (256, 64, 3, 17, 2, 1, 4, None), (512, 128, 2, 3, 1, 1, 4, None), (200, 40, 4, 130, 4, 4, 1, None),
    (136, 320, 2, 9, 1, 1, 2, None), (24, 8, 2, 16, 1, 1, 4, None)]


class Products(Case):
    @classmethod
    def setUpClass(cls):
        emulate.prepare([("head_products.cu", "head_product", cls.definitions(shape)) for shape in PRODUCTS])

    @staticmethod
    def definitions(shape):
        found = dict(
            INPUTS=shape[0], OUTPUTS=shape[1], ROW_TILES=shape[4], STRIPS=shape[5], SPLIT=shape[6], TAIL=int(shape[7] is not None))
        if shape[7]:
            found |= dict(KEY=shape[7][0], ROTATED=shape[7][1], INTERLEAVED=shape[7][2])
        return found

    def test_products(self):
        for shape in PRODUCTS:
            for bias in (False, True):
                for stepping in (False, True):
                    self.product(shape, bias, stepping)

    def product(self, shape, has_bias, stepping):
        k, n, heads, rows, row_tiles, strips, split, tail = shape
        extra = tail[0] if tail else 0
        # Rows and heads that are further apart than they are wide.
        x = to_bf16(self.normal(rows, 16 + heads * (k + extra)))
        weight, bias = to_bf16(self.normal(heads, n, k) / k**0.5), array(self.normal(heads, n))
        out = aligned((rows, heads, n + extra + 8), np.uint16)
        cosine, sine = rotation(tail[1] // 2 if tail else 1, 50)
        positions = array(self.random.integers(-1 if stepping else 0, 49, rows), np.int32)
        lengths = array(positions + 1, np.int32)
        p = HeadProduct(
            address(x), address(weight), address(bias) if has_bias else None, address(out), address(cosine), address(sine),
            None if stepping else address(positions), address(lengths) if stepping else None, x_row=x.shape[1],
            x_head=k + extra, out_row=heads * (n + extra + 8), out_head=n + extra + 8, rows=rows)
        kernel = emulate.Kernel("head_products.cu", "head_product", self.definitions(shape))
        grid = (-(-n // (32 * strips)) + int(tail is not None), heads, -(-rows // (16 * row_tiles)))
        self.twice(lambda seed, lazy=False: kernel(grid, 32 * strips * split, p, seed=seed), out)
        values = wide(x)[:, : heads * (k + extra)].reshape(rows, heads, k + extra)
        expected = np.einsum("rhk,hnk->rhn", values[:, :, :k], wide(weight)) + (bias if has_bias else 0)
        self.assertLess(error(wide(out[:, :, :n]), expected), 4e-3, shape)
        self.assertTrue((out[:, :, n + extra :] == 0xFFFF).all(), "nothing else is written")
        for row in range(rows if tail else 0):
            found = out[row, :, n : n + extra]
            if positions[row] < 0:
                self.assertTrue((found == 0xFFFF).all())
                continue
            turned = rotate(values[row, :, k:], cosine[positions[row]], sine[positions[row]], tail[2])
            self.assertLess(error(wide(found), turned), 4e-3, shape)

    def test_biases_of_rows(self):
        kernel = emulate.Kernel("head_products.cu", "add_row_bias", self.definitions(PRODUCTS[0]))
        for rows, width in ((3, 8), (70, 200)):
            x, bias = to_bf16(self.normal(rows, width)), array(self.normal(width))
            expected = wide(x) + bias
            kernel(2, 256, x, bias, ctypes.c_longlong(rows * width), width)
            self.assertLess(error(wide(x), expected), 4e-3)


class Layer(Case):
    """Absorbed, as the kernels lay queries and pages out, against explicit keys and values in float64."""

    def test_latent_attention(self):
        heads, groups, latent, rope, content, value, tokens = 6, 2, 128, 32, 48, 40, 20
        s = Shape(groups, latent, 0, rope, rope, 0, 1, parts=0, part=0, page_size=16, queries=heads * (content + rope))
        pages = Pages(self.random, [tokens], s)
        projected, norm = to_bf16(self.normal(tokens, s.width)), array(self.normal(groups, latent))
        cosine, sine = rotation(rope // 2, tokens)
        sequences, positions = array(np.zeros(tokens), np.int32), array(np.arange(tokens), np.int32)
        # Of each head [content | value] rows.
        up = to_bf16(self.normal(heads, content + value, latent) / latent**0.5)
        key_up, value_up = to_bf16(wide(up)[:, :content].swapaxes(1, 2)), to_bf16(wide(up)[:, content:])
        emulate.Kernel("shared_append.cu", "shared_append", s.definitions)(
            4, 128, SharedAppend(
                *map(address, (projected, None, norm, cosine, sine, None, pages.cache, pages.table, sequences, positions, None)),
                page_elements=pages.cache[0].size, page_stride=pages.table.shape[1], tokens=tokens, parts=0, groups=groups,
                width=s.width, epsilon=1e-6))
        query = aligned((tokens, heads, latent + rope), np.uint16)
        first = (content, latent, heads, tokens, 2, 1, 1, (rope, rope, 0))
        emulate.Kernel("head_products.cu", "head_product", Products.definitions(first))(
            (latent // 32 + 1, heads, 1), 32, HeadProduct(
                *map(address, (projected, key_up, None, query, cosine, sine, positions, None)), x_row=s.width,
                x_head=content + rope, out_row=heads * (latent + rope), out_head=latent + rope, rows=tokens))
        held = [pages.token(0, t) for t in range(tokens)]
        states, keys = wide(np.stack([h[0] for h in held])), wide(np.stack([h[1] for h in held]))
        scale = (content + rope) ** -0.5
        causal = np.where(np.tri(tokens) > 0, 0, -np.inf)

        def attend(scores, values):
            weights = np.exp(scores * scale + causal)
            return weights / weights.sum(1, keepdims=True) @ values

        # Named: a structure holds its address, which does not keep it alive.
        attended = to_bf16(np.stack([
            attend(wide(query)[:, h] @ np.concatenate([states[:, h // 3], keys], 1).T, states[:, h // 3]) for h in range(heads)], 1))
        out = aligned((tokens, heads, value), np.uint16)
        last = (latent, value, heads, tokens, 2, 1, 2, None)
        emulate.Kernel("head_products.cu", "head_product", Products.definitions(last))(
            (2, heads, 1), 64, HeadProduct(
                *map(address, (attended, value_up, None, out, None, None, None, None)), x_row=heads * latent,
                x_head=latent, out_row=heads * value, out_head=value, rows=tokens))

        x = wide(projected)
        latents = x[:, s.queries : -rope].reshape(tokens, groups, latent)
        latents = latents / np.sqrt((latents**2).mean(-1, keepdims=True) + 1e-6) * norm
        turned = lambda rows: np.stack([rotate(rows[t], cosine[t], sine[t], 0) for t in range(tokens)])
        q, key = x[:, : s.queries].reshape(tokens, heads, -1), turned(x[:, -rope:])
        for h in range(heads):
            expanded = latents[:, h // 3] @ wide(up)[h].T
            scores = q[:, h, :content] @ expanded[:, :content].T + turned(q[:, h, content:]) @ key.T
            self.assertLess(error(wide(out[:, h]), attend(scores, expanded[:, content:])), 1e-2, h)


if __name__ == "__main__":
    unittest.main()
