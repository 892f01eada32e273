/* Linear layers with several accumulators.
 *
 * A sum is a dependency chain: each addition waits about four cycles for the one before it, while
 * the core could start two per cycle. Computing several columns at once gives it that many
 * independent chains, and each column's own sum still runs over k = 0, 1, 2, ... in order. */
#include "half.h"
#include "kernels/ref/ref.h"
#include "unroll.h"

/* Four rows of weights per sweep: out[c] is loaded and stored once per four additions. */
void gpt2c_linear_in_out_unroll(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    const size_t n_in = args->w->n_in, n_out = args->w->n_out;
    for (size_t r = rows.begin; r < rows.end; r++) {
        const float *x = args->x + r * n_in;
        float *restrict out = args->out + r * n_out;
        for (size_t c = columns.begin; c < columns.end; c++) out[c] = 0.0f;
        size_t k = 0;
        for (; k + 4 <= n_in; k += 4) {
            const float *w0 = (const float *)args->w->data + k * n_out, *w1 = w0 + n_out;
            const float *w2 = w1 + n_out, *w3 = w2 + n_out;
            const float x0 = x[k], x1 = x[k + 1], x2 = x[k + 2], x3 = x[k + 3];
            for (size_t c = columns.begin; c < columns.end; c++)
                out[c] = (((out[c] + x0 * w0[c]) + x1 * w1[c]) + x2 * w2[c]) + x3 * w3[c];
        }
        for (; k < n_in; k++) {
            const float *w = (const float *)args->w->data + k * n_out;
            for (size_t c = columns.begin; c < columns.end; c++) out[c] += x[k] * w[c];
        }
        gpt2c_finish_row_ref(args, r, columns);
    }
}

/* Eight columns at once, one chain each. */
void gpt2c_linear_out_in_unroll(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    const size_t n_in = args->w->n_in, n_out = args->w->n_out;
    for (size_t r = rows.begin; r < rows.end; r++) {
        const float *x = args->x + r * n_in;
        float *out = args->out + r * n_out;
        size_t c = columns.begin;
        for (; c + 8 <= columns.end; c += 8) {
            const float *w = (const float *)args->w->data + c * n_in;
            float sums[8] = {0.0f};
            for (size_t k = 0; k < n_in; k++)
                for (size_t lane = 0; lane < 8; lane++) sums[lane] += x[k] * w[lane * n_in + k];
            for (size_t lane = 0; lane < 8; lane++) out[c + lane] = sums[lane];
        }
        for (; c < columns.end; c++) {
            const float *w = (const float *)args->w->data + c * n_in;
            float sum = 0.0f;
            for (size_t k = 0; k < n_in; k++) sum += x[k] * w[k];
            out[c] = sum;
        }
        gpt2c_finish_row_ref(args, r, columns);
    }
}

/* Adds n steps of k, four per sweep, to a panel's 32 sums, which stay in L1. */
static void sum_panel(float sums[restrict GPT2C_PANEL], const float *x, const float *w, size_t n) {
    size_t k = 0;
    for (; k + 4 <= n; k += 4) {
        const float *w0 = w + k * GPT2C_PANEL, *w1 = w0 + GPT2C_PANEL;
        const float *w2 = w1 + GPT2C_PANEL, *w3 = w2 + GPT2C_PANEL;
        const float x0 = x[k], x1 = x[k + 1], x2 = x[k + 2], x3 = x[k + 3];
        for (size_t i = 0; i < GPT2C_PANEL; i++)
            sums[i] = (((sums[i] + x0 * w0[i]) + x1 * w1[i]) + x2 * w2[i]) + x3 * w3[i];
    }
    for (; k < n; k++)
        for (size_t i = 0; i < GPT2C_PANEL; i++) sums[i] += x[k] * w[k * GPT2C_PANEL + i];
}

void gpt2c_linear_panels_unroll(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    const size_t n_in = args->w->n_in, n_out = args->w->n_out;
    for (size_t c = columns.begin; c < columns.end; c += GPT2C_PANEL) {
        const float *w = (const float *)args->w->data + c * n_in;
        const size_t width = columns.end - c < GPT2C_PANEL ? columns.end - c : GPT2C_PANEL;
        for (size_t r = rows.begin; r < rows.end; r++) {
            const float *x = args->x + r * n_in;
            float *out = args->out + r * n_out + c;
            float sums[GPT2C_PANEL] = {0.0f};
            sum_panel(sums, x, w, n_in);
            for (size_t lane = 0; lane < width; lane++) out[lane] = sums[lane];
            gpt2c_finish_row_ref(args, r, (gpt2c_span){c, c + width});
        }
    }
}

/* Steps of k of a bfloat16 panel that are widened at a time: 8 KB of floats. Must be even. */
#define WIDEN_STEPS 64

/* Two steps of k are adjacent in memory. */
static void widen(float *out, const uint16_t *w, size_t n) {
    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < GPT2C_PANEL; i++)
            out[k * GPT2C_PANEL + i] = gpt2c_bf16_to_f32(w[(k / 2 * GPT2C_PANEL + i) * 2 + k % 2]);
}

void gpt2c_linear_bf16_unroll(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    const size_t n_in = args->w->n_in, n_out = args->w->n_out;
    for (size_t c = columns.begin; c < columns.end; c += GPT2C_PANEL) {
        const uint16_t *w = (const uint16_t *)args->w->data + c * gpt2c_pad(n_in, 2);
        const size_t width = columns.end - c < GPT2C_PANEL ? columns.end - c : GPT2C_PANEL;
        for (size_t r = rows.begin; r < rows.end; r++) {
            const float *x = args->x + r * n_in;
            float *out = args->out + r * n_out + c;
            float sums[GPT2C_PANEL] = {0.0f}, widened[WIDEN_STEPS * GPT2C_PANEL];
            for (size_t k = 0; k < n_in; k += WIDEN_STEPS) {
                const size_t n = n_in - k < WIDEN_STEPS ? n_in - k : WIDEN_STEPS;
                widen(widened, w + k * GPT2C_PANEL, n);
                sum_panel(sums, x + k, widened, n);
            }
            for (size_t lane = 0; lane < width; lane++) out[lane] = sums[lane];
            gpt2c_finish_row_ref(args, r, (gpt2c_span){c, c + width});
        }
    }
}
