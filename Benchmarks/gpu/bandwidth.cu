// Reads `count` 16-byte words once: the read bandwidth that the floors are taken from.
extern "C" __global__ void __launch_bounds__(512) read_all(const uint4 *source, long long count, unsigned *result) {
    unsigned sum = 0;
    long long stride = (long long)gridDim.x * blockDim.x * 4;
    for (long long i = (long long)blockIdx.x * blockDim.x * 4 + threadIdx.x; i < count; i += stride) {
        uint4 x[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) x[j] = source[i + j * blockDim.x];
#pragma unroll
        for (int j = 0; j < 4; ++j) sum += x[j].x ^ x[j].y ^ x[j].z ^ x[j].w;
    }
    if (sum == 0x12345678) *result = sum;
}
