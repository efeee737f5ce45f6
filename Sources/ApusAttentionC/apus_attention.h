// Decode attention of Apus on NVIDIA Hopper GPUs, for C and whatever calls C: libapus_attention.so.
//
// All geometries of a paged cache: MHA, MQA, GQA (a key for each group), GTA, MLA, GLA (a key kept once). Pointers are
// addresses on the GPU; a stream is a CUstream (cudaStream_t) of the device's primary context, NULL for the default one.
// Calls only queue work. A plan may be used by one thread at a time.
//
// A page holds page_size tokens of one layer: [group][token][shared | value | own key], then [token][key kept once], in
// bf16; with fp8 the rows in e4m3 and after the keys [group][token] float32 scales. Pages follow each other without gaps.
// A query head of group g computes, with q = [shared | key],
//   score = q_shared . shared[g] + q_key . key[g, or the one kept once],   output = softmax(scale score) [shared | value]
//   MHA, GQA, MQA: shared 0, key = value = head width, key_once 0      MLA, GLA: shared = latent, key = RoPE, value 0
//   GTA: shared = head width - RoPE, key = value = RoPE, key_once 1
//
// Functions return 0, or -1 with the reason in `message` (of `capacity` bytes; may be NULL).
#ifndef APUS_ATTENTION_H
#define APUS_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct apus_attention_plan apus_attention_plan;
typedef struct apus_append_plan apus_append_plan;

// Bytes of a page, or -1.
int64_t apus_attention_page_bytes(
    int32_t query_heads, int32_t groups, int32_t shared, int32_t key, int32_t key_once, int32_t value, int32_t page_size,
    int32_t fp8, char *message, size_t capacity);

// Compiles or loads the kernels and takes at most 18 MB of the device. query_tokens: new tokens a sequence and step, 1 to 16.
int32_t apus_attention_create(
    int32_t query_heads, int32_t groups, int32_t shared, int32_t key, int32_t key_once, int32_t value, int32_t page_size,
    int32_t fp8, int32_t query_tokens, int32_t maximum_batch, float scale, int32_t device, apus_attention_plan **plan,
    char *message, size_t capacity);

// Gives the plan's memory back, once its queued work is done.
void apus_attention_destroy(apus_attention_plan *plan);

// Once a step, for all layers. lengths: [batch] int32, tokens of each sequence, the step's own included.
int32_t apus_attention_schedule(
    apus_attention_plan *plan, const int32_t *lengths, int32_t batch, void *stream, char *message, size_t capacity);

// One layer of the step. query [batch][query token][head][shared | key] and output [batch][query token][head][shared |
// value] bf16; log_sum_exp [batch][query token][head] float32; page_table [batch][page_stride] int32.
int32_t apus_attention_run(
    apus_attention_plan *plan, const void *query, const void *cache, int64_t pages, const int32_t *page_table,
    int32_t page_stride, void *output, float *log_sum_exp, void *stream, char *message, size_t capacity);

// Writing the new tokens of a step into the pages. The first rotary_width elements of the key part are rotated (0: none)
// by position x theta^(-2 i / rotary_width) / divisors[i], in pairs i and i + rotary_width / 2 or, interleaved, 2 i and
// 2 i + 1, and multiplied by `magnitude` (1 but for YaRN). divisors: [rotary_width / 2] on the host, or NULL. norm: whether
// what is read as value gets an RMSNorm over each group's width. tokens: new tokens of each sequence and step.
int32_t apus_append_create(
    int32_t query_heads, int32_t groups, int32_t shared, int32_t key, int32_t key_once, int32_t value, int32_t page_size,
    int32_t fp8, int32_t tokens, int32_t rotary_width, int32_t interleaved, double theta, const float *divisors,
    double magnitude, int32_t norm, int32_t device, apus_append_plan **plan, char *message, size_t capacity);

// Gives the plan's memory back, once its queued work is done.
void apus_append_destroy(apus_append_plan *plan);

// One layer of the step. rows [batch][token][group][shared | value | own key] and key [batch][token][key kept once] (NULL
// where each group has its own) bf16, before norm and rotation; lengths: [batch] int32, tokens of each sequence, the new
// ones included; norm_weight: [group][shared | value] float32 and the epsilon of the norm, where planned for.
int32_t apus_append_run(
    apus_append_plan *plan, const void *rows, const void *key, void *cache, const int32_t *page_table, int32_t page_stride,
    const int32_t *lengths, int32_t batch, const float *norm_weight, float epsilon, void *stream, char *message,
    size_t capacity);

#ifdef __cplusplus
}
#endif

#endif
