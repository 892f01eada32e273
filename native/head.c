/* Logits, and the greedy id: from the whole head, or from its compact copy (screen.h). */
#include "head.h"

#include <math.h>
#include <string.h>

#include "half.h"
#include "matrix.h"
#include "ops.h"
#include "quantized.h"
#include "trace.h"
#include "work.h"

/* ---- The whole head ---- */

/* The rows whose logits are computed: those that the caller needs, or all with the switch off. */
static gpt2c_span logit_rows(const gpt2c_pass *pass, const gpt2c_outputs *outputs) {
    const size_t end = pass->n - pass->origin;
    const int of_all_new = outputs->logits != NULL || outputs->next_ids != NULL;
    if (!of_all_new && outputs->last_logits == NULL && outputs->next_id == NULL)
        return (gpt2c_span){end, end};
    if (!gpt2c_switch_on(pass->session->model, GPT2C_SWITCH_UNEMBED)) return (gpt2c_span){0, end};
    return (gpt2c_span){of_all_new ? pass->n_past - pass->origin : end - 1, end};
}

typedef struct argmax_args {
    int32_t *ids;
    const float *logits;
    size_t n_vocab;
} argmax_args;

static void compute_argmax(const gpt2c_job *job, gpt2c_span rows, size_t worker) {
    const argmax_args *a = job->args;
    (void)worker;
    for (size_t r = rows.begin; r < rows.end; r++)
        a->ids[r] = (int32_t)job->kernels->argmax(a->logits + r * a->n_vocab, a->n_vocab);
}

static void greedy_ids(const gpt2c_pass *pass, int32_t *ids, const float *logits, size_t n) {
    const gpt2c_model *model = pass->session->model;
    const argmax_args a = {ids, logits, (size_t)model->config.n_vocab};
    gpt2c_job job = {.kernels = model->kernels, .args = &a, .items = {0, n}, .compute = compute_argmax};
    gpt2c_run_block(pass, &job, 1);
}

size_t gpt2c_first_wanted(const gpt2c_pass *pass, const gpt2c_outputs *outputs) {
    return outputs->hidden != NULL ? pass->n_past - pass->origin : logit_rows(pass, outputs).begin;
}

static void unembed_rows(gpt2c_pass *pass, float *out, const float *hidden, size_t n) {
    const gpt2c_session *session = pass->session;
    gpt2c_linear_args args = {.out = out, .x = hidden, .w = &session->model->head};
    if (gpt2c_format_of(args.w->layout)->is_integer) {
        float *remainder = gpt2c_at(session, session->buffers.head_x, 0);
        for (size_t r = 0; r < n; r++)
            gpt2c_int8_remainder(remainder + r * args.w->n_in, hidden + r * args.w->n_in, args.w->n_in);
        args.x_remainder = remainder;
    }
    gpt2c_run_linear(pass, GPT2C_SWITCH_UNEMBED, (gpt2c_span){0, n}, args);
}

/* Computes the logits of `rows`; returns those of the last row. */
static const float *compute_logits(gpt2c_pass *pass, const float *hidden, gpt2c_span rows,
                                   const gpt2c_outputs *outputs) {
    const gpt2c_session *session = pass->session;
    const size_t n_embd = (size_t)session->model->config.n_embd;
    const size_t n_vocab = (size_t)session->model->config.n_vocab;
    const size_t first_new = pass->n_past - pass->origin;
    float *scratch = gpt2c_at(session, session->buffers.logits, 0);
    const float *last = scratch;

    size_t n = 0;
    for (size_t r = rows.begin; r < rows.end && !gpt2c_stopped(pass); r += n) {
        const int wanted = outputs->logits != NULL && r >= first_new;
        /* Old and new rows are never computed together: only the new ones have an output buffer. */
        n = r < first_new ? first_new - r : rows.end - r;
        if (n > GPT2C_LOGIT_ROWS) n = GPT2C_LOGIT_ROWS;
        float *out = wanted ? outputs->logits + (r - first_new) * n_vocab : scratch;
        unembed_rows(pass, out, hidden + r * n_embd, n);
        if (outputs->next_ids != NULL && r >= first_new)
            greedy_ids(pass, outputs->next_ids + r - first_new, out, n);
        last = out + (n - 1) * n_vocab;
    }
    if (!pass->stopped) pass->rows[GPT2C_SWITCH_UNEMBED] = rows.end - rows.begin;
    return last;
}

/* ---- Screening ---- */

/* With candidates in more than one of this many panels, the whole head is as fast. */
#define PANELS_PER_CANDIDATE 4

