/* Checks linear layers in every layout, and the embedding, which reads the same matrices. */
#include "check.h"

typedef struct layer {
    size_t rows, n_in, n_out;
    gpt2c_layout layout;
    float *x, *w, *bias, *residual;
    uint16_t *table;
    gpt2c_matrix *matrix;
    operand *stored; /* w as the matrix stores it */
} layer;

static layer new_layer(check *c, size_t rows, size_t n_in, size_t n_out, gpt2c_layout layout) {
    layer l = {rows, n_in, n_out, layout, new_random(rows * n_in, 1.0f), new_random(n_in * n_out, 1.0f),
               new_random(n_out, 1.0f), new_random(rows * n_out, 1.0f), NULL, NULL, NULL};
    expect_ok(c, gpt2c_matrix_create(l.w, GPT2C_LAYOUT_IN_OUT, n_in, n_out, layout, &l.matrix));
    l.stored = new_operands(l.w, l.matrix);
    return l;
}

static void free_layer(layer *l) {
    free(l->x), free(l->w), free(l->bias), free(l->residual), free(l->stored);
    gpt2c_matrix_free(l->matrix);
}

static void run_layer(check *c, const layer *l, float *out, gpt2c_epilogue epilogue, span rows,
                      span columns) {
    const gpt2c_op_linear_args args = {
        .out = out,
        .x = l->x,
        .weight = l->matrix,
        .bias = l->bias,
        .epilogue = epilogue,
        .gelu_table = l->table,
        .residual = l->residual,
        .rows_begin = rows.begin,
        .rows_end = rows.end,
        .columns_begin = columns.begin,
        .columns_end = columns.end,
    };
    expect_ok(c, gpt2c_op_linear(c->isa, &args));
}

static int is_int8(gpt2c_layout layout) { return layout == GPT2C_LAYOUT_PANELS_Q8 || layout == GPT2C_LAYOUT_PANELS_Q4; }

/* x as the kernel multiplies it. round_x: rounded to bfloat16, which the layout alone does not
 * tell. */
static double *new_rounded(const layer *l, int round_x) {
    double *x = allocate(l->rows * l->n_in, sizeof *x);
    for (size_t i = 0; i < l->rows * l->n_in; i++) x[i] = (double)(round_x ? to_bf16(l->x[i]) : l->x[i]);
    for (size_t r = 0; r < l->rows && is_int8(l->layout); r++)
        round_int8(x + r * l->n_in, l->x + r * l->n_in, l->n_in);
    return x;
}

/* Whether out is within the bound; `factor` is 2 where x is rounded to bfloat16. */
static int is_layer_within_bound(const layer *l, const float *out, int round_x, double factor) {
    const double groups = (double)((l->n_in + 31) / 32), n = (double)l->n_in;
    const double steps = is_int8(l->layout) ? 2 * groups + 4 : (n + 2) * factor;
    const double tinies = is_int8(l->layout) ? groups : n;
    double *x = new_rounded(l, round_x);
    int right = 1;
    for (size_t r = 0; r < l->rows; r++) {
        for (size_t col = 0; col < l->n_out; col++) {
            double sum = (double)l->bias[col], magnitude = fabs(sum);
            for (size_t k = 0; k < l->n_in; k++) {
                const operand w = l->stored[k * l->n_out + col];
                sum += x[r * l->n_in + k] * w.value;
                magnitude += fabs(x[r * l->n_in + k]) * w.magnitude;
            }
            right = right && is_near(out[r * l->n_out + col], sum, steps * EPS * magnitude + tinies * TINY);
        }
    }
    free(x);
    return right;
}

static void check_layer_bound(check *c, size_t rows, size_t n_in, size_t n_out, gpt2c_layout layout) {
    layer l = new_layer(c, rows, n_in, n_out, layout);
    float *out = new_floats(rows * n_out);
    run_layer(c, &l, out, GPT2C_EPILOGUE_NONE, (span){0, rows}, (span){0, n_out});
    const int right = is_layer_within_bound(&l, out, 0, 1) ||
                      (layout == GPT2C_LAYOUT_PANELS_BF16 && is_layer_within_bound(&l, out, 1, 2));
    expect(c, right, "outside the bound", n_in, n_out);
    if (layout == GPT2C_LAYOUT_PANELS_Q4) check_q4_roundoff(c, l.w, l.stored, n_in, n_out);
    if (is_int8(layout)) { /* sums are exact and all else is prescribed: the bits of ref, which is set 0 */
        float *expected = new_floats(rows * n_out);
        check ref = {.isa = 0};
        run_layer(&ref, &l, expected, GPT2C_EPILOGUE_NONE, (span){0, rows}, (span){0, n_out});
        expect(c, same_bits(out, expected, rows * n_out), "not ref's bits", n_in, n_out);
        free(expected);
    }
    free(out);
    free_layer(&l);
}

/* A part of a layer has the same bits as in the whole, and nothing else is written. */
static void check_layer_part(check *c, const layer *l, const float *whole, gpt2c_epilogue epilogue, span rows,
                             span columns) {
    float *expected = new_filled(l->rows * l->n_out), *out = new_filled(l->rows * l->n_out);
    for (size_t r = rows.begin; r < rows.end; r++)
        for (size_t i = columns.begin; i < columns.end; i++)
            expected[r * l->n_out + i] = whole[r * l->n_out + i];
    run_layer(c, l, out, epilogue, rows, columns);
    expect(c, same_bits(out, expected, l->rows * l->n_out), "a part differs", rows.begin, columns.begin);
    free(expected), free(out);
}

