/* Declarations of the CPU kernels. */
#ifndef APUS_KERNELS_H
#define APUS_KERNELS_H
int apus_kernels_version(void);
#endif
