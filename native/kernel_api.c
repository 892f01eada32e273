/* The kernels one by one, as the public header offers them: each call checks its arguments, allocates scratch
 * and calls the instruction set's kernel. Nothing is computed here. */
#include <math.h>
#include <string.h>

#include "gpt2c.h"
#include "kernels.h"
#include "matrix.h"
#include "memory.h"
#include "quantized.h"

/* ---- Checks ---- */

static gpt2c_status find_kernels(int32_t isa, const gpt2c_kernels **kernels) {
    gpt2c_isa_info info;
    const gpt2c_status status = gpt2c_isa_get(isa, &info);
    if (status != GPT2C_STATUS_OK) return status;
    if (!info.supported) return GPT2C_STATUS_UNSUPPORTED;
    *kernels = gpt2c_kernels_of(isa);
    return GPT2C_STATUS_OK;
}

/* Whether `data` can be an array of a * b elements. Without elements it may be NULL. */
static int is_array(const void *data, size_t a, size_t b) {
    return a == 0 || b == 0 || (data != NULL && a <= PTRDIFF_MAX / sizeof(float) / b);
}

static int is_span(size_t begin, size_t end, size_t n) { return begin <= end && end <= n; }

/* ---- Matrices ---- */

gpt2c_status gpt2c_matrix_create(const float *weight, gpt2c_layout given, size_t n_in, size_t n_out,
                                 gpt2c_layout layout, gpt2c_matrix **matrix) {
    if (matrix == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    *matrix = NULL;
    if (given != GPT2C_LAYOUT_IN_OUT && given != GPT2C_LAYOUT_OUT_IN) return GPT2C_STATUS_INVALID_ARGUMENT;
    if ((int)layout < 0 || layout >= GPT2C_LAYOUT_COUNT) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (n_in == 0 || n_out == 0 || !is_array(weight, n_in, n_out)) return GPT2C_STATUS_INVALID_ARGUMENT;
    /* No layout takes more than a float per element, padded to whole blocks and panels. */
    if (gpt2c_pad(n_in, 2 * GPT2C_GROUP) > PTRDIFF_MAX / sizeof(float) / GPT2C_PANEL / gpt2c_panels(n_out))
        return GPT2C_STATUS_OUT_OF_MEMORY;

    gpt2c_matrix *made = gpt2c_alloc(1, sizeof *made);
    if (made == NULL) return GPT2C_STATUS_OUT_OF_MEMORY;
    *made = (gpt2c_matrix){layout, n_in, n_out, NULL};
    made->data = gpt2c_alloc(gpt2c_matrix_bytes(made), 1);
    if (made->data == NULL) {
        gpt2c_free(made);
        return GPT2C_STATUS_OUT_OF_MEMORY;
    }
    gpt2c_matrix_set(made, &(gpt2c_source){given, GPT2C_DTYPE_F32, weight});
    *matrix = made;
    return GPT2C_STATUS_OK;
}

void gpt2c_matrix_free(gpt2c_matrix *matrix) {
    if (matrix == NULL) return;
    gpt2c_free(matrix->data);
    gpt2c_free(matrix);
}

/* ---- Operations ---- */

static int is_epilogue(const gpt2c_op_linear_args *args) {
    switch (args->epilogue) {
    case GPT2C_EPILOGUE_NONE:
    case GPT2C_EPILOGUE_GELU:
    case GPT2C_EPILOGUE_GELU_ERF:
    case GPT2C_EPILOGUE_RELU: return 1;
    case GPT2C_EPILOGUE_GELU_TABLE: return args->gelu_table != NULL;
    case GPT2C_EPILOGUE_ADD: return is_array(args->residual, args->rows_end, args->weight->n_out);
    default: return 0;
    }
}

/* Packs x if the kernel needs that, then runs it. */
static gpt2c_status run_linear(const gpt2c_kernels *kernels, gpt2c_linear_args args, gpt2c_span rows,
                               gpt2c_span columns) {
    const gpt2c_layout layout = args.w->layout;
    void *packed_x = NULL;
    if (kernels->pack[layout] != NULL) {
        packed_x = gpt2c_alloc(rows.end, gpt2c_packed_x_bytes(args.w->n_in));
        if (packed_x == NULL) return GPT2C_STATUS_OUT_OF_MEMORY;
        kernels->pack[layout](packed_x, args.x, rows.end, args.w->n_in);
        args.packed_x = packed_x;
    }
    kernels->linear[layout](&args, rows, columns);
    gpt2c_free(packed_x);
    return GPT2C_STATUS_OK;
}

gpt2c_status gpt2c_op_linear(int32_t isa, const gpt2c_op_linear_args *args) {
    const gpt2c_kernels *kernels;
    const gpt2c_status status = find_kernels(isa, &kernels);
    if (status != GPT2C_STATUS_OK) return status;
    if (args == NULL || args->weight == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    const gpt2c_matrix *w = args->weight;
    const gpt2c_span rows = {args->rows_begin, args->rows_end};
    const gpt2c_span columns = {args->columns_begin, args->columns_end};
    if (!is_span(rows.begin, rows.end, rows.end)) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!is_span(columns.begin, columns.end, w->n_out)) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (columns.begin % GPT2C_PANEL != 0) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (columns.end % GPT2C_PANEL != 0 && columns.end != w->n_out) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!is_array(args->x, rows.end, w->n_in) || !is_array(args->out, rows.end, w->n_out))
        return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!is_epilogue(args)) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (rows.begin == rows.end || columns.begin == columns.end) return GPT2C_STATUS_OK;

    const gpt2c_linear_args whole = {
        .out = args->out,
        .x = args->x,
        .w = w,
        .bias = args->bias,
        .epilogue = args->epilogue,
        .gelu_table = args->gelu_table,
        .residual = args->residual,
        .kernels = kernels,
    };
    return run_linear(kernels, whole, rows, columns);
}

