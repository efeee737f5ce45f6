#include "../Dispatch/isa.h"
#include "kernels.h"

const apus_kernels *apus_active_kernels(void) {
#if defined(__x86_64__)
    const int level = apus_isa_level();
    if (level == ISA_AVX512_BF16) return &apus_kernels_avx512bf16;
    if (level == ISA_AVX512 && apus_has_avx512_products()) return &apus_kernels_avx512;
    if (level >= ISA_AVX2) return &apus_kernels_avx2;
#endif
    return &apus_kernels_portable;
}
