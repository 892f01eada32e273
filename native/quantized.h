/* The integer formats q8 and q4: how weights and activations are rounded and laid out.
 *
 * Sums of products of integers are exact, so they are the same in every instruction set. Each is over
 * 32 steps of k, a group, and is then scaled and added to a float32 sum (native/kernels.h).
 *
 *   q8  w = scale * q, q in [-127, 127]; a bfloat16 scale per 64 steps of k of a column: 8.25 bits
 *   q4  w = scale * q - offset, q in [0, 15]; a scale and an offset per 32 steps of k of a column, each in
 *       8 bits relative to the largest of the column, which is float32: 4.5 bits
 *   x   x = scale * q, q in [-127, 127]; a float32 scale per 32 elements of a row
 *
 * As in every panel, lanes are output columns. Four steps of k are next to each other in a lane, for
 * instructions that add four products of bytes. n_in is padded with zeros to whole blocks. */
#ifndef GPT2C_QUANTIZED_H
#define GPT2C_QUANTIZED_H

#include <math.h>

#include "half.h"
#include "kernels.h"

#define GPT2C_GROUP 32 /* steps of k */
#define GPT2C_QUAD 4
#define GPT2C_GROUP_QUADS (GPT2C_GROUP / GPT2C_QUAD)

/* ---- Weights ---- */

/* 64 steps of k of a panel; blocks follow one another along k, then panel by panel. Aligned to 64. */
typedef struct gpt2c_q8_block {
    int8_t q[2][GPT2C_GROUP_QUADS][GPT2C_PANEL][GPT2C_QUAD];
    uint16_t scale[GPT2C_PANEL]; /* bfloat16 */
} gpt2c_q8_block;

/* 32 steps of k of a panel: the quads 0, 2, 4, 6 in the lower halves of the bytes, 1, 3, 5, 7 in the upper
 * halves. After all blocks of a matrix come the gpt2c_q4_columns of each panel. */
typedef struct gpt2c_q4_block {
    uint8_t q[GPT2C_GROUP_QUADS / 2][GPT2C_PANEL][GPT2C_QUAD];
    uint8_t scale[GPT2C_PANEL];
    uint8_t offset[GPT2C_PANEL];
} gpt2c_q4_block;

typedef struct gpt2c_q4_columns {
    float scale[GPT2C_PANEL];
    float offset[GPT2C_PANEL];
} gpt2c_q4_columns;

static inline size_t gpt2c_q8_blocks(size_t n_in) { return (n_in + 2 * GPT2C_GROUP - 1) / (2 * GPT2C_GROUP); }
static inline size_t gpt2c_q4_blocks(size_t n_in) { return (n_in + GPT2C_GROUP - 1) / GPT2C_GROUP; }

/* The blocks of the panel that contains column c. */
static inline const gpt2c_q8_block *gpt2c_q8_panel(const gpt2c_matrix *w, size_t c) {
    return (const gpt2c_q8_block *)w->data + c / GPT2C_PANEL * gpt2c_q8_blocks(w->n_in);
}

static inline const gpt2c_q4_block *gpt2c_q4_panel(const gpt2c_matrix *w, size_t c) {
    return (const gpt2c_q4_block *)w->data + c / GPT2C_PANEL * gpt2c_q4_blocks(w->n_in);
}

static inline gpt2c_q4_columns *gpt2c_q4_columns_of(const gpt2c_matrix *w, size_t c) {
    gpt2c_q4_block *end = (gpt2c_q4_block *)w->data + gpt2c_panels(w->n_out) * gpt2c_q4_blocks(w->n_in);
    return (gpt2c_q4_columns *)end + c / GPT2C_PANEL;
}

/* The integer of step k, in the block that contains it. */
static inline int gpt2c_q8_integer(const gpt2c_q8_block *block, size_t k, size_t lane) {
    return block->q[k / GPT2C_GROUP % 2][k % GPT2C_GROUP / GPT2C_QUAD][lane][k % GPT2C_QUAD];
}

static inline int gpt2c_q4_integer(const gpt2c_q4_block *block, size_t k, size_t lane) {
    const size_t quad = k % GPT2C_GROUP / GPT2C_QUAD;
    return block->q[quad / 2][lane][k % GPT2C_QUAD] >> quad % 2 * 4 & 15;
}

