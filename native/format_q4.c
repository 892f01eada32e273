/* q4: 4 bits per weight, a scale and an offset for each 32 steps of a column (quantized.h). */
#include <math.h>
#include <string.h>

#include "matrix.h"
#include "quantized.h"

/* A smaller scale is treated as 0, since its inverse would be too large. */
#define MIN_SCALE 1e-30f

/* Rounds x to the nearest of 0 .. max. A NaN becomes 0, because C leaves its cast undefined; the NaN itself
 * is still in the column's scale or offset. */
static inline uint8_t to_unsigned(float x, float max) {
    return x > 0.0f ? (uint8_t)gpt2c_to_integer(x < max ? x : max) : 0;
}

static size_t bytes(const gpt2c_matrix *w) {
    return gpt2c_panels(w->n_out) *
           (gpt2c_q4_blocks(w->n_in) * sizeof(gpt2c_q4_block) + sizeof(gpt2c_q4_columns));
}

/* The fit of a group of one panel: w is about scale * q - offset, in each lane. */
typedef struct group_fit {
    float scale[GPT2C_PANEL];
    float offset[GPT2C_PANEL];
} group_fit;

/* Sums over a group, for each lane. */
typedef struct group_sums {
    float w[GPT2C_PANEL];
    float ww[GPT2C_PANEL];
    float q[GPT2C_PANEL];
    float qq[GPT2C_PANEL];
    float qw[GPT2C_PANEL];
} group_sums;

static void sum_rounded(group_sums *sums, const group_fit *fit, const float *rows) {
    float inverse[GPT2C_PANEL];
    memset(sums, 0, sizeof *sums);
    for (size_t lane = 0; lane < GPT2C_PANEL; lane++)
        inverse[lane] = fit->scale[lane] > MIN_SCALE ? 1.0f / fit->scale[lane] : 0.0f;
    for (size_t k = 0; k < GPT2C_GROUP; k++) {
        for (size_t lane = 0; lane < GPT2C_PANEL; lane++) {
            const float w = gpt2c_finite_weight(rows[k * GPT2C_PANEL + lane]);
            const float q = gpt2c_to_integer(gpt2c_clamp((w + fit->offset[lane]) * inverse[lane], 0.0f, 15.0f));
            sums->w[lane] += w;
            sums->ww[lane] += w * w;
            sums->q[lane] += q;
            sums->qq[lane] += q * q;
            sums->qw[lane] += q * w;
        }
    }
}

/* Finds the scale and offset with the smallest squared error for the given q; returns that error. */
static float fit_lane(float *scale, float *offset, const group_sums *s, size_t lane) {
    const float n = GPT2C_GROUP;
    const float spread = s->qq[lane] - s->q[lane] * s->q[lane] / n;
    *scale = spread > 0.0f ? (s->qw[lane] - s->q[lane] * s->w[lane] / n) / spread : 0.0f;
    *offset = (*scale * s->q[lane] - s->w[lane]) / n;
    if (*offset < 0.0f) { /* it is stored without a sign */
        *offset = 0.0f;
        *scale = s->qq[lane] > 0.0f ? s->qw[lane] / s->qq[lane] : 0.0f;
    }
    return s->ww[lane] + *scale * (*scale * s->qq[lane] - 2.0f * s->qw[lane]) +
           *offset * (n * *offset - 2.0f * (*scale * s->q[lane] - s->w[lane]));
}

/* Fractions of a group's range to cut off at either end. Each pair of cuts gives integers q and the best fit
 * to them; of these fits the best one is used. */
static const float cuts[] = {0.0f, 0.06f, 0.12f};
#define N_CUTS (sizeof cuts / sizeof cuts[0])

/* Quantizing takes three steps, because scales are relative to the largest one of a column: fit each block of
 * a panel to its rows [GPT2C_GROUP][GPT2C_PANEL], then scale the panel, then round each block. */
static void fit_block(gpt2c_q4_block *block, const float *rows) {
    group_fit best;
    float low[GPT2C_PANEL] = {0.0f}, high[GPT2C_PANEL] = {0.0f}, error[GPT2C_PANEL];
    for (size_t k = 0; k < GPT2C_GROUP; k++) {
        for (size_t lane = 0; lane < GPT2C_PANEL; lane++) {
            const float w = gpt2c_finite_weight(rows[k * GPT2C_PANEL + lane]);
            low[lane] = w < low[lane] ? w : low[lane];
            high[lane] = w > high[lane] ? w : high[lane];
        }
    }
    for (size_t lane = 0; lane < GPT2C_PANEL; lane++) error[lane] = INFINITY;
    for (size_t i = 0; i < N_CUTS * N_CUTS; i++) {
        group_fit fit;
        group_sums sums;
        for (size_t lane = 0; lane < GPT2C_PANEL; lane++) {
            const float range = high[lane] - low[lane];
            fit.offset[lane] = -low[lane] - range * cuts[i / N_CUTS];
            if (fit.offset[lane] < 0.0f) fit.offset[lane] = 0.0f;
            fit.scale[lane] = range * (1.0f - cuts[i / N_CUTS] - cuts[i % N_CUTS]) / 15.0f;
        }
        sum_rounded(&sums, &fit, rows);
        for (size_t lane = 0; lane < GPT2C_PANEL; lane++) {
            float scale, offset;
            const float e = fit_lane(&scale, &offset, &sums, lane);
            if (i > 0 && !(e < error[lane])) continue;
            error[lane] = e;
            best.scale[lane] = scale;
            best.offset[lane] = offset;
        }
    }
    memcpy(block->q, &best, sizeof best); /* it fits: q has 512 bytes */
}

