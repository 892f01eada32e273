/* The operations that forward.c is written in: each picks its rows, shares the work out among the
 * threads, counts what was computed, and calls the kernel. */
#include <string.h>
#include <time.h>

#include "forward.h"

/* ---- Ending a call ---- */

#define POLL_INTERVAL 50000000 /* nanoseconds */

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

gpt2c_pass gpt2c_pass_start(gpt2c_session *session) {
    gpt2c_pass pass = {.session = session};
    pass.next_poll = now() + POLL_INTERVAL;
    return pass;
}

static int stopped(gpt2c_pass *pass) {
    gpt2c_session *session = pass->session;
    if (pass->stopped) return 1;
    if (__atomic_load_n(&session->cancelled, __ATOMIC_RELAXED)) return pass->stopped = 1;
    if (session->poll == NULL || now() < pass->next_poll) return 0;
    pass->stopped = session->poll(session->poll_context) != 0;
    pass->next_poll = now() + POLL_INTERVAL;
    return pass->stopped;
}

/* ---- Rows ---- */

static size_t size_min(size_t a, size_t b) { return a < b ? a : b; }
static size_t size_max(size_t a, size_t b) { return a > b ? a : b; }

/* Rows of the buffers, that is, counted from the pass's origin. */
static gpt2c_span rows_of(const gpt2c_pass *pass, gpt2c_switch s) {
    const int on = gpt2c_switch_on(pass->session->model, s);
    return (gpt2c_span){(on ? pass->n_past : 0) - (on ? pass->origin : 0), pass->n - pass->origin};
}

/* All operations of a switch compute equally many rows in a pass: the most that one did is shown. */
static void count_rows(gpt2c_pass *pass, gpt2c_switch s, size_t computed) {
    pass->rows[s] = size_max(pass->rows[s], computed);
}

/* ---- Work, in blocks and tasks ----
 *
 * An operation's rows are walked in blocks, between which the call can be ended; a block is about a
 * tenth of a second for the naive kernels. Each block is shared out among the pool's threads in
 * tasks: some columns of all its rows in a linear layer, some rows or heads elsewhere. */

#define BLOCK_WORK ((size_t)1 << 27) /* multiply-adds */
#define TASKS_PER_THREAD 4           /* so that a thread that is held up can be helped */

typedef struct block_job {
    const gpt2c_kernels *kernels;
    const void *args; /* the operation's own */
    gpt2c_span rows;
    gpt2c_span items; /* what the tasks share out */
    size_t items_per_task;
    void (*compute)(const struct block_job *job, gpt2c_span items, size_t worker);
} block_job;

static void compute_task(void *context, size_t task, size_t worker) {
    const block_job *job = context;
    const size_t begin = job->items.begin + task * job->items_per_task;
    job->compute(job, (gpt2c_span){begin, size_min(job->items.end, begin + job->items_per_task)},
                 worker);
}

/* Shares a block's items out, in whole multiples of `unit`. */
static void run_block(const gpt2c_pass *pass, block_job *job, size_t unit) {
    gpt2c_pool *pool = pass->session->model->pool;
    const size_t n = job->items.end - job->items.begin;
    const size_t n_threads = gpt2c_pool_threads(pool);
    const size_t n_tasks = n_threads == 1 ? 1 : n_threads * TASKS_PER_THREAD;
    job->items_per_task = gpt2c_pad(size_max(1, (n + n_tasks - 1) / n_tasks), unit);
    gpt2c_pool_run(pool, (n + job->items_per_task - 1) / job->items_per_task, compute_task, job);
}

/* Runs an operation over `rows`, each of about `work` multiply-adds, and counts them. The tasks share
 * out `items` if it is not empty, else the rows themselves. */
