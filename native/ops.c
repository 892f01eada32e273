/* The operations that forward.c calls, except for the logits (head.c). Each chooses its rows and calls the
 * kernel through work.c, which divides the rows among the threads and counts them. */
#include "ops.h"

#include <math.h>

#include "trace.h"
#include "work.h"

/* ---- Embedding ---- */

/* The rows that are in a segment; empty if none is. */
static gpt2c_span rows_in(const gpt2c_segment *segment, gpt2c_span rows) {
    const size_t begin = size_max(segment->begin, rows.begin);
    return (gpt2c_span){begin, size_max(begin, size_min(segment->end, rows.end))};
}

typedef struct embed_args {
    const gpt2c_pass *pass;
    float *out;
} embed_args;

static void compute_embed(const gpt2c_job *job, gpt2c_span rows, size_t worker) {
    const embed_args *a = job->args;
    const gpt2c_model *model = a->pass->session->model;
    const size_t n_embd = (size_t)model->config.n_embd;
    (void)worker;
    for (size_t i = 0; i < a->pass->n_segments; i++) {
        const gpt2c_segment *segment = &a->pass->segments[i];
        const gpt2c_span mine = rows_in(segment, rows);
        for (size_t r = mine.begin; r < mine.end; r++) {
            const size_t position = segment->position + r - segment->begin;
            job->kernels->embed(a->out + r * n_embd, &model->wte, (size_t)segment->session->ids[position],
                                model->wpe + position * n_embd);
        }
    }
}

void gpt2c_embed(gpt2c_pass *pass, float *out) {
    const embed_args a = {pass, out};
    const gpt2c_job job = {.args = &a, .compute = compute_embed};
    const gpt2c_span rows = gpt2c_rows_of(pass, GPT2C_SWITCH_RESIDUAL);
    const size_t n_embd = (size_t)pass->session->model->config.n_embd;
    gpt2c_run_rows(pass, GPT2C_SWITCH_RESIDUAL, rows, n_embd, job, GPT2C_NO_ITEMS, 1);
    gpt2c_trace_rows(pass, GPT2C_TRACED_OP_EMBED, -1, rows, n_embd, 3 * n_embd);
}

/* ---- Row by row: layer norm, GELU, residual ---- */

typedef struct row_args {
    float *out;
    const float *x;
    const float *delta;
    const gpt2c_norm *norm;
    const gpt2c_model *model;
    size_t n; /* elements per row */
} row_args;

static void compute_layernorm(const gpt2c_job *job, gpt2c_span rows, size_t worker) {
    const row_args *a = job->args;
    const size_t at = rows.begin * a->n;
    (void)worker;
    job->kernels->layernorm(a->out + at, a->x + at, a->norm->weight, a->norm->bias,
                            rows.end - rows.begin, a->n, a->model->config.layer_norm_epsilon);
}

static gpt2c_epilogue activation_of(const gpt2c_model *model) {
    switch ((gpt2c_activation)model->config.activation) {
    case GPT2C_ACTIVATION_GELU_ERF: return GPT2C_EPILOGUE_GELU_ERF;
    case GPT2C_ACTIVATION_RELU: return GPT2C_EPILOGUE_RELU;
    case GPT2C_ACTIVATION_GELU_TANH:
    default: return model->gelu_table != NULL ? GPT2C_EPILOGUE_GELU_TABLE : GPT2C_EPILOGUE_GELU;
    }
}

static void compute_gelu(const gpt2c_job *job, gpt2c_span rows, size_t worker) {
    const row_args *a = job->args;
    const size_t at = rows.begin * a->n, n = (rows.end - rows.begin) * a->n;
    (void)worker;
    gpt2c_activate(job->kernels, activation_of(a->model), a->model->gelu_table, a->out + at, a->x + at, n);
}

static void compute_add(const gpt2c_job *job, gpt2c_span rows, size_t worker) {
    const row_args *a = job->args;
    const size_t at = rows.begin * a->n, n = (rows.end - rows.begin) * a->n;
    (void)worker;
    job->kernels->add(a->out + at, a->x + at, a->delta + at, n);
}

static void run_row_operation(gpt2c_pass *pass, gpt2c_switch s, row_args args,
                              void (*compute)(const gpt2c_job *, gpt2c_span, size_t)) {
    const gpt2c_job job = {.args = &args, .compute = compute};
    gpt2c_run_rows(pass, s, gpt2c_rows_of(pass, s), args.n, job, GPT2C_NO_ITEMS, 1);
}

void gpt2c_layernorm(gpt2c_pass *pass, float *out, const float *x, const gpt2c_norm *norm) {
    const gpt2c_model *model = pass->session->model;
    const row_args args = {
        .out = out,
        .x = x,
        .norm = norm,
        .model = model,
        .n = (size_t)model->config.n_embd,
    };
    run_row_operation(pass, GPT2C_SWITCH_LAYERNORM, args, compute_layernorm);
    gpt2c_trace_rows(pass, norm->op, norm->layer, gpt2c_rows_of(pass, GPT2C_SWITCH_LAYERNORM), args.n, 2 * args.n);
}

