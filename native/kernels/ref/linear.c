/* out[r][c] = sum over k of x[r][k] * w[k][c], then + bias[c]. The loops follow the order of the
 * weights in memory. Whichever loop is outermost, each out[r][c] is summed over k = 0, 1, 2, ... in
 * order. */
#include "half.h"
#include "ref.h"

/* The epilogue: the bias, and the operation that the layer is fused with. It calls the operations
 * of the table in use, so every set that inherits a kernel can end with it. */
void gpt2c_finish_row_ref(const gpt2c_linear_args *args, size_t row, gpt2c_span columns) {
    const size_t n_out = args->w->n_out, c = columns.begin, n = columns.end - columns.begin;
    float *out = args->out + row * n_out + c;
    if (args->bias != NULL) args->kernels->add(out, out, args->bias + c, n);
    if (args->epilogue == GPT2C_EPILOGUE_ADD)
        args->kernels->add(out, args->residual + row * n_out + c, out, n);
    else
        gpt2c_activate(args->kernels, args->epilogue, args->gelu_table, out, out, n);
}

void gpt2c_linear_in_out_ref(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    const size_t n_in = args->w->n_in, n_out = args->w->n_out;
    for (size_t r = rows.begin; r < rows.end; r++) {
        const float *x = args->x + r * n_in;
        float *out = args->out + r * n_out;
        for (size_t c = columns.begin; c < columns.end; c++) out[c] = 0.0f;
        for (size_t k = 0; k < n_in; k++) {
            const float *w = (const float *)args->w->data + k * n_out;
            for (size_t c = columns.begin; c < columns.end; c++) out[c] += x[k] * w[c];
        }
        gpt2c_finish_row_ref(args, r, columns);
    }
}

void gpt2c_linear_out_in_ref(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    const size_t n_in = args->w->n_in, n_out = args->w->n_out;
    for (size_t r = rows.begin; r < rows.end; r++) {
        const float *x = args->x + r * n_in;
        float *out = args->out + r * n_out;
        for (size_t c = columns.begin; c < columns.end; c++) {
            const float *w = (const float *)args->w->data + c * n_in;
            float sum = 0.0f;
            for (size_t k = 0; k < n_in; k++) sum += x[k] * w[k];
            out[c] = sum;
        }
        gpt2c_finish_row_ref(args, r, columns);
    }
}

void gpt2c_linear_panels_ref(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    const size_t n_in = args->w->n_in, n_out = args->w->n_out;
    for (size_t r = rows.begin; r < rows.end; r++) {
        const float *x = args->x + r * n_in;
        float *out = args->out + r * n_out;
        for (size_t c = columns.begin; c < columns.end; c += GPT2C_PANEL) {
            const float *w = (const float *)args->w->data + c * n_in;
            float sums[GPT2C_PANEL] = {0.0f};
            for (size_t k = 0; k < n_in; k++)
                for (size_t lane = 0; lane < GPT2C_PANEL; lane++)
                    sums[lane] += x[k] * w[k * GPT2C_PANEL + lane];
            const size_t width = columns.end - c < GPT2C_PANEL ? columns.end - c : GPT2C_PANEL;
            for (size_t lane = 0; lane < width; lane++) out[c + lane] = sums[lane];
        }
        gpt2c_finish_row_ref(args, r, columns);
    }
}

/* The same over bfloat16, where two steps of k are adjacent in memory. */
void gpt2c_linear_bf16_ref(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    const size_t n_in = args->w->n_in, n_out = args->w->n_out, pairs = (n_in + 1) / 2;
    for (size_t r = rows.begin; r < rows.end; r++) {
        const float *x = args->x + r * n_in;
        float *out = args->out + r * n_out;
        for (size_t c = columns.begin; c < columns.end; c++) {
            const uint16_t *panel = (const uint16_t *)args->w->data + c / GPT2C_PANEL * pairs * 2 * GPT2C_PANEL;
            const uint16_t *w = panel + c % GPT2C_PANEL * 2;
            float sum = 0.0f;
            for (size_t k = 0; k < n_in; k++)
                sum += x[k] * gpt2c_bf16_to_f32(w[k / 2 * 2 * GPT2C_PANEL + k % 2]);
            out[c] = sum;
        }
        gpt2c_finish_row_ref(args, r, columns);
    }
}