static void run_rows(gpt2c_pass *pass, gpt2c_switch s, gpt2c_span rows, size_t work, block_job job,
                     gpt2c_span items, size_t unit) {
    const size_t step = size_max(1, BLOCK_WORK / size_max(1, work));
    size_t done = rows.begin;
    job.kernels = pass->session->model->kernels;
    while (done < rows.end && !stopped(pass)) {
        job.rows = (gpt2c_span){done, size_min(rows.end, done + step)};
        job.items = items.end > items.begin ? items : job.rows;
        run_block(pass, &job, unit);
        done = job.rows.end;
    }
    count_rows(pass, s, done - rows.begin);
}

#define NO_ITEMS ((gpt2c_span){0, 0})

/* ---- Embedding ---- */

void gpt2c_embed(gpt2c_pass *pass, float *out) {
    const gpt2c_session *session = pass->session;
    const gpt2c_model *model = session->model;
    const size_t n_embd = (size_t)model->config.n_embd;
    const gpt2c_span rows = rows_of(pass, GPT2C_SWITCH_RESIDUAL);
    for (size_t r = rows.begin; r < rows.end; r++) {
        const size_t position = pass->origin + r;
        model->kernels->embed(out + r * n_embd, &model->wte, (size_t)session->ids[position],
                              model->wpe + position * n_embd);
    }
    count_rows(pass, GPT2C_SWITCH_RESIDUAL, rows.end - rows.begin);
}

/* ---- Row by row: layer norm, GELU, residual ---- */

typedef struct row_args {
    float *out;
    const float *x;
    const float *delta;
    const gpt2c_norm *norm;
    const gpt2c_model *model;
    size_t n; /* numbers a row */
} row_args;

static void compute_layernorm(const block_job *job, gpt2c_span rows, size_t worker) {
    const row_args *a = job->args;
    const size_t at = rows.begin * a->n;
    (void)worker;
    job->kernels->layernorm(a->out + at, a->x + at, a->norm->weight, a->norm->bias,
                            rows.end - rows.begin, a->n, a->model->config.layer_norm_epsilon);
}

static void compute_gelu(const block_job *job, gpt2c_span rows, size_t worker) {
    const row_args *a = job->args;
    const size_t at = rows.begin * a->n, n = (rows.end - rows.begin) * a->n;
    (void)worker;
    if (a->model->gelu_table != NULL)
        job->kernels->gelu_table(a->out + at, a->x + at, n, a->model->gelu_table);
    else
        job->kernels->gelu(a->out + at, a->x + at, n);
}

static void compute_add(const block_job *job, gpt2c_span rows, size_t worker) {
    const row_args *a = job->args;
    const size_t at = rows.begin * a->n, n = (rows.end - rows.begin) * a->n;
    (void)worker;
    job->kernels->add(a->out + at, a->x + at, a->delta + at, n);
}

static void run_row_operation(gpt2c_pass *pass, gpt2c_switch s, row_args args,
                              void (*compute)(const block_job *, gpt2c_span, size_t)) {
    const block_job job = {.args = &args, .compute = compute};
    run_rows(pass, s, rows_of(pass, s), args.n, job, NO_ITEMS, 1);
}

void gpt2c_layernorm(gpt2c_pass *pass, float *out, const float *x, const gpt2c_norm *norm) {
    const gpt2c_model *model = pass->session->model;
    const row_args args = {
        .out = out, .x = x, .norm = norm, .model = model, .n = (size_t)model->config.n_embd};
    run_row_operation(pass, GPT2C_SWITCH_LAYERNORM, args, compute_layernorm);
}

static void gelu(gpt2c_pass *pass, float *out, const float *x) {
    const gpt2c_model *model = pass->session->model;
    const row_args args = {.out = out, .x = x, .model = model, .n = (size_t)model->config.n_inner};
    run_row_operation(pass, GPT2C_SWITCH_GELU, args, compute_gelu);
}

static void add(gpt2c_pass *pass, float *out, const float *x, const float *delta) {
    const gpt2c_model *model = pass->session->model;
    const row_args args = {.out = out, .x = x, .delta = delta, .n = (size_t)model->config.n_embd};
    run_row_operation(pass, GPT2C_SWITCH_RESIDUAL, args, compute_add);
}

/* ---- Linear layers ---- */

