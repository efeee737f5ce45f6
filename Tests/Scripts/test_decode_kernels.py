"""The GPU decode kernels compile for sm_90a, use the instructions they are built on, and spill no register."""

import collections
import os
import re
import pathlib
import struct
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "Benchmarks/gpu"))

import nvrtc
from settings import configure

Geometry = collections.namedtuple("Geometry", "heads groups shared value key once")
# Low 12 bits of an instruction of sm_90; HGMMA with its first operand in shared memory or in registers.
HGMMA, HGMMA_REGISTERS, UTMALDG, LDGSTS, LDL, STL = 0x9F0, 0xDF0, 0x5B4, 0xFAE, 0x983, 0x387


def instructions(cubin):
    """How often each opcode occurs in the code of an ELF file."""
    sections, entry, count = (struct.unpack_from(kind, cubin, at)[0] for kind, at in (("<Q", 40), ("<H", 58), ("<H", 60)))
    found = collections.Counter()
    for i in range(count):
        kind, flags, _, offset, size = struct.unpack_from("<IQQQQ", cubin, sections + i * entry + 4)
        if kind == 1 and flags & 4:
            found.update(word & 0xFFF for word, _ in struct.iter_unpack("<QQ", cubin[offset : offset + size]))
    return found


class DecodeKernels(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        try:
            nvrtc.compile_kernel("schedule.cu", {})
        except (FileNotFoundError, OSError) as missing:
            if os.environ.get("APUS_TEST_NVRTC") == "required":
                raise
            raise unittest.SkipTest(str(missing))

    def compile(self, name, definitions):
        report = []
        cubin = nvrtc.compile_kernel(name + ".cu", definitions, report=report)
        self.assertIn("0 bytes spill stores, 0 bytes spill loads", report[0], (name, definitions))
        self.assertNotIn("wgmma", report[0], "the assembler serialises the products")
        found = instructions(cubin)
        self.assertEqual((found[LDL], found[STL]), (0, 0), (name, definitions))
        return found, int(re.search(r"(\d+) bytes smem", report[0]).group(1))

    def test_decode(self):
        gla, mla, gta = Geometry(128, 2, 256, 0, 64, 1), Geometry(128, 1, 512, 0, 64, 1), Geometry(32, 2, 64, 64, 64, 1)
        cases = [(gla, 64, 64, False), (gla, 128, 1, False), (mla, 64, 64, False), (gta, 64, 64, False)]
        cases += [(mla, 64, 1, False), (Geometry(16, 1, 512, 0, 64, 1), 16, 1, False)]
        cases += [(gla, 64, 64, True), (gla, 128, 64, True), (gta, 64, 16, True)]
        for geometry, rows, page, fp8 in cases:
            with self.subTest(geometry=geometry, rows=rows, page=page, fp8=fp8):
                name, definitions, shared, resident = configure(geometry, rows, page, fp8)
                found, fixed = self.compile(name, definitions)
                # What a block takes: its own, what the kernel declares, and the system's 1 KiB.
                self.assertLessEqual((shared + fixed + 1024) * resident, 228 * 1024)
                self.assertGreater(found[HGMMA] + found[HGMMA_REGISTERS], 0)
                self.assertGreater(found[LDGSTS if page == 1 else UTMALDG], 0)


if __name__ == "__main__":
    unittest.main()
