/* Training attention for any machine: four lanes, which SSE2 and NEON both have. */
#define LANES 4
#define COMPUTE_BF16 0
#define ISA portable
#include "training_attention_kernel.h"
