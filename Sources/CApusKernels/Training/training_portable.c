/* Training row kernels for any machine: four lanes, which SSE2 and NEON both have. */
#define LANES 4
#define ISA portable
#include "training_rows.h"
