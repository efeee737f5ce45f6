"""Compiles every kernel that gpu_check.py may use into the cache folder named by APUS_CUBINS, in parallel.

usage: APUS_CUBINS=folder precompile.py [processes]; needs no GPU. Prints what does not compile.
"""

import collections
import multiprocessing
import os
import sys

import nvrtc
from settings import configure

Geometry = collections.namedtuple("Geometry", "heads groups shared value key once")


def jobs():
    latents = [(256, 64), (512, 64), (384, 32), (128, 32), (192, 32), (192, 48), (256, 32)]
    shapes = [(d_c, 0, d_r, 1) for d_c, d_r in latents] + [(w - r, r, r, 1) for w, r in ((64, 32), (96, 48), (128, 64))]
    shapes += [(0, w, w, 0) for w in (64, 96, 128, 256)]
    found = {("schedule", (), 0), ("naive_decode", (), 0)}
    for shape in shapes:
        for per_group in (16, 12):
            for rows in (64, 128):
                for page in (1, 16, 64, 128):
                    name, definitions, _, _ = configure(Geometry(per_group, 1, *shape), rows, page)
                    found.add((name, tuple(sorted(definitions.items())), rows))
                    if shape[3] and page > 1:
                        name, definitions, _, _ = configure(Geometry(per_group, 1, *shape), rows, page, True)
                        found.add((name, tuple(sorted(definitions.items())), rows))
    return sorted({(name, definitions) for name, definitions, _ in found})


def compile_one(job):
    name, definitions = job
    try:
        nvrtc.compile_kernel(name + ".cu", dict(definitions), cache=os.environ["APUS_CUBINS"])
    except SystemExit as problem:
        return f"{name} {definitions}: {problem}"


if __name__ == "__main__":
    everything = jobs()
    with multiprocessing.Pool(int(sys.argv[1]) if len(sys.argv) > 1 else os.cpu_count()) as pool:
        problems = [p for p in pool.map(compile_one, everything, chunksize=1) if p]
    print(f"{len(everything) - len(problems)} of {len(everything)} kernels compiled", *problems, sep="\n")
    sys.exit(1 if problems else 0)
