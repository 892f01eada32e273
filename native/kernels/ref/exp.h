/* e^x in float32, implemented here rather than taken from libm, so that every machine gives the
 * same bits.
 *
 * x = n ln 2 + r, where n is an integer and |r| <= (ln 2) / 2, so e^x = 2^n e^r. e^r is its Taylor
 * series up to r^7: the first omitted term is at most 0.3466^8 / 8! = 5.2e-9, a tenth of half an
 * ulp.
 *   n    Adding 1.5 * 2^23 leaves no bits for a fraction, so the sum is rounded to an integer (ties
 *        to even), which is then in its lowest bits.
 *   r    ln 2 is split in two parts. n * LN2_HIGH is exact, because LN2_HIGH has 9 significant bits and
 *        n at most 8; so is its difference from x.
 *   2^n  is built from its exponent field. */
#ifndef GPT2C_EXP_H
#define GPT2C_EXP_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define GPT2C_EXP_LOWEST (-87.3f)  /* below, the result is 0: it would lose precision as a subnormal */
#define GPT2C_EXP_HIGHEST 88.3f    /* above, it is infinity: 2^n would not fit its exponent field */
#define GPT2C_EXP_ROUNDER 12582912.0f
#define GPT2C_LOG2_E 1.44269504f
#define GPT2C_LN2_HIGH 0.693359375f
#define GPT2C_LN2_LOW (-2.12194440e-4f)

static inline float gpt2c_exp(float x) {
    if (x < GPT2C_EXP_LOWEST) return 0.0f;
    if (x > GPT2C_EXP_HIGHEST) return INFINITY;
    const float shifted = x * GPT2C_LOG2_E + GPT2C_EXP_ROUNDER;
    const float n = shifted - GPT2C_EXP_ROUNDER;
    const float r = (x - n * GPT2C_LN2_HIGH) - n * GPT2C_LN2_LOW;

    float sum = 1.0f / 5040;
    sum = sum * r + 1.0f / 720;
    sum = sum * r + 1.0f / 120;
    sum = sum * r + 1.0f / 24;
    sum = sum * r + 1.0f / 6;
    sum = sum * r + 0.5f;
    sum = sum * r + 1.0f;
    sum = sum * r + 1.0f;

    uint32_t bits;
    float power;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3f800000u;
    memcpy(&power, &bits, sizeof power);
    return sum * power;
}

#endif