/* Limits for |x|. Below the largest no estimate overflows. Above the smallest, lost subnormal products change
 * a sum by at most LOST. */
#define MAX_NORM 1e15f
#define MIN_NORM 1e-15f
#define LOST 1e-30f

typedef struct screening {
    const gpt2c_model *model;
    const float *x;
    float norm;             /* at least |x| */
    float *upper;           /* [n_vocab] */
    float *floors;          /* [n_threads]: the largest lower end that each worker found */
    float floor;            /* the largest of all lower ends */
    size_t panels;          /* panels with candidates */
    gpt2c_linear_args head; /* one row of logits */
} screening;

static void compute_screen(const gpt2c_job *job, gpt2c_span columns, size_t worker) {
    const screening *s = job->args;
    const float floor = job->kernels->screen(s->upper, &s->model->screen, s->x, s->norm, columns);
    if (floor > s->floors[worker]) s->floors[worker] = floor;
}

static gpt2c_span columns_of(const screening *s, size_t panel) {
    const size_t begin = panel * GPT2C_PANEL, end = begin + GPT2C_PANEL;
    return (gpt2c_span){begin, end < s->model->head.n_out ? end : s->model->head.n_out};
}

/* Not "upper >= floor": a NaN proves nothing, so it must be a candidate. */
static int is_candidate(const screening *s, size_t c) { return !(s->upper[c] < s->floor); }

static size_t candidates_in(const screening *s, gpt2c_span columns) {
    size_t n = 0;
    for (size_t c = columns.begin; c < columns.end; c++) n += (size_t)is_candidate(s, c);
    return n;
}

static void compute_candidates(const gpt2c_job *job, gpt2c_span panels, size_t worker) {
    const screening *s = job->args;
    (void)worker;
    for (size_t panel = panels.begin; panel < panels.end; panel++) {
        const gpt2c_span columns = columns_of(s, panel);
        if (candidates_in(s, columns) > 0)
            job->kernels->linear[s->model->head.layout](&s->head, (gpt2c_span){0, 1}, columns);
    }
}

/* Sets x as the head's kernel reads it, and an upper bound of its norm. */
static void set_x(screening *s, float *buffer, const float *hidden) {
    const size_t n_embd = s->model->head.n_in;
    const int rounds = s->model->kernels->rounds_x[s->model->head.layout];
    double squares = 0.0;
    for (size_t k = 0; k < n_embd; k++) {
        buffer[k] = rounds ? gpt2c_bf16_to_f32(gpt2c_f32_to_bf16(hidden[k])) : hidden[k];
        squares += (double)buffer[k] * (double)buffer[k];
    }
    s->x = buffer;
    s->norm = (float)(sqrt(squares) * (1.0 + 0x1p-20));
}

/* The id of the candidate with the largest logit; n_vocab if nothing is proved, or the whole head would be as
 * fast. */
static size_t best_candidate(const gpt2c_pass *pass, screening *s, size_t *n_candidates) {
    const size_t n_vocab = s->model->head.n_out, n_panels = gpt2c_panels(n_vocab);
    gpt2c_job job = {.kernels = s->model->kernels, .args = s, .items = {0, n_vocab}, .compute = compute_screen};
    gpt2c_run_block(pass, &job, GPT2C_PANEL);
    for (size_t i = 0; i < gpt2c_pool_threads(s->model->pool); i++)
        if (s->floors[i] > s->floor) s->floor = s->floors[i];

    *n_candidates = 0;
    if (!(fabsf(s->floor) < INFINITY)) return n_vocab;
    s->floor -= 2 * LOST; /* once for this end, once for the upper end that it is compared with */
    for (size_t panel = 0; panel < n_panels; panel++) {
        const size_t n = candidates_in(s, columns_of(s, panel));
        *n_candidates += n;
        s->panels += n > 0;
    }
    if (s->panels == 0 || s->panels * PANELS_PER_CANDIDATE > n_panels) return n_vocab;

    job.items = (gpt2c_span){0, n_panels};
    job.compute = compute_candidates;
    gpt2c_run_block(pass, &job, 1);
    size_t best = n_vocab;
    float largest = -INFINITY;
    for (size_t c = 0; c < n_vocab; c++) {
        if (is_candidate(s, c) && s->head.out[c] > largest) {
            largest = s->head.out[c];
            best = c;
        }
    }
    return best;
}

