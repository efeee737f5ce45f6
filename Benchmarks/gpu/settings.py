"""The compile-time settings of the decode kernels for a geometry; needs no GPU."""

STATIC = 2048  # bytes of shared memory that the kernels declare themselves, rounded up


def query_panels(width, query_width, fp8):
    """Panels of 64 query columns in shared memory; the last columns stay in registers where these suffice."""
    return (query_width if fp8 and width == 256 and query_width % 64 == 0 else query_width - 1) // 64


def configure(geometry, rows, page_size, fp8=False, **changes):
    """(kernel, definitions, bytes of dynamic shared memory, blocks on a multiprocessor).

    Shared memory holds the queries of a tile and KV stages. More than about 120 KiB of loads on their way only
    lengthen the memory's queues, so that is where the number of stages ends, unless rows are gathered one by one.
    """
    g = geometry
    width, query_width = g.shared + g.value, g.shared + g.key
    wide = width > 256
    groups = changes.pop("WARPGROUPS", 2 if wide or rows > 64 else 1)
    resident = 2 if width <= 128 and groups == 1 else 1
    block = changes.pop("BLOCK_N", 64)
    row_width = width + (0 if g.once else g.key)
    panels = -(-row_width // 64) + (g.once and not fp8)
    query = (1 if wide else groups) * query_panels(width, query_width, fp8) * 8192 + 16384 * wide
    limit = 228 * 1024 // resident - 1024 - STATIC
    if not wide and (limit - query) // (panels * block * 128) < 3:
        block = 32
    stage = panels * block * 128
    most = 2 if wide else 6 if page_size % 8 or groups == 2 else max(3, 120 * 1024 // resident // stage)
    if fp8:  # blocks as the consumers see them, rows as they are kept, keys with scales
        most = changes.pop("STAGES", 2)
        raw, side, left = block * width, block * 128 + 1024, limit - query - most * stage
        raws = changes.pop("RAW_STAGES", max(n for n in (2, 3, 4) if n == 2 or (left - n * raw) // side > n))
        changes.update(FP8=1, RAW_STAGES=raws, SIDE_STAGES=min(raws + 3, (left - raws * raw) // side))
    stages = changes.pop("STAGES", min(most, (limit - query) // stage))
    per_group = g.heads // g.groups
    tiles = changes.pop("QUERY_TILES", int(64 % per_group == 0 or per_group % 64 == 0))
    definitions = dict(
        SHARED=g.shared, VALUE=g.value, KEY=g.key, KEY_ONCE=g.once, PAGE_SIZE=page_size, BLOCK_N=block, STAGES=stages,
        WARPGROUPS=groups, QUERY_TILES=tiles, **changes)
    shared = query + stages * stage + (definitions["RAW_STAGES"] * raw + definitions["SIDE_STAGES"] * side if fp8 else 0)
    return "decode_wide" if wide else "decode", definitions, shared, resident
