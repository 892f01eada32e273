/* Checks attention over K and V in floats and in halves: each row is compared with sums in double,
 * and its bits with those of the same row computed among other rows. */
#include "check.h"

typedef struct heads {
    size_t n, n_head, head_dim, n_embd;
    int32_t kv_f16;
    float *q, *k, *v;
    float *stored_k, *stored_v; /* k and v as they are stored */
} heads;

static float *new_stored(const float *x, size_t n, int32_t kv_f16) {
    float *stored = new_floats(n);
    for (size_t i = 0; i < n; i++) stored[i] = kv_f16 ? to_stored_f16(x[i]) : x[i];
    return stored;
}

static heads new_heads(size_t n, size_t n_head, size_t head_dim, int32_t kv_f16) {
    const size_t size = n * n_head * head_dim;
    heads a = {.n = n, .n_head = n_head, .head_dim = head_dim, .n_embd = n_head * head_dim, .kv_f16 = kv_f16};
    a.q = new_random(size, 1.0f);
    a.k = new_random(size, 1.0f);
    a.v = new_random(size, 1.0f);
    a.stored_k = new_stored(a.k, size, kv_f16);
    a.stored_v = new_stored(a.v, size, kv_f16);
    return a;
}

static void free_heads(heads *a) { free(a->q), free(a->k), free(a->v), free(a->stored_k), free(a->stored_v); }

/* Attention of the first n positions, of which n_past are already stored; out is [n - n_past,
 * n_embd]. */
static void run_attention(check *c, const heads *a, float *out, size_t n, size_t n_past, int fused, span rows,
                          span of_heads) {
    const gpt2c_op_attention_args args = {
        .out = out,
        .q = a->q,
        .k = a->k,
        .v = a->v,
        .n = n,
        .n_past = n_past,
        .n_head = a->n_head,
        .head_dim = a->head_dim,
        .fused = fused,
        .kv_f16 = a->kv_f16,
        .rows_begin = rows.begin,
        .rows_end = rows.end,
        .heads_begin = of_heads.begin,
        .heads_end = of_heads.end,
    };
    expect_ok(c, gpt2c_op_attention(c->isa, &args));
}

/* Whether one row's output of one head is within the bound of kernels.h. */
static int is_attention_within_bound(const heads *a, const float *out, size_t row, size_t head, double *scores,
                                     double *p) {
    const size_t n = row + 1, at = head * a->head_dim;
    const float *q = a->q + row * a->n_embd + at;
    const double root = sqrt((double)a->head_dim), visible = (double)n;
    double largest = 0.0;
    for (size_t t = 0; t < n; t++) {
        double dot = 0.0, magnitude = 0.0;
        for (size_t d = 0; d < a->head_dim; d++) {
            const double product = (double)q[d] * (double)a->stored_k[t * a->n_embd + at + d];
            dot += product;
            magnitude += fabs(product);
        }
        scores[t] = dot / root;
        largest = fmax(largest, magnitude / root);
    }
    const double top = exact_softmax(p, scores, n), dim = (double)a->head_dim;
    const double score_error = (dim + 3) * EPS * largest + TINY * dim;
    for (size_t d = 0; d < a->head_dim; d++) {
        double sum = 0.0, bound = visible * TINY;
        for (size_t t = 0; t < n; t++) {
            const double v = (double)a->stored_v[t * a->n_embd + at + d];
            const double factor = 2 * visible + log(visible) + 9 + (top - scores[t]);
            sum += p[t] * v;
            bound += fabs(v) * (p[t] * (factor * EPS + expm1(2 * score_error)) + CUT);
        }
        if (!is_near(out[row * a->n_embd + at + d], sum, bound)) return 0;
    }
    return 1;
}

static void check_attention_bound(check *c, size_t n, size_t n_head, size_t head_dim, int32_t kv_f16) {
    heads a = new_heads(n, n_head, head_dim, kv_f16);
    float *out = new_floats(n * a.n_embd), *fused = new_floats(n * a.n_embd);
    double *scores = allocate(n, sizeof *scores), *p = allocate(n, sizeof *p);
    run_attention(c, &a, out, n, 0, 0, (span){0, n}, (span){0, n_head});
    run_attention(c, &a, fused, n, 0, 1, (span){0, n}, (span){0, n_head});
    expect(c, same_bits(out, fused, n * a.n_embd), "fused differs", n, head_dim);
    for (size_t row = 0; row < n; row++)
        for (size_t head = 0; head < n_head; head++)
            expect(c, is_attention_within_bound(&a, out, row, head, scores, p), "outside the bound", n, head_dim);
    free(out), free(fused), free(scores), free(p);
    free_heads(&a);
}