/* Sets *next_id and returns 1, or returns 0 if the whole head is needed. */
static int screen_id(gpt2c_pass *pass, const float *hidden, int32_t *next_id) {
    gpt2c_session *session = pass->session;
    const gpt2c_model *model = session->model;
    float floors[GPT2C_LIMIT_THREADS];
    for (size_t i = 0; i < GPT2C_LIMIT_THREADS; i++) floors[i] = -INFINITY;
    float *scratch = gpt2c_at(session, session->buffers.logits, 0);
    screening s = {.model = model, .upper = scratch, .floors = floors, .floor = -INFINITY};
    s.head = (gpt2c_linear_args){
        .out = scratch + model->head.n_out,
        .x = hidden,
        .w = &model->head,
        .kernels = model->kernels,
    };
    gpt2c_pack(pass, (gpt2c_span){0, 1}, &s.head);
    set_x(&s, gpt2c_at(session, session->buffers.head_x, 0), hidden);
    if (!(s.norm > MIN_NORM && s.norm < MAX_NORM)) return 0;

    size_t n_candidates;
    const size_t best = best_candidate(pass, &s, &n_candidates);
    if (best == model->head.n_out || gpt2c_stopped(pass)) return 0;
    session->screened_ids++;
    session->screened_candidates += n_candidates;
    pass->rows[GPT2C_SWITCH_UNEMBED] = 1;
    const size_t panel_bytes = gpt2c_matrix_bytes(&model->head) / gpt2c_panels(model->head.n_out);
    gpt2c_trace_head(pass, 1, gpt2c_screen_bytes(&model->screen) + s.panels * panel_bytes);
    *next_id = (int32_t)best;
    return 1;
}

/* ---- Outputs of a feed ---- */

void gpt2c_unembed(gpt2c_pass *pass, const float *hidden, const gpt2c_outputs *outputs) {
    const gpt2c_model *model = pass->session->model;
    const size_t n_embd = (size_t)model->config.n_embd, n_vocab = (size_t)model->config.n_vocab;
    const size_t first_new = pass->n_past - pass->origin;
    if (gpt2c_stopped(pass)) return;
    if (outputs->hidden != NULL)
        memcpy(outputs->hidden, hidden + first_new * n_embd,
               (pass->n - pass->n_past) * n_embd * sizeof(float));

    const int only_id = outputs->next_id != NULL && outputs->last_logits == NULL &&
                        outputs->logits == NULL && outputs->next_ids == NULL;
    const float *newest = hidden + (pass->n - pass->origin - 1) * n_embd;
    if (only_id && model->config.head_screen && screen_id(pass, newest, outputs->next_id)) return;

    const gpt2c_span rows = logit_rows(pass, outputs);
    const float *last = compute_logits(pass, hidden, rows, outputs);
    if (pass->stopped) return;
    if (outputs->last_logits != NULL) memcpy(outputs->last_logits, last, n_vocab * sizeof(float));
    if (outputs->next_id != NULL) greedy_ids(pass, outputs->next_id, last, 1);
    if (rows.end > rows.begin) gpt2c_trace_head(pass, rows.end - rows.begin, gpt2c_matrix_bytes(&model->head));
}

/* ---- Several sessions ---- */

void gpt2c_unembed_segments(gpt2c_pass *pass, const float *hidden, float *last_logits, int32_t *next_ids) {
    const gpt2c_session *session = pass->session;
    const gpt2c_model *model = session->model;
    const size_t n_embd = (size_t)model->config.n_embd, n_vocab = (size_t)model->config.n_vocab;
    float *last = gpt2c_at(session, session->buffers.attn, 0); /* unused by now, with enough rows */
    float *scratch = gpt2c_at(session, session->buffers.logits, 0);
    if (last_logits == NULL && next_ids == NULL) return;
    for (size_t i = 0; i < pass->n_segments; i++)
        memcpy(last + i * n_embd, hidden + (pass->segments[i].end - 1) * n_embd, n_embd * sizeof(float));

    size_t n = 0;
    for (size_t i = 0; i < pass->n_segments && !gpt2c_stopped(pass); i += n) {
        n = pass->n_segments - i < GPT2C_LOGIT_ROWS ? pass->n_segments - i : GPT2C_LOGIT_ROWS;
        float *out = last_logits != NULL ? last_logits + i * n_vocab : scratch;
        unembed_rows(pass, out, last + i * n_embd, n);
        if (next_ids != NULL) greedy_ids(pass, next_ids + i, out, n);
    }
    pass->rows[GPT2C_SWITCH_UNEMBED] = pass->n_segments;
    gpt2c_trace_head(pass, pass->n_segments, gpt2c_matrix_bytes(&model->head));
}
