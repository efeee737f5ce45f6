#include "apus_kernels.h"
int apus_kernels_version(void) { return 1; }
