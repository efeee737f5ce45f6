/* Float32 rows packed into GGUF's blocks, with least squared error as the aim. */
#ifndef APUS_ENCODE_H
#define APUS_ENCODE_H

#include <stdint.h>

#include "apus_linear.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Packs `rows` contiguous rows of `width` elements as APUS_Q8_0, APUS_Q4_0, APUS_Q4_1 or APUS_Q4_K into `out`, in file
 * format. Elements are finite. Every block is searched: its squared error is at most that of the usual rounding (scale by
 * the largest element). Results do not depend on `pool`, which may be NULL. Returns 0, or -1 when the dtype is another or
 * `width` is no multiple of its block. */
int apus_encode(apus_pool *pool, apus_dtype dtype, const float *x, int64_t rows, int64_t width, void *out);

#ifdef __cplusplus
}
#endif
#endif