gpt2c_status gpt2c_op_embed(int32_t isa, float *out, const gpt2c_matrix *wte, const int32_t *ids,
                            const float *wpe, size_t rows) {
    const gpt2c_kernels *kernels;
    const gpt2c_status status = find_kernels(isa, &kernels);
    if (status != GPT2C_STATUS_OK) return status;
    if (wte == NULL || !is_array(ids, rows, 1)) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!is_array(out, rows, wte->n_in) || !is_array(wpe, rows, wte->n_in))
        return GPT2C_STATUS_INVALID_ARGUMENT;
    for (size_t r = 0; r < rows; r++)
        if (ids[r] < 0 || (size_t)ids[r] >= wte->n_out) return GPT2C_STATUS_BAD_TOKEN;
    for (size_t r = 0; r < rows; r++)
        kernels->embed(out + r * wte->n_in, wte, (size_t)ids[r], wpe + r * wte->n_in);
    return GPT2C_STATUS_OK;
}

gpt2c_status gpt2c_op_layernorm(int32_t isa, float *out, const float *x, const float *weight,
                                const float *bias, size_t rows, size_t n, float epsilon) {
    const gpt2c_kernels *kernels;
    const gpt2c_status status = find_kernels(isa, &kernels);
    if (status != GPT2C_STATUS_OK) return status;
    if (n == 0 || !is_array(out, rows, n) || !is_array(x, rows, n)) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (weight == NULL || bias == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!(epsilon > 0.0f) || isinf(epsilon)) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (rows > 0) kernels->layernorm(out, x, weight, bias, rows, n, epsilon);
    return GPT2C_STATUS_OK;
}