static void compute_linear(const block_job *job, gpt2c_span columns, size_t worker) {
    const gpt2c_linear_args *args = job->args;
    (void)worker;
    job->kernels->linear[args->w->layout](args, job->rows, columns);
}

static void compute_prepared(const block_job *job, gpt2c_span rows, size_t worker) {
    const gpt2c_linear_args *args = job->args;
    const size_t n_in = args->w->n_in;
    char *out = (char *)args->prepared + rows.begin * gpt2c_prepared_bytes(n_in);
    (void)worker;
    job->kernels->prepare[args->w->layout](out, args->x + rows.begin * n_in, rows.end - rows.begin, n_in);
}

/* Makes args->prepared of the given rows of x, if the kernel wants it. */
static void prepare(const gpt2c_pass *pass, gpt2c_span rows, gpt2c_linear_args *args) {
    const gpt2c_session *session = pass->session;
    if (args->kernels->prepare[args->w->layout] == NULL) return;
    args->prepared = gpt2c_at(session, session->buffers.prepared, 0);
    block_job job = {.kernels = args->kernels, .args = args, .items = rows, .compute = compute_prepared};
    run_block(pass, &job, 1);
}

static void run_linear(gpt2c_pass *pass, gpt2c_switch s, gpt2c_span rows, gpt2c_linear_args args) {
    const gpt2c_span columns = {0, args.w->n_out};
    args.kernels = pass->session->model->kernels;
    prepare(pass, rows, &args);
    const block_job job = {.args = &args, .compute = compute_linear};
    run_rows(pass, s, rows, args.w->n_in * args.w->n_out, job, columns, GPT2C_PANEL);
}

void gpt2c_project(gpt2c_pass *pass, gpt2c_switch s, float *out, const float *x,
                   const gpt2c_linear *linear) {
    const gpt2c_linear_args args = {.out = out, .x = x, .w = &linear->w, .bias = linear->bias};
    run_linear(pass, s, rows_of(pass, s), args);
}

void gpt2c_project_gelu(gpt2c_pass *pass, float *out, float *between, const float *x,
                        const gpt2c_linear *linear) {
    const gpt2c_model *model = pass->session->model;
    if (!model->config.fused) {
        gpt2c_project(pass, GPT2C_SWITCH_LINEAR, between, x, linear);
        gelu(pass, out, between);
        return;
    }
    const gpt2c_span rows = rows_of(pass, GPT2C_SWITCH_LINEAR);
    const gpt2c_linear_args args = {
        .out = out, .x = x, .w = &linear->w, .bias = linear->bias, .gelu_table = model->gelu_table,
        .epilogue = model->gelu_table != NULL ? GPT2C_THEN_GELU_TABLE : GPT2C_THEN_GELU};
    run_linear(pass, GPT2C_SWITCH_LINEAR, rows, args);
    count_rows(pass, GPT2C_SWITCH_GELU, rows.end - rows.begin);
}

void gpt2c_project_add(gpt2c_pass *pass, float *out, const float *residual, float *between,
                       const float *x, const gpt2c_linear *linear) {
    if (!pass->session->model->config.fused) {
        gpt2c_project(pass, GPT2C_SWITCH_LINEAR, between, x, linear);
        add(pass, out, residual, between);
        return;
    }
    const gpt2c_span rows = rows_of(pass, GPT2C_SWITCH_LINEAR);
    const gpt2c_linear_args args = {.out = out, .x = x, .w = &linear->w, .bias = linear->bias,
                                    .epilogue = GPT2C_THEN_ADD, .residual = residual};
    run_linear(pass, GPT2C_SWITCH_LINEAR, rows, args);
    count_rows(pass, GPT2C_SWITCH_RESIDUAL, rows.end - rows.begin);
}

/* ---- Attention ---- */

static void compute_attention(const block_job *job, gpt2c_span heads, size_t worker) {
    gpt2c_attention_args args = *(const gpt2c_attention_args *)job->args;
    args.scores += worker * GPT2C_SCORE_ROWS * gpt2c_pad(args.kv->n_ctx, GPT2C_KV_TILE);
    job->kernels->attention(&args, job->rows, heads);
}

