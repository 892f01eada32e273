/* Half precision (IEEE 754 binary16) and bfloat16 as bits, for machines that support neither. */
#ifndef GPT2C_HALF_H
#define GPT2C_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t gpt2c_bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float gpt2c_float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Rounded to nearest, ties to even; a NaN stays a NaN. */
static inline uint16_t gpt2c_f32_to_bf16(float x) {
    const uint32_t bits = gpt2c_bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static inline float gpt2c_bf16_to_f32(uint16_t h) { return gpt2c_float_of((uint32_t)h << 16); }

/* Exact. Moving exponent and mantissa into a float's fields gives a value that is too small by a factor of
 * 2^(127 - 15). The multiplication corrects that, also for subnormals. Infinity and NaN then only lack the
 * upper bits of their exponent. Without a branch, so that compilers vectorize it. */
static inline float gpt2c_f16_to_f32(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t magnitude = (uint32_t)(h & 0x7fffu) << 13;
    const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0;
    return gpt2c_float_of(sign | special | gpt2c_bits_of(gpt2c_float_of(magnitude) * 0x1p112f));
}

/* Rounded to nearest, ties to even; infinity from 65,520 on; a NaN stays a (quiet) NaN. */
static inline uint16_t gpt2c_f32_to_f16(float x) {
    const uint32_t bits = gpt2c_bits_of(x);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x1ffu));
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        /* Subnormal: adding 0.5 makes the unit in the last place 2^-24, that of a subnormal half. */
        const float shifted = gpt2c_float_of(magnitude) + 0.5f;
        return (uint16_t)(sign | (gpt2c_bits_of(shifted) - 0x3f000000u));
    }
    const uint32_t odd = magnitude >> 13 & 1u;
    return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

/* The same, but a finite value stays finite: beyond 65,504, the largest half, it becomes 65,504. */
static inline uint16_t gpt2c_f32_to_finite_f16(float x) {
    const uint32_t bits = gpt2c_bits_of(x);
    const uint32_t magnitude = bits & 0x7fffffffu;
    const int too_large = magnitude > 0x477fe000u && magnitude < 0x7f800000u;
    return too_large ? (uint16_t)((bits >> 16 & 0x8000u) | 0x7bffu) : gpt2c_f32_to_f16(x);
}

#endif