gpt2c_status gpt2c_op_gelu(int32_t isa, float *out, const float *x, size_t n,
                           const uint16_t *table) {
    const gpt2c_kernels *kernels;
    const gpt2c_status status = find_kernels(isa, &kernels);
    if (status != GPT2C_STATUS_OK) return status;
    if (!is_array(out, n, 1) || !is_array(x, n, 1)) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (n > 0 && table != NULL)
        kernels->gelu_table(out, x, n, table);
    else if (n > 0)
        kernels->gelu(out, x, n);
    return GPT2C_STATUS_OK;
}

static gpt2c_status activate(int32_t isa, gpt2c_epilogue epilogue, float *out, const float *x, size_t n) {
    const gpt2c_kernels *kernels;
    const gpt2c_status status = find_kernels(isa, &kernels);
    if (status != GPT2C_STATUS_OK) return status;
    if (!is_array(out, n, 1) || !is_array(x, n, 1)) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (n > 0) gpt2c_activate(kernels, epilogue, NULL, out, x, n);
    return GPT2C_STATUS_OK;
}

gpt2c_status gpt2c_op_gelu_erf(int32_t isa, float *out, const float *x, size_t n) {
    return activate(isa, GPT2C_EPILOGUE_GELU_ERF, out, x, n);
}

gpt2c_status gpt2c_op_relu(int32_t isa, float *out, const float *x, size_t n) {
    return activate(isa, GPT2C_EPILOGUE_RELU, out, x, n);
}

gpt2c_status gpt2c_op_add(int32_t isa, float *out, const float *a, const float *b, size_t n) {
    const gpt2c_kernels *kernels;
    const gpt2c_status status = find_kernels(isa, &kernels);
    if (status != GPT2C_STATUS_OK) return status;
    if (!is_array(out, n, 1) || !is_array(a, n, 1) || !is_array(b, n, 1))
        return GPT2C_STATUS_INVALID_ARGUMENT;
    if (n > 0) kernels->add(out, a, b, n);
    return GPT2C_STATUS_OK;
}

gpt2c_status gpt2c_op_softmax(int32_t isa, float *out, const float *x, size_t rows, size_t n) {
    const gpt2c_kernels *kernels;
    const gpt2c_status status = find_kernels(isa, &kernels);
    if (status != GPT2C_STATUS_OK) return status;
    if (n == 0 || !is_array(out, rows, n) || !is_array(x, rows, n)) return GPT2C_STATUS_INVALID_ARGUMENT;
    for (size_t r = 0; r < rows; r++) kernels->softmax(out + r * n, x + r * n, n);
    return GPT2C_STATUS_OK;
}

gpt2c_status gpt2c_op_argmax(int32_t isa, int64_t *out, const float *x, size_t rows, size_t n) {
    const gpt2c_kernels *kernels;
    const gpt2c_status status = find_kernels(isa, &kernels);
    if (status != GPT2C_STATUS_OK) return status;
    if (n == 0 || n > INT32_MAX || !is_array(out, rows, 2) || !is_array(x, rows, n))
        return GPT2C_STATUS_INVALID_ARGUMENT;
    for (size_t r = 0; r < rows; r++) out[r] = (int64_t)kernels->argmax(x + r * n, n);
    return GPT2C_STATUS_OK;
}

/* ---- Attention ---- */

typedef struct attention_scratch {
    float *qkv;
    void *k;
    void *v;
    float *scores;
} attention_scratch;

static void free_scratch(attention_scratch *scratch) {
    gpt2c_free(scratch->qkv);
    gpt2c_free(scratch->k);
    gpt2c_free(scratch->v);
    gpt2c_free(scratch->scores);
}

/* Filled with NaN, so that a kernel that reads what it never stored gives a visibly wrong result. */
static void *new_nan(size_t n, size_t number_bytes) {
    void *data = gpt2c_alloc(n, number_bytes);
    if (data != NULL) memset(data, 0xff, n * number_bytes);
    return data;
}

