/* The operations that forward.c is written in: each picks its rows, walks them in blocks, counts
 * them, and calls the kernel. Between blocks a call can be ended. */
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

/* About a tenth of a second for the naive kernels, in multiply-adds. */
#define BLOCK_WORK ((size_t)1 << 27)

/* The next block of rows, of `work` multiply-adds each; `done` stands behind the one before. Empty
 * when all rows are done or the call is to end. */
static gpt2c_span next_block(gpt2c_pass *pass, gpt2c_span rows, size_t done, size_t work) {
    if (done >= rows.end || stopped(pass)) return (gpt2c_span){rows.end, rows.end};
    const size_t block = size_max(1, BLOCK_WORK / size_max(1, work));
    return (gpt2c_span){done, size_min(rows.end, done + block)};
}

/* All operations of a switch compute equally many rows in a pass: the most that one did is shown. */
static void count_rows(gpt2c_pass *pass, gpt2c_switch s, size_t computed) {
    pass->rows[s] = size_max(pass->rows[s], computed);
}

/* ---- Operations ---- */

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

void gpt2c_layernorm(gpt2c_pass *pass, float *out, const float *x, const gpt2c_norm *norm) {
    const gpt2c_model *model = pass->session->model;
    const size_t n_embd = (size_t)model->config.n_embd;
    const gpt2c_span rows = rows_of(pass, GPT2C_SWITCH_LAYERNORM);
    size_t computed = 0;
    for (gpt2c_span block = next_block(pass, rows, rows.begin, n_embd); block.begin < block.end;
         block = next_block(pass, rows, block.end, n_embd)) {
        model->kernels->layernorm(out + block.begin * n_embd, x + block.begin * n_embd, norm->weight,
                                  norm->bias, block.end - block.begin, n_embd,
                                  model->config.layer_norm_epsilon);
        computed += block.end - block.begin;
    }
    count_rows(pass, GPT2C_SWITCH_LAYERNORM, computed);
}

void gpt2c_project(gpt2c_pass *pass, gpt2c_switch s, float *out, const float *x,
                   const gpt2c_linear *linear) {
    const gpt2c_matrix *w = &linear->w;
    const gpt2c_kernels *kernels = pass->session->model->kernels;
    const gpt2c_linear_args args = {.out = out, .x = x, .w = w, .bias = linear->bias};
    const gpt2c_span rows = rows_of(pass, s), columns = {0, w->n_out};
    const size_t work = w->n_in * w->n_out;
    size_t computed = 0;
    for (gpt2c_span block = next_block(pass, rows, rows.begin, work); block.begin < block.end;
         block = next_block(pass, rows, block.end, work)) {
        kernels->linear[w->layout](&args, block, columns);
        computed += block.end - block.begin;
    }
    count_rows(pass, s, computed);
}

void gpt2c_attend(gpt2c_pass *pass, float *out, const float *qkv, float *k, float *v) {
    const gpt2c_session *session = pass->session;
    const gpt2c_model_config *c = &session->model->config;
    const gpt2c_kernels *kernels = session->model->kernels;
    const size_t n_embd = (size_t)c->n_embd, n_head = (size_t)c->n_head;
    const gpt2c_kv kv = {k, v, (size_t)c->n_ctx, n_head, n_embd / n_head};
    const gpt2c_attention_args args = {.out = out, .qkv = qkv, .kv = &kv, .position = pass->origin,
                                       .scores = gpt2c_at(session, session->buffers.scores, 0)};
    const gpt2c_span rows = rows_of(pass, GPT2C_SWITCH_KV), heads = {0, n_head};
    if (stopped(pass)) return;
    kernels->keep(&kv, qkv + rows.begin * 3 * n_embd, rows.end - rows.begin,
                  pass->origin + rows.begin);
    const size_t work = 2 * pass->n * n_embd;
    size_t computed = 0;
    for (gpt2c_span block = next_block(pass, rows, rows.begin, work); block.begin < block.end;
         block = next_block(pass, rows, block.end, work)) {
        kernels->attention(&args, block, heads);
        computed += block.end - block.begin;
    }
    count_rows(pass, GPT2C_SWITCH_KV, computed);
}

