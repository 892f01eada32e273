/* Runs kernels in loops as a session does: directly from their table, on operands that are laid out once.
 * gpt2c.kernels would add the call from Python and the checks of its arguments. It also lays out K and V
 * for each call of attention, which for one row takes far longer than the attention itself.
 *
 * Not part of gpt2c: native.py compiles it together with the core. */
#include <math.h>
#include <string.h>

#include "gpt2c.h"
#include "kernels.h"
#include "matrix.h"
#include "memory.h"

/* ---- Linear layers ---- */

/* Copies of one matrix that are read alternately, so that together they can exceed the caches. */
typedef struct matrices {
    gpt2c_matrix **copies;
    size_t n_copies;
    size_t next;
} matrices;

void gpt2c_bench_matrices_free(matrices *all) {
    if (all == NULL) return;
    for (size_t i = 0; all->copies != NULL && i < all->n_copies; i++) gpt2c_matrix_free(all->copies[i]);
    gpt2c_free(all->copies);
    gpt2c_free(all);
}

/* Copies of weight [n_in, n_out] in a format of formats.def. NULL: out of memory. */
matrices *gpt2c_bench_matrices_new(const float *weight, size_t n_in, size_t n_out, int32_t format,
                                   size_t n_copies) {
    matrices *all = gpt2c_alloc_zero(1, sizeof *all);
    if (all == NULL) return NULL;
    all->n_copies = n_copies;
    all->copies = gpt2c_alloc_zero(n_copies, sizeof(gpt2c_matrix *));
    const gpt2c_layout layout = gpt2c_layout_of_format(format);
    gpt2c_status status = all->copies == NULL ? GPT2C_STATUS_OUT_OF_MEMORY : GPT2C_STATUS_OK;
    for (size_t i = 0; status == GPT2C_STATUS_OK && i < n_copies; i++)
        status = gpt2c_matrix_create(weight, GPT2C_LAYOUT_IN_OUT, n_in, n_out, layout, &all->copies[i]);
    if (status == GPT2C_STATUS_OK) return all;
    gpt2c_bench_matrices_free(all);
    return NULL;
}

/* Bytes of `packed_x` for that many rows; not all layouts use it. */
size_t gpt2c_bench_packed_x_bytes(size_t rows, size_t n_in) { return rows * gpt2c_packed_x_bytes(n_in); }

void gpt2c_bench_linear(int32_t isa, float *out, const float *x, matrices *weights, void *packed_x,
                        size_t rows, size_t loops) {
    const gpt2c_kernels *kernels = gpt2c_kernels_of(isa);
    for (size_t loop = 0; loop < loops; loop++) {
        const gpt2c_matrix *w = weights->copies[weights->next];
        const gpt2c_linear_args args = {
            .out = out,
            .x = x,
            .w = w,
            .packed_x = packed_x,
            .kernels = kernels,
        };
        if (kernels->pack[w->layout] != NULL) kernels->pack[w->layout](packed_x, x, rows, w->n_in);
        kernels->linear[w->layout](&args, (gpt2c_span){0, rows}, (gpt2c_span){0, w->n_out});
        weights->next = (weights->next + 1) % weights->n_copies;
    }
}

/* ---- Attention ---- */

typedef struct attention {
    const gpt2c_kernels *kernels;
    gpt2c_kv *caches; /* copies, read alternately like those of a matrix */
    size_t n_copies;
    size_t next;
    float *qkv; /* of the rows that are computed */
    float *scores;
    size_t rows;
    size_t position; /* of the first of them */
} attention;

void gpt2c_bench_attention_free(attention *all) {
    if (all == NULL) return;
    for (size_t i = 0; all->caches != NULL && i < all->n_copies; i++) {
        gpt2c_free(all->caches[i].k);
        gpt2c_free(all->caches[i].v);
    }
    gpt2c_free(all->caches);
    gpt2c_free(all->qkv);
    gpt2c_free(all->scores);
    gpt2c_free(all);
}

static int store_kv(gpt2c_kv *cache, const gpt2c_kernels *kernels, const float *qkv, size_t n, size_t n_head,
                    size_t head_dim) {
    const size_t padded = gpt2c_pad(n, GPT2C_KV_TILE) * n_head * gpt2c_pad(head_dim, GPT2C_KV_TILE);
    *cache = (gpt2c_kv){
        .k = gpt2c_alloc_zero(padded, sizeof(float)),
        .v = gpt2c_alloc_zero(padded, sizeof(float)),
        .n_ctx = n,
        .n_head = n_head,
        .head_dim = head_dim,
    };
    if (cache->k == NULL || cache->v == NULL) return 0;
    kernels->store(cache, qkv, n, 0);
    return 1;
}