static void gelu(gpt2c_pass *pass, float *out, const float *x, int32_t layer) {
    const gpt2c_model *model = pass->session->model;
    const row_args args = {.out = out, .x = x, .model = model, .n = (size_t)model->config.n_inner};
    run_row_operation(pass, GPT2C_SWITCH_GELU, args, compute_gelu);
    gpt2c_trace_rows(pass, GPT2C_TRACED_OP_GELU, layer, gpt2c_rows_of(pass, GPT2C_SWITCH_GELU), args.n, 2 * args.n);
    pass->separate_passes++;
}

static void add(gpt2c_pass *pass, float *out, const float *x, const float *delta, int32_t layer) {
    const gpt2c_model *model = pass->session->model;
    const row_args args = {.out = out, .x = x, .delta = delta, .n = (size_t)model->config.n_embd};
    run_row_operation(pass, GPT2C_SWITCH_RESIDUAL, args, compute_add);
    gpt2c_trace_rows(pass, GPT2C_TRACED_OP_RESIDUAL, layer, gpt2c_rows_of(pass, GPT2C_SWITCH_RESIDUAL), args.n,
                     3 * args.n);
    pass->separate_passes++;
}

/* ---- Linear layers ---- */

static void compute_linear(const gpt2c_job *job, gpt2c_span columns, size_t worker) {
    const gpt2c_linear_args *args = job->args;
    (void)worker;
    job->kernels->linear[args->w->layout](args, job->rows, columns);
}

static void pack_rows(const gpt2c_linear_args *args, gpt2c_span rows, const float *x, const void *packed_x) {
    const size_t n_in = args->w->n_in;
    char *out = (char *)packed_x + rows.begin * gpt2c_packed_x_bytes(n_in);
    args->kernels->pack[args->w->layout](out, x + rows.begin * n_in, rows.end - rows.begin, n_in);
}

static void compute_packed_x(const gpt2c_job *job, gpt2c_span rows, size_t worker) {
    const gpt2c_linear_args *args = job->args;
    (void)worker;
    pack_rows(args, rows, args->x, args->packed_x);
    if (args->x_remainder != NULL) pack_rows(args, rows, args->x_remainder, args->packed_remainder);
}

void gpt2c_pack(const gpt2c_pass *pass, gpt2c_span rows, gpt2c_linear_args *args) {
    const gpt2c_session *session = pass->session;
    if (args->kernels->pack[args->w->layout] == NULL) return;
    args->packed_x = gpt2c_at(session, session->buffers.packed_x, 0);
    if (args->x_remainder != NULL) args->packed_remainder = gpt2c_at(session, session->buffers.packed_remainder, 0);
    gpt2c_job job = {.kernels = args->kernels, .args = args, .items = rows, .compute = compute_packed_x};
    gpt2c_run_block(pass, &job, 1);
}

void gpt2c_run_linear(gpt2c_pass *pass, gpt2c_switch s, gpt2c_span rows, gpt2c_linear_args args) {
    const gpt2c_span columns = {0, args.w->n_out};
    args.kernels = pass->session->model->kernels;
    gpt2c_pack(pass, rows, &args);
    const gpt2c_job job = {.args = &args, .compute = compute_linear};
    gpt2c_run_rows(pass, s, rows, args.w->n_in * args.w->n_out, job, columns, GPT2C_PANEL);
}

void gpt2c_project(gpt2c_pass *pass, gpt2c_switch s, float *out, const float *x,
                   const gpt2c_linear *linear) {
    const gpt2c_linear_args args = {.out = out, .x = x, .w = &linear->w, .bias = linear->bias};
    const gpt2c_span rows = gpt2c_rows_of(pass, s);
    gpt2c_run_linear(pass, s, rows, args);
    gpt2c_trace_linear(pass, linear, rows, 0);
}

void gpt2c_project_gelu(gpt2c_pass *pass, float *out, float *between, const float *x,
                        const gpt2c_linear *linear) {
    const gpt2c_model *model = pass->session->model;
    if (!model->config.fused) {
        gpt2c_project(pass, GPT2C_SWITCH_LINEAR, between, x, linear);
        gelu(pass, out, between, linear->layer);
        return;
    }
    const gpt2c_span rows = gpt2c_rows_of(pass, GPT2C_SWITCH_LINEAR);
    const gpt2c_linear_args args = {
        .out = out,
        .x = x,
        .w = &linear->w,
        .bias = linear->bias,
        .gelu_table = model->gelu_table,
        .epilogue = activation_of(model),
    };
    gpt2c_run_linear(pass, GPT2C_SWITCH_LINEAR, rows, args);
    gpt2c_count_rows(pass, GPT2C_SWITCH_GELU, rows.end - rows.begin);
    gpt2c_trace_linear(pass, linear, rows, 0);
}

