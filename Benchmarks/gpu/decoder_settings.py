"""Kernels of a decoder's step: compile-time settings and arguments, as CUDARowProduct and GPUGroupedAttention choose them. Needs
no GPU and no torch."""

import collections
import ctypes

STORE, ADD, SWIGLU, CHOOSE = range(4)

# A model's widths, and its layers.
Shape = collections.namedtuple("Shape", "layers width heads groups head inner vocabulary")
SMOLLM2 = Shape(30, 576, 9, 3, 64, 1536, 49152)
PAGE = 64


class RowProduct(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p) for name in (
            "x weight bias squares out sums next_weight next_squares temperatures seeds positions best best_index chunks "
            "tokens").split()]
    _fields_ += [("expert_bytes", ctypes.c_longlong), ("rows", ctypes.c_int), ("outputs", ctypes.c_int)]
    _fields_ += [("epsilon", ctypes.c_float), ("stride", ctypes.c_int), ("first_token", ctypes.c_int), ("unused", ctypes.c_int)]


class GroupedStep(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p) for name in "qkv query_norm key_norm cosine sine cache page_table lengths output".split()]
    _fields_ += [("page_elements", ctypes.c_longlong)]
    _fields_ += [(name, ctypes.c_int) for name in ("page_stride", "groups", "window")]
    _fields_ += [("epsilon", ctypes.c_float), ("scale_log2", ctypes.c_float)]


# row_products.cu: rows of a block, tiles, warps, units staged. tall_products.cu: columns of a block, warpgroups, stages.
Few = collections.namedtuple("Few", "rows tiles warps staged")
Tall = collections.namedtuple("Tall", "columns groups stages")


