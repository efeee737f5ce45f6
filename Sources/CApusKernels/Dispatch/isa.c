#include "isa.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { UNKNOWN = -1 };
static const char *const names[] = {"portable", "avx2", "avx512", "avx512bf16"};
static const int levels = sizeof names / sizeof *names;

static atomic_int machine_level = UNKNOWN; /* the highest there is */
static _Thread_local int chosen_level = UNKNOWN;

static int find_machine_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c")) return ISA_PORTABLE;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl"))
        return ISA_AVX2;
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16") ? ISA_AVX512_BF16 : ISA_AVX512;
#else
    return ISA_PORTABLE;
#endif
}

/* A bf16 dot does two products a lane. Intel's cores begin one of 512 bits every other cycle and two fused products a cycle, so there
 * float32 is twice as fast; AMD's begin one of either a cycle. */
static int preferred_of(int highest) {
#if defined(__x86_64__)
    if (highest == ISA_AVX512_BF16 && __builtin_cpu_is("intel")) return ISA_AVX512;
#endif
    return highest;
}

static int highest_level(void) {
    int level = atomic_load_explicit(&machine_level, memory_order_relaxed);
    if (level == UNKNOWN) {
        level = find_machine_level();
        atomic_store_explicit(&machine_level, level, memory_order_relaxed);
    }
    return level;
}

int apus_isa_level(void) { return chosen_level == UNKNOWN ? preferred_of(highest_level()) : chosen_level; }

int apus_has_avx512_products(void) { return highest_level() == ISA_AVX512_BF16; }

const char *apus_isa(void) { return names[apus_isa_level()]; }

int apus_select_isa(const char *name) {
    if (strcmp(name, "best") == 0) {
        chosen_level = UNKNOWN;
        return 0;
    }
    for (int level = 0; level < levels && level <= highest_level(); level++)
        if (strcmp(names[level], name) == 0) {
            chosen_level = level;
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
