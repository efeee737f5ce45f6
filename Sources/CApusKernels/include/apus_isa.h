/* The instruction set of the CPU kernels. */
#ifndef APUS_ISA_H
#define APUS_ISA_H

#ifdef __cplusplus
extern "C" {
#endif

/* What this CPU has, as words ("avx512f avx512vnni ..."). */
const char *apus_cpu_features(void);

/* What kernels called by this thread run on: "avx512bf16", "avx512", "avx2" or "portable". The first multiplies bf16 by bf16 dots, the
 * second in float32, which is the faster on Intel's cores and "best" there. Products of "avx512" need VNNI and BF16 too, and otherwise
 * run on AVX2. */
const char *apus_isa(void);

/* Restricts the kernels that this thread calls, and the pools they use, to an instruction set, for tests and comparisons; "best"
 * undoes it. Other threads are not affected, nor are calls made from inside a run by a pool's worker. Weights prepared before stay
 * valid. Returns 0, or -1 when the name is unknown or this CPU lacks it. */
int apus_select_isa(const char *name);

#ifdef __cplusplus
}
#endif
#endif