void gpt2c_attend(gpt2c_pass *pass, float *out, const float *qkv, float *k, float *v) {
    const gpt2c_session *session = pass->session;
    const gpt2c_model_config *c = &session->model->config;
    const size_t n_embd = (size_t)c->n_embd, n_head = (size_t)c->n_head;
    const gpt2c_kv kv = {k, v, (size_t)c->n_ctx, n_head, n_embd / n_head};
    const gpt2c_attention_args args = {.out = out, .qkv = qkv, .kv = &kv, .position = pass->origin,
                                       .scores = gpt2c_at(session, session->buffers.scores, 0),
                                       .fused = c->fused};
    const block_job job = {.args = &args, .compute = compute_attention};
    const gpt2c_span rows = rows_of(pass, GPT2C_SWITCH_KV), heads = {0, n_head};
    if (stopped(pass)) return;
    session->model->kernels->keep(&kv, qkv + rows.begin * 3 * n_embd, rows.end - rows.begin,
                                  pass->origin + rows.begin);
    run_rows(pass, GPT2C_SWITCH_KV, rows, 2 * pass->n * n_embd, job, heads, 1);
}

/* ---- Logits ---- */

/* Rows whose logits are to be computed: those the caller wants, and with the switch off all. */
static gpt2c_span logit_rows(const gpt2c_pass *pass, const gpt2c_outputs *outputs) {
    const size_t end = pass->n - pass->origin;
    if (outputs->logits == NULL && outputs->last_logits == NULL && outputs->next_id == NULL)
        return (gpt2c_span){end, end};
    if (!gpt2c_switch_on(pass->session->model, GPT2C_SWITCH_UNEMBED)) return (gpt2c_span){0, end};
    if (outputs->logits != NULL) return (gpt2c_span){pass->n_past - pass->origin, end};
    return (gpt2c_span){end - 1, end};
}

static void unembed_rows(gpt2c_pass *pass, float *out, const float *hidden, size_t n) {
    const gpt2c_linear_args args = {.out = out, .x = hidden, .w = &pass->session->model->wte};
    run_linear(pass, GPT2C_SWITCH_UNEMBED, (gpt2c_span){0, n}, args);
}

void gpt2c_unembed(gpt2c_pass *pass, const float *hidden, const gpt2c_outputs *outputs) {
    const gpt2c_session *session = pass->session;
    const gpt2c_model *model = session->model;
    const size_t n_embd = (size_t)model->config.n_embd, n_vocab = (size_t)model->config.n_vocab;
    const size_t first_new = pass->n_past - pass->origin;
    const gpt2c_span rows = logit_rows(pass, outputs);
    float *scratch = gpt2c_at(session, session->buffers.logits, 0);
    const float *last = scratch;

    size_t n = 0;
    for (size_t r = rows.begin; r < rows.end && !stopped(pass); r += n) {
        const int wanted = outputs->logits != NULL && r >= first_new;
        /* Old rows and new ones are never in one piece: only the new ones have a place to go. */
        n = size_min(r < first_new ? first_new - r : rows.end - r, GPT2C_LOGIT_ROWS);
        float *out = wanted ? outputs->logits + (r - first_new) * n_vocab : scratch;
        unembed_rows(pass, out, hidden + r * n_embd, n);
        last = out + (n - 1) * n_vocab;
    }
    if (pass->stopped) return;
    pass->rows[GPT2C_SWITCH_UNEMBED] = rows.end - rows.begin;

    if (outputs->hidden != NULL)
        memcpy(outputs->hidden, hidden + first_new * n_embd,
               (pass->n - pass->n_past) * n_embd * sizeof(float));
    if (outputs->last_logits != NULL) memcpy(outputs->last_logits, last, n_vocab * sizeof(float));
    if (outputs->next_id != NULL) *outputs->next_id = (int32_t)model->kernels->argmax(last, n_vocab);
}