/* A part of the rows and heads, of n positions in two chunks, has the same bits as in the whole. */
static void check_attention_part(check *c, const heads *a, const float *whole, size_t n, size_t n_past,
                                 span rows, span of_heads) {
    const size_t size = (n - n_past) * a->n_embd;
    float *out = new_filled(size), *expected = new_filled(size);
    for (size_t r = rows.begin; r < rows.end; r++)
        for (size_t i = of_heads.begin * a->head_dim; i < of_heads.end * a->head_dim; i++)
            expected[r * a->n_embd + i] = whole[(n_past + r) * a->n_embd + i];
    run_attention(c, a, out, n, n_past, (int)(n % 2), rows, of_heads);
    expect(c, same_bits(out, expected, size), "a part differs", n, n_past);
    free(out), free(expected);
}

/* Positions before `from` do not see `from` and later positions. */
static void check_attention_mask(check *c, size_t n, size_t from, int32_t kv_f16) {
    heads a = new_heads(n, 2, 17, kv_f16);
    float *whole = new_floats(n * a.n_embd), *out = new_floats(n * a.n_embd);
    run_attention(c, &a, whole, n, 0, 1, (span){0, n}, (span){0, 2});
    for (size_t i = from * a.n_embd; i < n * a.n_embd; i++) a.q[i] = a.k[i] = a.v[i] = NAN;
    run_attention(c, &a, out, n, 0, 1, (span){0, n}, (span){0, 2});
    expect(c, same_bits(out, whole, from * a.n_embd), "a later position is seen", n, from);
    for (size_t i = from * a.n_embd; i < n * a.n_embd; i++)
        expect(c, isnan(out[i]), "a NaN is lost", n, from);
    free(whole), free(out);
    free_heads(&a);
}

/* Values that no half represents: too large, between two halves, too small; in each lane of a
 * register. */
static void check_attention_limits(check *c) {
    static const float x[] = {65504.0f, 65519.0f, 65520.0f, 1e30f, -65520.0f, -1e30f, INFINITY, -INFINITY,
                              0x1p-24f, 0x1p-25f, 0x1.8p-25f, 1e-45f, 2049.0f, 2051.0f, 1.0f, -0x1p-14f};
    for (size_t n = 1; n <= COUNT_OF(x); n++) {
        float zeros[COUNT_OF(x)] = {0.0f}, out[COUNT_OF(x)];
        const float *v = x + COUNT_OF(x) - n;
        const gpt2c_op_attention_args args = {
            .out = out,
            .q = zeros,
            .k = zeros,
            .v = v,
            .n = 1,
            .n_head = 1,
            .head_dim = n,
            .kv_f16 = 1,
            .rows_end = 1,
            .heads_end = 1,
        };
        expect_ok(c, gpt2c_op_attention(c->isa, &args));
        for (size_t i = 0; i < n; i++)
            expect(c, out[i] >= to_stored_f16(v[i]) && out[i] <= to_stored_f16(v[i]), "stored as another value", n, i);
    }
}

static void check_form(check *c, int32_t kv_f16) {
    static const size_t shapes[][2] = {{1, 1}, {3, 5}, {2, 16}, {2, 17}, {3, 64}};
    for (size_t i = 0; i < COUNT_OF(shapes); i++)
        for (size_t s = 0; s + 1 < N_SIZES; s++) /* except 768 */
            check_attention_bound(c, sizes[s], shapes[i][0], shapes[i][1], kv_f16);
    check_attention_bound(c, 768, 1, 8, kv_f16);

    for (size_t from = 1; from < 37; from++) check_attention_mask(c, 37, from, kv_f16);

    heads a = new_heads(65, 3, 21, kv_f16);
    float *whole = new_floats(65 * a.n_embd);
    run_attention(c, &a, whole, 65, 0, 1, (span){0, 65}, (span){0, 3});
    for (size_t n = 1; n <= 65; n += n < 17 ? 1 : 8)
        for (size_t n_past = 0; n_past < n; n_past++) {
            check_attention_part(c, &a, whole, n, n_past, (span){0, n - n_past}, (span){0, 3});
            check_attention_part(c, &a, whole, n, n_past, (span){(n - n_past) / 2, n - n_past}, (span){1, 2});
        }
    free(whole);
    free_heads(&a);
}

void check_attention(check *c) { check_form(c, 0); }

void check_attention_f16(check *c) {
    check_form(c, 1);
    check_attention_limits(c);
}
