/* CPU features: one counts only if both the CPU and the operating system support it. */
#ifndef GPT2C_CPU_H
#define GPT2C_CPU_H

#include <stdint.h>

/* `then` if this build is for that architecture of isa.def, else `otherwise`. */
#define GPT2C_ON_any(then, otherwise) then
#if defined(__x86_64__)
#define GPT2C_ON_x86_64(then, otherwise) then
#else
#define GPT2C_ON_x86_64(then, otherwise) otherwise
#endif
#if defined(__aarch64__)
#define GPT2C_ON_aarch64(then, otherwise) then
#else
#define GPT2C_ON_aarch64(then, otherwise) otherwise
#endif

/* The features that native/isa.def names, as bits. */
enum {
    GPT2C_CPU_AVX2 = 1 << 0,
    GPT2C_CPU_FMA = 1 << 1,
    GPT2C_CPU_F16C = 1 << 2,
    GPT2C_CPU_AVX512F = 1 << 3,
    GPT2C_CPU_AVX512BW = 1 << 4,
    GPT2C_CPU_AVX512DQ = 1 << 5,
    GPT2C_CPU_AVX512VL = 1 << 6,
    GPT2C_CPU_AVX512_BF16 = 1 << 7,
    GPT2C_CPU_AVX512_VNNI = 1 << 8,
    GPT2C_CPU_ASIMDDP = 1 << 9
};

/* The set of features that this machine has, detected once per process. */
uint32_t gpt2c_cpu_features(void);

#endif