static void check_layer_contract(check *c, size_t n_in, gpt2c_layout layout, uint16_t *table) {
    const size_t rows = 19, columns = 141, n = rows * columns;
    layer l = new_layer(c, rows, n_in, columns, layout);
    l.table = table;
    const span all_rows = {0, rows}, all_columns = {0, columns};
    float *plain = new_floats(n), *whole = new_floats(n), *separate = new_floats(n);
    run_layer(c, &l, plain, GPT2C_EPILOGUE_NONE, all_rows, all_columns);
    for (int i = GPT2C_EPILOGUE_NONE; i <= GPT2C_EPILOGUE_RELU; i++) {
        const gpt2c_epilogue epilogue = (gpt2c_epilogue)i;
        run_layer(c, &l, whole, epilogue, all_rows, all_columns);
        memcpy(separate, plain, n * sizeof *plain);
        if (epilogue == GPT2C_EPILOGUE_GELU) expect_ok(c, gpt2c_op_gelu(c->isa, separate, plain, n, NULL));
        if (epilogue == GPT2C_EPILOGUE_GELU_TABLE) expect_ok(c, gpt2c_op_gelu(c->isa, separate, plain, n, table));
        if (epilogue == GPT2C_EPILOGUE_GELU_ERF) expect_ok(c, gpt2c_op_gelu_erf(c->isa, separate, plain, n));
        if (epilogue == GPT2C_EPILOGUE_RELU) expect_ok(c, gpt2c_op_relu(c->isa, separate, plain, n));
        if (epilogue == GPT2C_EPILOGUE_ADD) expect_ok(c, gpt2c_op_add(c->isa, separate, l.residual, plain, n));
        expect(c, same_bits(whole, separate, n), "an epilogue differs from its operation", (size_t)i, n_in);
        for (size_t r = 0; r < rows; r++) {
            check_layer_part(c, &l, whole, epilogue, (span){r, r + 1}, all_columns);
            check_layer_part(c, &l, whole, epilogue, (span){0, r + 1}, all_columns);
            check_layer_part(c, &l, whole, epilogue, (span){r, rows}, (span){32, 96});
        }
        for (size_t begin = 0; begin < columns; begin += 32) {
            check_layer_part(c, &l, whole, epilogue, all_rows, (span){begin, columns});
            check_layer_part(c, &l, whole, epilogue, (span){3, 4}, (span){begin, columns});
            check_layer_part(c, &l, whole, epilogue, (span){1, 9}, (span){0, begin});
        }
    }
    free(plain), free(whole), free(separate);
    free_layer(&l);
}

/* A NaN in a row of x makes that row NaN and leaves the others unchanged. */
static void check_layer_nan(check *c, size_t rows, gpt2c_layout layout) {
    const size_t n_in = 33, columns = 65;
    layer l = new_layer(c, rows, n_in, columns, layout);
    float *expected = new_floats(rows * columns), *out = new_floats(rows * columns);
    run_layer(c, &l, expected, GPT2C_EPILOGUE_NONE, (span){0, rows}, (span){0, columns});
    for (size_t bad = 0; bad < rows; bad++) {
        const float good = l.x[bad * n_in];
        l.x[bad * n_in] = NAN;
        run_layer(c, &l, out, GPT2C_EPILOGUE_NONE, (span){0, rows}, (span){0, columns});
        l.x[bad * n_in] = good;
        for (size_t i = bad * columns; i < (bad + 1) * columns; i++) {
            expect(c, isnan(out[i]), "a NaN is lost", bad, i);
            out[i] = expected[i];
        }
        expect(c, same_bits(out, expected, rows * columns), "a NaN is seen in another row", rows, bad);
    }
    free(expected), free(out);
    free_layer(&l);
}

void check_linear(check *c) {
    uint16_t *table = allocate(65536, sizeof *table);
    expect_ok(c, gpt2c_gelu_table_fill(table));
    for (int i = 0; i < GPT2C_LAYOUT_COUNT; i++) {
        const gpt2c_layout layout = (gpt2c_layout)i;
        for (size_t s = 0; s < N_SIZES; s++) {
            check_layer_bound(c, 1, sizes[s], 33, layout);
            check_layer_bound(c, 1, 33, sizes[s], layout);
            check_layer_bound(c, 13, sizes[s], 31, layout);
            check_layer_bound(c, 13, 7, sizes[s], layout);
        }
        check_layer_bound(c, 5, 3072, 33, layout);
        check_layer_contract(c, 66, layout, table);
        check_layer_contract(c, 67, layout, table);
        check_layer_nan(c, 1, layout);
        check_layer_nan(c, 13, layout);
    }
    free(table);
}

/* Rounded once, so the same in every set; over q4 the weight is rounded twice before that. */
static int is_embedded(gpt2c_layout layout, float out, operand w, float wpe) {
    if (layout != GPT2C_LAYOUT_PANELS_Q4) return out == (float)w.value + wpe;
    return is_near(out, w.value + (double)wpe, 3 * EPS * (w.magnitude + fabs((double)wpe)));
}

void check_embed(check *c) {
    for (int i = 0; i < GPT2C_LAYOUT_COUNT; i++) {
        for (size_t s = 0; s < N_SIZES; s++) {
            const size_t n = sizes[s];
            layer l = new_layer(c, 65, n, 65, (gpt2c_layout)i); /* l.x: a row of wpe for each token */
            float *out = new_floats(65 * n);
            int32_t ids[65];
            for (size_t r = 0; r < 65; r++) ids[r] = (int32_t)(64 - r);
            expect_ok(c, gpt2c_op_embed(c->isa, out, l.matrix, ids, l.x, 65));
            for (size_t r = 0; r < 65; r++)
                for (size_t k = 0; k < n; k++)
                    expect(c, is_embedded(l.layout, out[r * n + k], l.stored[k * 65 + 64 - r], l.x[r * n + k]),
                           "wrong", n, (size_t)i);
            free(out);
            free_layer(&l);
        }
    }
}
