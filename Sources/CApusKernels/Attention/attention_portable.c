/* Attention for any machine: four lanes, which SSE2 and NEON both have. */
#define LANES 4
#define COMPUTE_BF16 0
#define ISA portable
#include "attention_kernel.h"