/* Attention over qkv [n, 3 n_head head_dim]; rows from `position` on are computed. NULL: out of memory. */
attention *gpt2c_bench_attention_new(int32_t isa, const float *qkv, size_t n, size_t position,
                                     size_t n_head, size_t head_dim, size_t n_copies) {
    const size_t width = 3 * n_head * head_dim, rows = n - position;
    attention *all = gpt2c_alloc_zero(1, sizeof *all);
    if (all == NULL) return NULL;
    all->kernels = gpt2c_kernels_of(isa);
    all->n_copies = n_copies;
    all->rows = rows;
    all->position = position;
    all->caches = gpt2c_alloc_zero(n_copies, sizeof *all->caches);
    all->qkv = gpt2c_alloc(rows * width, sizeof(float));
    all->scores = gpt2c_alloc_zero(GPT2C_SCORE_ROWS * gpt2c_pad(n, GPT2C_KV_TILE), sizeof(float));
    int done = all->caches != NULL && all->qkv != NULL && all->scores != NULL;
    for (size_t i = 0; done && i < n_copies; i++)
        done = store_kv(&all->caches[i], all->kernels, qkv, n, n_head, head_dim);
    if (!done) {
        gpt2c_bench_attention_free(all);
        return NULL;
    }
    memcpy(all->qkv, qkv + position * width, rows * width * sizeof(float));
    return all;
}

/* Writes out [rows, n_head head_dim]. */
void gpt2c_bench_attention(attention *all, float *out, size_t loops) {
    for (size_t loop = 0; loop < loops; loop++) {
        const gpt2c_kv *kv = &all->caches[all->next];
        const gpt2c_attention_args args = {
            .out = out,
            .qkv = all->qkv,
            .kv = kv,
            .position = all->position,
            .scores = all->scores,
            .fused = 1,
            .scale = 1.0f / sqrtf((float)kv->head_dim),
        };
        all->kernels->attention(&args, (gpt2c_span){0, all->rows}, (gpt2c_span){0, kv->n_head});
        all->next = (all->next + 1) % all->n_copies;
    }
}

/* ---- Other operations, as in gpt2c.h, but in loops ---- */

void gpt2c_bench_layernorm(int32_t isa, float *out, const float *x, const float *weight, const float *bias,
                           size_t rows, size_t n, float epsilon, size_t loops) {
    const gpt2c_kernels *kernels = gpt2c_kernels_of(isa);
    for (size_t loop = 0; loop < loops; loop++)
        kernels->layernorm(out, x, weight, bias, rows, n, epsilon);
}

void gpt2c_bench_gelu(int32_t isa, float *out, const float *x, size_t n, size_t loops) {
    const gpt2c_kernels *kernels = gpt2c_kernels_of(isa);
    for (size_t loop = 0; loop < loops; loop++) kernels->gelu(out, x, n);
}

void gpt2c_bench_gelu_table(int32_t isa, float *out, const float *x, size_t n, const uint16_t *table,
                            size_t loops) {
    const gpt2c_kernels *kernels = gpt2c_kernels_of(isa);
    for (size_t loop = 0; loop < loops; loop++) kernels->gelu_table(out, x, n, table);
}

void gpt2c_bench_softmax(int32_t isa, float *out, const float *x, size_t rows, size_t n, size_t loops) {
    const gpt2c_kernels *kernels = gpt2c_kernels_of(isa);
    for (size_t loop = 0; loop < loops; loop++)
        for (size_t r = 0; r < rows; r++) kernels->softmax(out + r * n, x + r * n, n);
}

void gpt2c_bench_add(int32_t isa, float *out, const float *a, const float *b, size_t n, size_t loops) {
    const gpt2c_kernels *kernels = gpt2c_kernels_of(isa);
    for (size_t loop = 0; loop < loops; loop++) kernels->add(out, a, b, n);
}

void gpt2c_bench_argmax(int32_t isa, int64_t *out, const float *x, size_t n, size_t loops) {
    const gpt2c_kernels *kernels = gpt2c_kernels_of(isa);
    for (size_t loop = 0; loop < loops; loop++) *out = (int64_t)kernels->argmax(x, n);
}
