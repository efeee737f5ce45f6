#include <stdatomic.h>
#include <stdio.h>

#include "kernels.h"

static int cpu_has(const char *isa) {
    if (strcmp(isa, "portable") == 0) return 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (strcmp(isa, "avx2") == 0) return avx2;
    if (strcmp(isa, "avx512") == 0)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
#endif
    return 0;
}

static const apus_kernels *const tables[] = {
#if defined(__x86_64__)
    &apus_kernels_avx512, &apus_kernels_avx2,
#endif
    &apus_kernels_portable,
};

static const apus_kernels *best(void) {
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (cpu_has(tables[i]->name)) return tables[i];
    return &apus_kernels_portable;
}

static _Atomic(const apus_kernels *) active;

const apus_kernels *apus_active_kernels(void) {
    const apus_kernels *table = atomic_load_explicit(&active, memory_order_acquire);
    if (!table) {
        table = best();
        atomic_store_explicit(&active, table, memory_order_release);
    }
    return table;
}

const char *apus_isa(void) { return apus_active_kernels()->name; }

int apus_select_isa(const char *name) {
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (strcmp(tables[i]->name, name) == 0 && cpu_has(name)) {
            atomic_store_explicit(&active, tables[i], memory_order_release);
            return 0;
        }
    return -1;
}

#if defined(__x86_64__)
#define FEATURE(name) (__builtin_cpu_supports(name) ? " " name : "")
static void describe(char *text, size_t size) {
    __builtin_cpu_init();
    snprintf(text, size, "x86-64%s%s%s%s%s%s%s%s%s%s", FEATURE("avx2"), FEATURE("fma"), FEATURE("f16c"), FEATURE("avx512f"),
             FEATURE("avx512bw"), FEATURE("avx512dq"), FEATURE("avx512vl"), FEATURE("avx512vnni"), FEATURE("avx512bf16"),
             FEATURE("avx512vbmi"));
}
#elif defined(__aarch64__)
static void describe(char *text, size_t size) { snprintf(text, size, "aarch64 neon"); }
#else
static void describe(char *text, size_t size) { snprintf(text, size, "portable"); }
#endif

const char *apus_cpu_features(void) {
    static _Thread_local char text[160];
    describe(text, sizeof text);
    return text;
}