/* x in units of `step`; 0 if `step` is 0. */
static uint8_t in_steps(float x, float step) {
    return step > 0.0f ? to_unsigned(x / step, 255.0f) : 0;
}

static void scale_panel(gpt2c_q4_columns *columns, gpt2c_q4_block *blocks, size_t n_blocks) {
    group_fit fit;
    memset(columns, 0, sizeof *columns);
    for (size_t i = 0; i < n_blocks; i++) {
        memcpy(&fit, blocks[i].q, sizeof fit);
        for (size_t lane = 0; lane < GPT2C_PANEL; lane++) {
            columns->scale[lane] = gpt2c_larger(fit.scale[lane] / 255.0f, columns->scale[lane]);
            columns->offset[lane] = gpt2c_larger(fit.offset[lane] / 255.0f, columns->offset[lane]);
        }
    }
    for (size_t i = 0; i < n_blocks; i++) {
        memcpy(&fit, blocks[i].q, sizeof fit);
        for (size_t lane = 0; lane < GPT2C_PANEL; lane++) {
            blocks[i].scale[lane] = in_steps(fit.scale[lane], columns->scale[lane]);
            blocks[i].offset[lane] = in_steps(fit.offset[lane], columns->offset[lane]);
        }
    }
}

static void round_block(gpt2c_q4_block *block, const gpt2c_q4_columns *columns, const float *rows) {
    memset(block->q, 0, sizeof block->q);
    for (size_t k = 0; k < GPT2C_GROUP; k++) {
        const size_t quad = k / GPT2C_QUAD;
        for (size_t lane = 0; lane < GPT2C_PANEL; lane++) {
            const float scale = columns->scale[lane] * (float)block->scale[lane];
            const float offset = columns->offset[lane] * (float)block->offset[lane];
            const float w = gpt2c_finite_weight(rows[k * GPT2C_PANEL + lane]) + offset;
            const uint8_t q = scale > 0.0f ? to_unsigned(w / scale, 15.0f) : 0;
            block->q[quad / 2][lane][k % GPT2C_QUAD] |= (uint8_t)(q << quad % 2 * 4);
        }
    }
}

static void set(gpt2c_matrix *w, const gpt2c_source *from) {
    const size_t n = gpt2c_q4_blocks(w->n_in);
    gpt2c_q4_block *blocks = w->data;
    float rows[GPT2C_GROUP * GPT2C_PANEL];
    for (size_t first = 0; first < w->n_out; first += GPT2C_PANEL, blocks += n) {
        gpt2c_q4_columns *columns = gpt2c_q4_columns_of(w, first);
        for (size_t i = 0; i < n; i++) {
            gpt2c_panel_rows(rows, w, from, first, i * GPT2C_GROUP, GPT2C_GROUP);
            fit_block(&blocks[i], rows);
        }
        scale_panel(columns, blocks, n);
        for (size_t i = 0; i < n; i++) {
            gpt2c_panel_rows(rows, w, from, first, i * GPT2C_GROUP, GPT2C_GROUP);
            round_block(&blocks[i], columns, rows);
        }
    }
}

static float at(const gpt2c_matrix *w, size_t k, size_t c) {
    const gpt2c_q4_block *block = gpt2c_q4_panel(w, c) + k / GPT2C_GROUP;
    const gpt2c_q4_columns *columns = gpt2c_q4_columns_of(w, c);
    const size_t lane = c % GPT2C_PANEL;
    const float scale = columns->scale[lane] * (float)block->scale[lane];
    const float offset = columns->offset[lane] * (float)block->offset[lane];
    return scale * (float)gpt2c_q4_integer(block, k, lane) - offset;
}

/* Computes the scale and offset once for all steps of k that share them. */
static void add_column(float *out, const gpt2c_matrix *w, size_t c, const float *b) {
    const size_t lane = c % GPT2C_PANEL, n = w->n_in;
    const gpt2c_q4_block *block = gpt2c_q4_panel(w, c);
    const gpt2c_q4_columns *columns = gpt2c_q4_columns_of(w, c);
    for (size_t begin = 0; begin < n; begin += GPT2C_GROUP, block++) {
        const size_t end = n - begin < GPT2C_GROUP ? n : begin + GPT2C_GROUP;
        const float scale = columns->scale[lane] * (float)block->scale[lane];
        const float offset = columns->offset[lane] * (float)block->offset[lane];
        for (size_t k = begin; k < end; k++)
            out[k] = scale * (float)gpt2c_q4_integer(block, k, lane) - offset + b[k];
    }
}

static int is_sound(const gpt2c_matrix *w) {
    for (size_t c = 0; c < w->n_out; c += GPT2C_PANEL) {
        const gpt2c_q4_columns *columns = gpt2c_q4_columns_of(w, c);
        for (size_t lane = 0; lane < GPT2C_PANEL; lane++)
            if (!(columns->scale[lane] >= 0.0f && columns->scale[lane] <= GPT2C_MAX_WEIGHT &&
                  columns->offset[lane] >= 0.0f && columns->offset[lane] <= GPT2C_MAX_WEIGHT))
                return 0;
    }
    return 1;
}

const gpt2c_format gpt2c_format_q4 = {
    .is_integer = 1,
    .bytes = bytes,
    .set = set,
    .at = at,
    .add_column = add_column,
    .is_sound = is_sound,
};