static int new_scratch(attention_scratch *scratch, const gpt2c_op_attention_args *args) {
    const size_t n_padded = gpt2c_pad(args->n, GPT2C_KV_TILE);
    const size_t width = args->n_head * gpt2c_pad(args->head_dim, GPT2C_KV_TILE);
    const size_t number_bytes = gpt2c_kv_number_bytes(args->kv_f16);
    *scratch = (attention_scratch){
        .qkv = gpt2c_alloc(3 * args->n, args->n_head * args->head_dim * sizeof(float)),
        .k = new_nan(n_padded * width, number_bytes),
        .v = new_nan(n_padded * width, number_bytes),
        .scores = new_nan(GPT2C_SCORE_ROWS * n_padded, sizeof(float)),
    };
    return scratch->qkv != NULL && scratch->k != NULL && scratch->v != NULL && scratch->scores != NULL;
}

static int is_attention(const gpt2c_op_attention_args *args) {
    if (args->n_head == 0 || args->head_dim == 0) return 0;
    if (args->fused >> 1 != 0 || args->kv_f16 >> 1 != 0) return 0;
    if (!is_span(args->heads_begin, args->heads_end, args->n_head)) return 0;
    if (args->n_past > args->n) return 0;
    if (!is_span(args->rows_begin, args->rows_end, args->n - args->n_past)) return 0;
    /* Padding multiplies positions, and the elements of a head, by at most KV_TILE each. */
    const size_t max = PTRDIFF_MAX / sizeof(float) / (GPT2C_KV_TILE * GPT2C_KV_TILE);
    if (args->head_dim > max / args->n_head) return 0;
    const size_t n_embd = args->n_head * args->head_dim;
    if (args->n > max / n_embd) return 0;
    return is_array(args->out, args->n - args->n_past, n_embd) && is_array(args->q, args->n, n_embd) &&
           is_array(args->k, args->n, n_embd) && is_array(args->v, args->n, n_embd);
}

gpt2c_status gpt2c_op_attention(int32_t isa, const gpt2c_op_attention_args *args) {
    const gpt2c_kernels *kernels;
    const gpt2c_status status = find_kernels(isa, &kernels);
    if (status != GPT2C_STATUS_OK) return status;
    if (args == NULL || !is_attention(args)) return GPT2C_STATUS_INVALID_ARGUMENT;
    const gpt2c_span rows = {args->rows_begin, args->rows_end};
    const gpt2c_span heads = {args->heads_begin, args->heads_end};
    if (rows.begin == rows.end || heads.begin == heads.end) return GPT2C_STATUS_OK;

    attention_scratch scratch;
    if (!new_scratch(&scratch, args)) {
        free_scratch(&scratch);
        return GPT2C_STATUS_OUT_OF_MEMORY;
    }
    const size_t n_embd = args->n_head * args->head_dim, n_bytes = n_embd * sizeof(float);
    for (size_t r = 0; r < args->n; r++) {
        float *row = scratch.qkv + r * 3 * n_embd;
        if (r >= args->n_past) memcpy(row, args->q + r * n_embd, n_bytes);
        memcpy(row + n_embd, args->k + r * n_embd, n_bytes);
        memcpy(row + 2 * n_embd, args->v + r * n_embd, n_bytes);
    }
    const gpt2c_kv kv = {scratch.k, scratch.v, args->n, args->n_head, args->head_dim, args->kv_f16};
    const float *fresh = scratch.qkv + args->n_past * 3 * n_embd;
    if (args->n_past > 0) gpt2c_kv_store(kernels, &kv, scratch.qkv, args->n_past, 0);
    gpt2c_kv_store(kernels, &kv, fresh, args->n - args->n_past, args->n_past);
    const gpt2c_attention_args whole = {
        .out = args->out,
        .qkv = fresh,
        .kv = &kv,
        .position = args->n_past,
        .scores = scratch.scores,
        .fused = args->fused,
        .scale = 1.0f / sqrtf((float)args->head_dim),
    };
    gpt2c_attention(kernels, &whole, rows, heads);
    free_scratch(&scratch);
    return GPT2C_STATUS_OK;
}