void gpt2c_project_add(gpt2c_pass *pass, float *out, const float *residual, float *between,
                       const float *x, const gpt2c_linear *linear) {
    if (!pass->session->model->config.fused) {
        gpt2c_project(pass, GPT2C_SWITCH_LINEAR, between, x, linear);
        add(pass, out, residual, between, linear->layer);
        return;
    }
    const gpt2c_span rows = gpt2c_rows_of(pass, GPT2C_SWITCH_LINEAR);
    const gpt2c_linear_args args = {
        .out = out,
        .x = x,
        .w = &linear->w,
        .bias = linear->bias,
        .epilogue = GPT2C_EPILOGUE_ADD,
        .residual = residual,
    };
    gpt2c_run_linear(pass, GPT2C_SWITCH_LINEAR, rows, args);
    gpt2c_count_rows(pass, GPT2C_SWITCH_RESIDUAL, rows.end - rows.begin);
    gpt2c_trace_linear(pass, linear, rows, linear->w.n_out);
}

/* ---- Attention ---- */

typedef struct attend_args {
    const gpt2c_pass *pass;
    float *out;
    const float *qkv;
    size_t layer;
} attend_args;

static float scale_of(const gpt2c_model_config *c, size_t layer) {
    const float scale = c->unscaled_scores ? 1.0f : 1.0f / sqrtf((float)(c->n_embd / c->n_head));
    return c->scores_by_layer ? scale / (float)(layer + 1) : scale;
}

/* The arguments of attention for one segment, whose rows are counted from 0. */
static gpt2c_attention_args args_of(const attend_args *a, const gpt2c_segment *segment, const gpt2c_kv *kv) {
    const gpt2c_session *buffers = a->pass->session;
    const size_t n_embd = (size_t)buffers->model->config.n_embd;
    return (gpt2c_attention_args){
        .out = a->out + segment->begin * n_embd,
        .qkv = a->qkv + segment->begin * 3 * n_embd,
        .kv = kv,
        .position = segment->position,
        .scores = gpt2c_at(buffers, buffers->buffers.scores, 0),
        .fused = buffers->model->config.fused,
        .scale = scale_of(&buffers->model->config, a->layer),
    };
}

/* Items are the heads of the first segment, then those of the next, and so on. */
static void compute_attention(const gpt2c_job *job, gpt2c_span items, size_t worker) {
    const attend_args *a = job->args;
    const size_t n_head = (size_t)a->pass->session->model->config.n_head;
    size_t n = 0;
    for (size_t item = items.begin; item < items.end; item += n) {
        const gpt2c_segment *segment = &a->pass->segments[item / n_head];
        const size_t head = item % n_head;
        n = size_min(n_head - head, items.end - item);
        const gpt2c_span rows = rows_in(segment, job->rows);
        const gpt2c_kv kv = gpt2c_kv_of(segment->session, a->layer);
        gpt2c_attention_args args = args_of(a, segment, &kv);
        args.scores += worker * GPT2C_SCORE_ROWS * gpt2c_pad(kv.n_ctx, GPT2C_KV_TILE);
        gpt2c_attention(job->kernels, &args,
                        (gpt2c_span){rows.begin - segment->begin, rows.end - segment->begin},
                        (gpt2c_span){head, head + n});
    }
}

static void compute_store(const gpt2c_job *job, gpt2c_span rows, size_t worker) {
    const attend_args *a = job->args;
    const size_t n_embd = (size_t)a->pass->session->model->config.n_embd;
    (void)worker;
    for (size_t i = 0; i < a->pass->n_segments; i++) {
        const gpt2c_segment *segment = &a->pass->segments[i];
        const gpt2c_span mine = rows_in(segment, rows);
        const gpt2c_kv kv = gpt2c_kv_of(segment->session, a->layer);
        gpt2c_kv_store(job->kernels, &kv, a->qkv + mine.begin * 3 * n_embd, mine.end - mine.begin,
                       segment->position + mine.begin - segment->begin);
    }
}

void gpt2c_store_kv(gpt2c_pass *pass, const float *qkv, size_t layer) {
    const attend_args a = {pass, NULL, qkv, layer};
    const gpt2c_job job = {.args = &a, .compute = compute_store};
    const size_t work = 2 * (size_t)pass->session->model->config.n_embd;
    /* Tasks of whole tiles: threads that share a tile would write to the same cache line. */
    gpt2c_run_rows(pass, GPT2C_SWITCH_KV, gpt2c_rows_of(pass, GPT2C_SWITCH_KV), work, job, GPT2C_NO_ITEMS,
                   GPT2C_KV_TILE);
}

void gpt2c_attend(gpt2c_pass *pass, float *out, const float *qkv, size_t layer) {
    const gpt2c_model *model = pass->session->model;
    const size_t n_embd = (size_t)model->config.n_embd, n_head = (size_t)model->config.n_head;
    const gpt2c_span rows = gpt2c_rows_of(pass, GPT2C_SWITCH_KV);
    const attend_args a = {pass, out, qkv, layer};
    const gpt2c_job job = {.args = &a, .compute = compute_attention};
    /* The few rows of several sessions are one block. Each row of a long prompt reads up to n positions. */
    const size_t work = pass->n_segments > 1 ? n_embd : 2 * pass->n * n_embd;
    gpt2c_run_rows(pass, GPT2C_SWITCH_KV, rows, work, job, (gpt2c_span){0, pass->n_segments * n_head}, 1);
    gpt2c_trace_attention(pass, layer, rows);
}
