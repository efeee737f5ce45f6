#include "../Dispatch/isa.h"
#include "kernels.h"

const apus_kernels *apus_active_kernels(void) {
#if defined(__x86_64__)
    const int level = apus_isa_level();
    if (level == 2 && apus_has_avx512_products()) return &apus_kernels_avx512;
    if (level >= 1) return &apus_kernels_avx2;
#endif
    return &apus_kernels_portable;
}
