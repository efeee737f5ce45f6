/* Umbrella of the CPU kernels. */
#ifndef APUS_KERNELS_H
#define APUS_KERNELS_H
#include "apus_linear.h"
#include "apus_pool.h"
#endif
