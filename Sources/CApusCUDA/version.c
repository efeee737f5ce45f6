#include "apus_cuda.h"
int apus_cuda_version(void) { return 1; }