def few(width, outputs, rows, epilogue, multiprocessors=132):
    block = next((n for n in (8, 16, 32) if n >= rows), 64)
    tiles, units = 2 if epilogue == CHOOSE else 1, -(-width // 64)
    most = 16 if block < 64 else 12 if units <= 24 else 8
    own = -(-units // most)
    warps = max(4, -(-units // own))
    if block <= 16 and own * block // 8 <= 6:
        return Few(block, tiles, warps, 0)
    return Few(block, tiles, warps, min(own, max(1, (100 << 10) // (warps * block * 128))))


def tall(width, outputs, rows, epilogue, multiprocessors=132):
    panels = -(-width // 64)
    if epilogue == CHOOSE:
        groups, columns = (2 if rows > 64 else 1), 128
    else:
        groups = 1
        columns = next((n for n in (16, 32, 48, 64, 96) if -(-outputs // n) * -(-rows // 64) <= multiprocessors), 128)
    # Two blocks on a multiprocessor, of a kernel and of the one before it; blocks of the head stay.
    room = 200 << 10 if groups == 2 else 110 << 10
    return Tall(columns, groups, min(panels, room // ((64 * groups + columns) * 128)))


def chosen(width, outputs, rows, epilogue, multiprocessors=132):
    is_few = rows <= 16 or (epilogue != CHOOSE and -(-outputs // 16) * -(-rows // 64) <= multiprocessors)
    return (few if is_few else tall)(width, outputs, rows, epilogue, multiprocessors)


class Product:
    """out[rows, outputs] of x[rows, width]; `parts` of the sums of squares where x still gets the factor of a norm."""

    def __init__(self, width, outputs, rows, epilogue, parts=0, setting=None, multiprocessors=132):
        self.width, self.outputs, self.rows, self.epilogue = width, outputs, rows, epilogue
        self.setting = s = setting or chosen(width, outputs, rows, epilogue, multiprocessors)
        self.is_tall = isinstance(s, Tall)
        self.definitions = dict(WIDTH=width, NORM=int(parts > 0), PARTS=max(parts, 1), EPILOGUE=epilogue)
        if self.is_tall:
            self.definitions |= dict(COLUMNS=s.columns, GROUPS=s.groups, STAGES=s.stages)
            self.columns, block_rows, self.threads = s.columns, 64 * s.groups, 128 * s.groups + 32
            self.shared, resident = s.stages * (block_rows + s.columns) * 128, 2 if s.groups == 1 else 1
        else:
            self.definitions |= dict(ROWS=s.rows, TILES=s.tiles, WARPS=s.warps, ROUND=s.staged)
            self.columns, block_rows, self.threads = 16 * s.tiles, s.rows, 32 * s.warps
            x, sums = s.warps * s.staged * s.rows * 128, s.warps * s.tiles * (s.rows // 8) * 512
            self.shared = x + sums if epilogue == CHOOSE else max(x, sums)
            resident = max(1, min(3, (220 << 10) // self.shared))
        row_blocks = -(-rows // block_rows)
        blocks = -(-outputs // self.columns)
        if epilogue == CHOOSE:
            blocks = min(blocks, max(1, resident * multiprocessors // row_blocks))
        self.grid = (blocks, row_blocks, 1)
        self.block_rows = block_rows

    @property
    def file(self):
        return "tall_products.cu" if self.is_tall else "row_products.cu"

    @property
    def parts(self):
        """Parts of a row's sum of squares that ADD leaves."""
        return -(-self.outputs // (self.columns if self.is_tall else 16))


def step_settings(shape, batch, multiprocessors=132):
    """Warps and tiles ahead."""
    blocks, ahead = batch * shape.groups, max(1, min(3, 128 // shape.head))
    if blocks <= (2 if ahead > 1 else 1) * multiprocessors:
        return 8, ahead
    return 8 if shape.head <= 64 and blocks <= 3 * multiprocessors else 4, 1


def step_definitions(shape, warps, ahead):
    return dict(
        HEAD=shape.head, ROTATED=shape.head, INTERLEAVED=0, NORM=0, PAGE_SIZE=PAGE, HEADS=shape.heads // shape.groups,
        WARPS=warps, AHEAD=ahead)


# Warps, and tiles ahead.
STEPS = [(4, 1), (4, 2), (4, 3), (2, 3), (8, 1), (8, 2), (16, 1)]


def alternatives(name, batch):
    if batch <= 16:
        return []
    if name == "head":
        return [
            Tall(256, 2, 4), Tall(256, 1, 2), Tall(192, 1, 3), Tall(128, 1, 4), Tall(128, 2, 3), Tall(128, 2, 6), Tall(96, 1, 5)]
    panels = 24 if name == "down" else 9
    widths = {"qkv": (16, 32, 48, 64), "out": (16, 32, 48, 64), "up": (32, 48, 64, 96, 128), "down": (16, 32, 48, 64)}[name]
    found = []
    for columns in widths:
        for groups in (1, 2) if batch >= 128 else (1,):
            stage = (64 * groups + columns) * 128
            found += {Tall(columns, groups, min(panels, room // stage)) for room in (220 << 10, 110 << 10)}
    return found


def products(shape, batch):
    """Name, width, outputs, epilogue and whether there is a norm, of each product."""
    s = shape
    return [
        ("qkv", s.width, (s.heads + 2 * s.groups) * s.head, STORE, True), ("out", s.heads * s.head, s.width, ADD, False),
        ("up", s.width, 2 * s.inner, SWIGLU, True), ("down", s.inner, s.width, ADD, False),
        ("head", s.width, s.vocabulary, CHOOSE, True)]


def jobs(batches=(1, 16, 32, 64, 128, 256), shape=SMOLLM2):
    """What decoder_step.py compiles: file, definitions."""
    found = [("decoder_step", {})] + [("grouped_step", step_definitions(shape, *step)) for step in STEPS]
    for batch in batches:
        parts = Product(shape.inner, shape.width, batch, ADD).parts
        for name, width, outputs, epilogue, norm in products(shape, batch):
            for setting in [None, few(width, outputs, batch, epilogue), *alternatives(name, batch)]:
                product = Product(width, outputs, batch, epilogue, parts * norm, setting)
                found.append((product.file[:-3], product.definitions))
    return found
