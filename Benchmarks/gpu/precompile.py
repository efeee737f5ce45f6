"""Compiles every kernel that gpu_check.py, training_attention.py, prefill.py, decoder_step.py and serving_rank.py may use into the
cache folder named by APUS_CUBINS, in parallel.

usage: APUS_CUBINS=folder precompile.py [processes] [beginnings of kernel names]; needs no GPU. Prints what does not compile.
"""

import collections
import itertools
import multiprocessing
import os
import sys

import decoder_settings
import nvrtc
import prefill
import serving_rank_settings
import training_attention
from prefill_settings import prefill_settings
from settings import configure
from training_settings import backward_settings, forward_settings

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
    decode = {(nvrtc.KERNELS, name, definitions) for name, definitions, _ in found}
    decode |= {
        (nvrtc.KERNELS, "prefill", tuple(sorted(prefill_settings(g, page)[0].items())))
        for g, page in itertools.product(prefill.GEOMETRIES, prefill.PAGES)}
    return sorted(decode | training_jobs() | serving_jobs() | decoder_jobs())


def decoder_jobs():
    folder = lambda name: nvrtc.KERNELS if name.startswith("grouped") else nvrtc.TENSOR_KERNELS
    return {(folder(name), name, tuple(sorted(definitions.items()))) for name, definitions in decoder_settings.jobs()}


def serving_jobs():
    found, of = set(), serving_rank_settings
    for variant in of.LATENTS:
        found.add((nvrtc.KERNELS, str(of.HERE / "serving_rank"), tuple(sorted(of.definitions(variant).items()))))
        found.add((nvrtc.KERNELS, "append", tuple(sorted(of.append_definitions(variant).items()))))
        for tokens in (1, 2):
            name, definitions, _, _ = configure(of.geometry(variant), of.HEADS * tokens, of.PAGE)
            found.add((nvrtc.KERNELS, name, tuple(sorted(definitions.items()))))
    return found


def training_jobs():
    found = set()
    add = lambda name, definitions: found.add((nvrtc.TENSOR_KERNELS, name, tuple(sorted(definitions.items()))))
    shapes = {training_attention.Shape(1, 1, *w) for w in training_attention.WIDTHS}
    shapes |= {row[1]._replace(heads=1, kv_heads=1) for row in training_attention.ROWS}
    for shape, output, gradients, adds in itertools.product(shapes, (False, True), (False, True), (False, True)):
        add("attention_forward", forward_settings(shape, output)[0])
        add("attention_once", dict(FLOAT32=int(gradients), ADDS=int(adds)))
        if training_attention.has_backward(shape):
            queries, keys = backward_settings(shape, output, gradients, adds)
            add("attention_backward_queries", queries[0])
            add("attention_backward_keys", keys[0])
    shape = training_attention.ROWS[0][1]._replace(heads=1, kv_heads=1)
    for forward, backward in training_attention.VARIANTS:
        add("attention_forward", forward_settings(shape, **forward)[0])
        for name, settings in zip(("queries", "keys"), backward_settings(shape, **backward)):
            add(f"attention_backward_{name}", settings[0])
    return found


def compile_one(job):
    folder, name, definitions = job
    try:
        nvrtc.compile_kernel(name + ".cu", dict(definitions), cache=os.environ["APUS_CUBINS"], folder=folder)
    except SystemExit as problem:
        return f"{name} {definitions}: {problem}"


if __name__ == "__main__":
    wanted = tuple(sys.argv[2:]) or ("",)
    everything = [job for job in jobs() if job[1].startswith(wanted)]
    with multiprocessing.Pool(int(sys.argv[1]) if len(sys.argv) > 1 else os.cpu_count()) as pool:
        problems = [p for p in pool.map(compile_one, everything, chunksize=1) if p]
    print(f"{len(everything) - len(problems)} of {len(everything)} kernels compiled", *problems, sep="\n")
    sys.exit(1 if problems else 0)