void gpt2c_gelu(gpt2c_pass *pass, float *out, const float *x) {
    const gpt2c_model *model = pass->session->model;
    const size_t n_inner = (size_t)model->config.n_inner;
    const gpt2c_span rows = rows_of(pass, GPT2C_SWITCH_GELU);
    const size_t begin = rows.begin * n_inner, n = (rows.end - rows.begin) * n_inner;
    if (stopped(pass)) return;
    if (model->gelu_table != NULL)
        model->kernels->gelu_table(out + begin, x + begin, n, model->gelu_table);
    else
        model->kernels->gelu(out + begin, x + begin, n);
    count_rows(pass, GPT2C_SWITCH_GELU, rows.end - rows.begin);
}

void gpt2c_add(gpt2c_pass *pass, float *out, const float *x, const float *delta) {
    const gpt2c_model *model = pass->session->model;
    const size_t n_embd = (size_t)model->config.n_embd;
    const gpt2c_span rows = rows_of(pass, GPT2C_SWITCH_RESIDUAL);
    const size_t begin = rows.begin * n_embd, n = (rows.end - rows.begin) * n_embd;
    if (stopped(pass)) return;
    model->kernels->add(out + begin, x + begin, delta + begin, n);
    count_rows(pass, GPT2C_SWITCH_RESIDUAL, rows.end - rows.begin);
}

/* Rows whose logits are to be computed: those the caller wants, and with the switch off all. */
static gpt2c_span logit_rows(const gpt2c_pass *pass, const gpt2c_outputs *outputs) {
    const gpt2c_model *model = pass->session->model;
    const size_t end = pass->n - pass->origin;
    if (outputs->logits == NULL && outputs->last_logits == NULL && outputs->next_id == NULL)
        return (gpt2c_span){end, end};
    if (!gpt2c_switch_on(model, GPT2C_SWITCH_UNEMBED)) return (gpt2c_span){0, end};
    if (outputs->logits != NULL) return (gpt2c_span){pass->n_past - pass->origin, end};
    return (gpt2c_span){end - 1, end};
}

void gpt2c_unembed(gpt2c_pass *pass, const float *hidden, const gpt2c_outputs *outputs) {
    const gpt2c_session *session = pass->session;
    const gpt2c_model *model = session->model;
    const size_t n_embd = (size_t)model->config.n_embd, n_vocab = (size_t)model->config.n_vocab;
    const gpt2c_span rows = logit_rows(pass, outputs), columns = {0, n_vocab};
    const size_t first_new = pass->n_past - pass->origin;
    const gpt2c_linear_args whole = {.x = hidden, .w = &model->wte};
    float *scratch = gpt2c_at(session, session->buffers.logits, 0);
    const float *last = NULL;

    for (size_t r = rows.begin; r < rows.end && !stopped(pass);) {
        const int to_caller = outputs->logits != NULL && r >= first_new;
        const size_t limit = to_caller || first_new <= r ? rows.end : size_min(rows.end, first_new);
        const size_t n = size_min(limit - r, GPT2C_LOGIT_ROWS);
        float *out = to_caller ? outputs->logits + (r - first_new) * n_vocab : scratch;
        gpt2c_linear_args args = whole;
        args.x = hidden + r * n_embd;
        args.out = out;
        model->kernels->linear[model->wte.layout](&args, (gpt2c_span){0, n}, columns);
        last = out + (n - 1) * n_vocab;
        r += n;
    }
    if (pass->stopped) return;
    count_rows(pass, GPT2C_SWITCH_UNEMBED, rows.end - rows.begin);

    if (outputs->hidden != NULL)
        memcpy(outputs->hidden, hidden + first_new * n_embd,
               (pass->n - pass->n_past) * n_embd * sizeof(float));
    if (outputs->last_logits != NULL) memcpy(outputs->last_logits, last, n_vocab * sizeof(float));
    if (outputs->next_id != NULL) *outputs->next_id = (int32_t)model->kernels->argmax(last, n_vocab);
}
