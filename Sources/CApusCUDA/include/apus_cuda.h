/* NVIDIA's libraries, opened at run time: the driver, NVRTC, cuBLASLt and NCCL. Declarations of our own; nothing of NVIDIA's is
 * needed to build, and a program that links this runs where there is no GPU. */
#ifndef APUS_CUDA_H
#define APUS_CUDA_H
#include "apus_cublaslt.h"
#include "apus_cuda_driver.h"
#include "apus_cuda_loading.h"
#include "apus_nccl.h"
#include "apus_nvrtc.h"
#endif
