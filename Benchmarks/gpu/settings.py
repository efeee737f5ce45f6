"""The compile-time settings of the decode kernels for a geometry; needs no GPU."""

STATIC, STATIC_FP8 = 2048, 5120  # bytes of shared memory that the kernels declare themselves, rounded up


def query_panels(query_width):
    """Panels of 64 query columns in shared memory; the last columns stay in registers."""
    return (query_width - 1) // 64


def with_merge(shared, rows, width, resident=1):
    """Dynamic shared memory that also holds a merge of a tile's partial results (MERGE_BYTES of partials.cuh)."""
    strips = rows // 4 * -(-width // 32)
    return max(shared, max(2 * strips, 132 * resident) * 272 + rows * 8)


def configure_fp8(g, rows, page_size, **changes):
    width = g.shared + g.value
    if changes.pop("TALL", rows > 32 and width == 256):
        query_width = g.shared + g.key
        query, stages, raws = query_panels(query_width + (query_width % 64 == 0)) * 8192, 3, 3
        left = 228 * 1024 - 1024 - 1024 - query - stages * 64 * 512 - raws * 64 * 256
        sides = min(raws + stages, left // (64 * 132))
        per_group = g.heads // g.groups
        definitions = dict(
            SHARED=g.shared, VALUE=g.value, KEY=g.key, KEY_ONCE=g.once, PAGE_SIZE=page_size, BLOCK_N=64, STAGES=stages,
            WARPGROUPS=2, QUERY_TILES=int(64 % per_group == 0 or per_group % 64 == 0), FP8=1, RAW_STAGES=raws,
            SIDE_STAGES=sides, **changes)
        shared = query + stages * 64 * 512 + raws * 64 * 256 + sides * 64 * 132
        return "decode_fp8_tall", definitions, with_merge(shared, 64, width), 1
    tile = changes.pop("ROWS", next(n for n in (16, 32, 64) if n >= min(rows, 64 if width <= 256 else 32)))
    groups = changes.pop("WARPGROUPS", 3 if tile == 16 else 2)
    query, weights = (-(-g.shared // 64) + 1) * tile * 128, groups * (16384 if tile == 64 else 8192)
    stage = -(-width // 64) * 4096 + 8192
    stages = changes.pop("STAGES", min(8, (228 * 1024 - 1024 - STATIC_FP8 - query - weights) // (stage + 256)))
    definitions = dict(
        SHARED=g.shared, VALUE=g.value, KEY=g.key, KEY_ONCE=g.once, PAGE_SIZE=page_size, ROWS=tile, STAGES=stages,
        WARPGROUPS=groups, **changes)
    return "decode_fp8", definitions, with_merge(query + weights + stages * (stage + 256), tile, width), 1


def configure(geometry, rows, page_size, fp8=False, **changes):
    """(kernel, definitions, bytes of dynamic shared memory, blocks on a multiprocessor).

    Shared memory holds the queries of a tile and KV stages. More than about 120 KiB of loads on their way only
    lengthen the memory's queues, so that is where the number of stages ends, unless rows are gathered one by one.
    """
    if fp8:
        return configure_fp8(geometry, rows, page_size, **changes)
    g = geometry
    width, query_width = g.shared + g.value, g.shared + g.key
    wide = width > 256
    # Few rows of wide latents that are gathered: transposed products leave room for gathers on their way.
    if wide and g.once and not g.value and width % 64 == 0 and page_size % 8 and rows <= 16:
        tile, block = 16, 32
        query, stage = -(-query_width // 64) * tile * 128, (width // 64 + 1) * block * 128
        weights = 2 * block * 128
        stages = (228 * 1024 - 1024 - STATIC - query - weights) // stage
        definitions = dict(
            SHARED=g.shared, VALUE=g.value, KEY=g.key, KEY_ONCE=g.once, PAGE_SIZE=page_size, ROWS=tile, BLOCK_N=block,
            STAGES=stages, WARPGROUPS=2, QUERY_TILES=0, **changes)
        return "decode_few", definitions, with_merge(query + weights + stages * stage, tile, width), 1
    groups = changes.pop("WARPGROUPS", 2 if wide or rows > 64 else 1)
    resident = 2 if width <= 128 and groups == 1 else 1
    block = changes.pop("BLOCK_N", 64)
    row_width = width + (0 if g.once else g.key)
    panels = -(-row_width // 64) + g.once
    query = (1 if wide else groups) * query_panels(query_width) * 8192 + 16384 * wide
    limit = 228 * 1024 // resident - 1024 - STATIC
    if not wide and (limit - query) // (panels * block * 128) < 3:
        block = 32
    stage = panels * block * 128
    most = 2 if wide else 6 if page_size % 8 or groups == 2 else max(3, 120 * 1024 // resident // stage)
    stages = changes.pop("STAGES", min(most, (limit - query) // stage))
    per_group = g.heads // g.groups
    tiles = changes.pop("QUERY_TILES", int(64 % per_group == 0 or per_group % 64 == 0))
    definitions = dict(
        SHARED=g.shared, VALUE=g.value, KEY=g.key, KEY_ONCE=g.once, PAGE_SIZE=page_size, BLOCK_N=block, STAGES=stages,
        WARPGROUPS=groups, QUERY_TILES=tiles, **changes)
    shared = with_merge(query + stages * stage, 64 if wide else 64 * groups, width, resident)
    return "decode_wide" if wide else "decode", definitions, shared, resident
