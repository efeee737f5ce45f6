#ifndef APUS_CUDA_H
#define APUS_CUDA_H
int apus_cuda_version(void);
#endif