/* Larger weights count as this one, so that no scale, sum or square is infinite.
 * gpt2c/checkpoints/formats.py repeats it. */
#define GPT2C_MAX_WEIGHT 1e15f

static inline float gpt2c_clamp(float x, float min, float max) {
    const float low = x < min ? min : x;
    return low > max ? max : low;
}

/* The larger of the two, or a NaN if either is one. */
static inline float gpt2c_larger(float x, float largest) { return x > largest || isnan(x) ? x : largest; }

static inline float gpt2c_finite_weight(float w) {
    return gpt2c_clamp(w, -GPT2C_MAX_WEIGHT, GPT2C_MAX_WEIGHT);
}

/* ---- Activations ---- */

/* 32 elements of a row of x, packed for the kernels. All values of a group are next to each other, so that
 * one address is enough. Groups follow one another, padded to whole blocks of q8. */
typedef struct gpt2c_int8_group {
    int8_t q[GPT2C_GROUP];
    float scale;
    int32_t correction; /* -128 times the sum of q, for sums over w + 128 */
    float scaled_sum; /* scale times the sum of q */
} gpt2c_int8_group;

static inline size_t gpt2c_int8_groups(size_t n_in) { return 2 * gpt2c_q8_blocks(n_in); }

/* The groups of a row; they fit into gpt2c_packed_x_bytes(n_in). */
static inline const gpt2c_int8_group *gpt2c_int8_row_at(const void *packed_x, size_t row, size_t n_in) {
    return (const void *)((const char *)packed_x + row * gpt2c_packed_x_bytes(n_in));
}

/* Rounds to the nearest integer, ties to even, for |x| < 2^22. Like rintf, but compilers vectorize it. */
static inline float gpt2c_to_integer(float x) { return x + 12582912.0f - 12582912.0f; }

/* remainder = x minus its int8 value. The output head reads x in these two parts: rounding there is the last
 * one before the logits are compared, and flips more of them than all earlier roundings together. */
void gpt2c_int8_remainder(float *remainder, const float *x, size_t n);

/* The scale of a group, and the factor that turns x into q. largest_bits: the bits of its largest |x|. Both are 0
 * below 2^-100. If an element is infinite or NaN, the scale is NaN, and so is every result. */
typedef struct gpt2c_int8_scale {
    float scale;
    float inverse;
} gpt2c_int8_scale;

static inline gpt2c_int8_scale gpt2c_int8_scale_of(uint32_t largest_bits) {
    const float largest = gpt2c_float_of(largest_bits);
    if (largest_bits >= 0x7f800000u) return (gpt2c_int8_scale){gpt2c_float_of(0x7fc00000u), 0.0f};
    if (largest < 0x1p-100f) return (gpt2c_int8_scale){0.0f, 0.0f};
    return (gpt2c_int8_scale){largest / 127.0f, 127.0f / largest};
}

/* Rounds the n elements of one group, at most GPT2C_GROUP, to q, padded with 0; *sum is the sum of q. */
typedef gpt2c_int8_scale gpt2c_round_function(int8_t *q, int32_t *sum, const float *x, size_t n);

/* Packs rows of x [rows, n_in] into rows of gpt2c_packed_x_bytes(n_in), with a set's function for a group. */
static inline void gpt2c_pack_int8(void *out, const float *x, size_t rows, size_t n_in,
                                   gpt2c_round_function *round_group) {
    const size_t groups = gpt2c_int8_groups(n_in);
    for (size_t r = 0; r < rows; r++, x += n_in) {
        gpt2c_int8_group *group = (void *)((char *)out + r * gpt2c_packed_x_bytes(n_in));
        for (size_t g = 0; g < groups; g++, group++) {
            const size_t k = g * GPT2C_GROUP, left = k < n_in ? n_in - k : 0;
            int32_t sum;
            group->scale = round_group(group->q, &sum, left > 0 ? x + k : x,
                                       left < GPT2C_GROUP ? left : GPT2C_GROUP)
                               .scale;
            group->correction = -128 * sum;
            group->scaled_sum = group->scale * (float)sum;
        }
    }
}

#endif
