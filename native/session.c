/* Sessions: their buffers, how they are created and freed, and what can be read from one between two feeds. */
#include "session.h"

#include <string.h>

#include "memory.h"

/* ---- Buffers ---- */

/* With all switches on, a long prompt is fed in chunks: enough rows to amortize the reading of the weights, and
 * few enough for small buffers. */
static size_t buffer_rows(const gpt2c_model *model) {
    const size_t n_ctx = (size_t)model->config.n_ctx;
    return gpt2c_is_incremental(model) && n_ctx > GPT2C_LIMIT_CHUNK_ROWS ? GPT2C_LIMIT_CHUNK_ROWS : n_ctx;
}

/* How long an output is read. */
typedef enum lifetime {
    ATTENTION, /* until the attention half of the layer ends */
    MLP,       /* until the MLP half of the layer ends */
    PASS,      /* by other halves or layers of the same pass */
    STORED,    /* by later passes: each layer has its own buffer */
} lifetime;

typedef struct plan_row {
    gpt2c_buffer *buffer;
    lifetime lifetime;
    size_t n_floats; /* of one layer */
    size_t layers;   /* for STORED */
} plan_row;

static gpt2c_buffer place(size_t *end, const plan_row *row) {
    const size_t n = gpt2c_pad(row->n_floats, GPT2C_ALIGNMENT / sizeof(float));
    const gpt2c_buffer placed = {*end, row->lifetime == STORED ? n : 0};
    *end += row->lifetime == STORED ? row->layers * n : n;
    return placed;
}

/* Returns the total number of floats. The two halves of a layer share memory. */
static size_t place_rows(const plan_row *rows, size_t n) {
    size_t shared = 0;
    for (size_t i = 0; i < n; i++)
        if (rows[i].lifetime == PASS || rows[i].lifetime == STORED) *rows[i].buffer = place(&shared, &rows[i]);
    size_t ends[] = {[ATTENTION] = shared, [MLP] = shared};
    for (size_t i = 0; i < n; i++)
        if (rows[i].lifetime == ATTENTION || rows[i].lifetime == MLP)
            *rows[i].buffer = place(&ends[rows[i].lifetime], &rows[i]);
    return ends[ATTENTION] > ends[MLP] ? ends[ATTENTION] : ends[MLP];
}

static size_t place_all(const gpt2c_model *model, gpt2c_buffers *b) {
    const gpt2c_model_config *c = &model->config;
    const size_t layers = (size_t)c->n_layer, rows = buffer_rows(model), n_embd = (size_t)c->n_embd;
    const size_t embd = rows * n_embd, inner = rows * (size_t)c->n_inner;
    const size_t widest = c->n_inner > c->n_embd ? (size_t)c->n_inner : n_embd;
    const size_t context = gpt2c_pad((size_t)c->n_ctx, GPT2C_KV_TILE);
    const size_t cache = context * (size_t)c->n_head * gpt2c_pad(n_embd / (size_t)c->n_head, GPT2C_KV_TILE) *
                         gpt2c_kv_number_bytes(c->kv_f16) / sizeof(float);
    const int kv = gpt2c_switch_on(model, GPT2C_SWITCH_KV);
    const int linear = gpt2c_switch_on(model, GPT2C_SWITCH_LINEAR);
    const int gelu = gpt2c_switch_on(model, GPT2C_SWITCH_GELU);
    const int residual = gpt2c_switch_on(model, GPT2C_SWITCH_RESIDUAL);
    const int layernorm = gpt2c_switch_on(model, GPT2C_SWITCH_LAYERNORM);
    const int unembed = gpt2c_switch_on(model, GPT2C_SWITCH_UNEMBED);

    /* mlp_gelu is before mlp_fc, and the outputs of the projections are last: fused operations use neither mlp_fc
     * nor these outputs, and the buffers that they do use are then close together. */
    const plan_row plan[] = {
        {&b->x, residual && !layernorm ? STORED : PASS, embd, layers + 1},
        {&b->ln_1, layernorm && !kv ? STORED : ATTENTION, embd, layers},
        {&b->qkv, ATTENTION, 3 * embd, 1},
        {&b->k, kv ? STORED : PASS, cache, layers},
        {&b->v, kv ? STORED : PASS, cache, layers},
        {&b->attn, kv && !linear ? STORED : ATTENTION, embd, layers},
        {&b->attn_proj, linear && !residual ? STORED : ATTENTION, embd, layers},
        {&b->x_mid, residual && !layernorm ? STORED : PASS, embd, layers},
        {&b->ln_2, layernorm && !linear ? STORED : MLP, embd, layers},
        {&b->mlp_gelu, gelu && !linear ? STORED : MLP, inner, layers},
        {&b->mlp_fc, linear && !gelu ? STORED : MLP, inner, layers},
        {&b->mlp_proj, linear && !residual ? STORED : MLP, embd, layers},
        {&b->ln_f, layernorm && !unembed ? STORED : PASS, embd, 1},
        {&b->packed_x, PASS, rows * gpt2c_packed_x_bytes(widest) / sizeof(float), 1},
        {&b->packed_remainder, PASS, GPT2C_LOGIT_ROWS * gpt2c_packed_x_bytes(n_embd) / sizeof(float), 1},
        {&b->head_x, PASS, GPT2C_LOGIT_ROWS * n_embd, 1},
        {&b->scores, PASS, (size_t)c->n_threads * GPT2C_SCORE_ROWS * context, 1},
        {&b->logits, PASS, GPT2C_LOGIT_ROWS * (size_t)c->n_vocab, 1},
    };
    return place_rows(plan, sizeof plan / sizeof *plan);
}

gpt2c_kv gpt2c_kv_of(const gpt2c_session *session, size_t layer) {
    const gpt2c_model_config *c = &session->model->config;
    return (gpt2c_kv){
        .k = gpt2c_at(session, session->buffers.k, layer),
        .v = gpt2c_at(session, session->buffers.v, layer),
        .n_ctx = (size_t)c->n_ctx,
        .n_head = (size_t)c->n_head,
        .head_dim = (size_t)(c->n_embd / c->n_head),
        .f16 = c->kv_f16,
    };
}

/* The spare arena of a freed session, if there is one: its pages are already mapped, which saves a prompt a few
 * percent of its time, and a short one more. All arenas of a model have the same size. */
static float *take_arena(gpt2c_model *model, size_t n) {
    float *spare = __atomic_exchange_n(&model->spare_arena, NULL, __ATOMIC_ACQUIRE);
    return spare != NULL ? spare : gpt2c_alloc(n, sizeof(float));
}

/* Saves the arena for the next session; an arena that was already there is freed. */
static void leave_arena(gpt2c_model *model, float *arena) {
    gpt2c_free(__atomic_exchange_n(&model->spare_arena, arena, __ATOMIC_ACQ_REL));
}

gpt2c_status gpt2c_session_create(gpt2c_model *model, gpt2c_poll poll, void *poll_context,
                                  gpt2c_session **session) {
    if (session == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    *session = NULL;
    if (model == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!model->frozen) return GPT2C_STATUS_NOT_READY;

    gpt2c_session *made = gpt2c_alloc_zero(1, sizeof *made);
    if (made == NULL) return GPT2C_STATUS_OUT_OF_MEMORY;
    gpt2c_model_retain(model);
    made->model = model;
    made->poll = poll;
    made->poll_context = poll_context;
    made->arena = take_arena(model, place_all(model, &made->buffers));
    made->ids = gpt2c_alloc((size_t)model->config.n_ctx, sizeof(int32_t));
    if (made->arena == NULL || made->ids == NULL) {
        gpt2c_session_free(made);
        return GPT2C_STATUS_OUT_OF_MEMORY;
    }
    *session = made;
    return GPT2C_STATUS_OK;
}

void gpt2c_session_free(gpt2c_session *session) {
    if (session == NULL) return;
    if (session->arena != NULL) leave_arena(session->model, session->arena);
    gpt2c_free(session->ids);
    gpt2c_model_free(session->model);
    gpt2c_free(session);
}

/* ---- Calls ---- */

int gpt2c_session_enter(gpt2c_session *session) {
    return __atomic_exchange_n(&session->busy, 1, __ATOMIC_ACQUIRE) == 0;
}

void gpt2c_session_leave(gpt2c_session *session) {
    __atomic_store_n(&session->busy, 0, __ATOMIC_RELEASE);
}

size_t gpt2c_session_n_past(const gpt2c_session *session) {
    return session == NULL ? 0 : __atomic_load_n(&session->n_past, __ATOMIC_RELAXED);
}

gpt2c_status gpt2c_session_rewind(gpt2c_session *session, size_t n_past) {
    if (session == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!gpt2c_session_enter(session)) return GPT2C_STATUS_BUSY;
    const gpt2c_status status = n_past <= session->n_past ? GPT2C_STATUS_OK : GPT2C_STATUS_INVALID_ARGUMENT;
    if (status == GPT2C_STATUS_OK) gpt2c_hold(session, n_past);
    gpt2c_session_leave(session);
    return status;
}

gpt2c_status gpt2c_session_ids(gpt2c_session *session, int32_t *ids, size_t n) {
    if (session == NULL || ids == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!gpt2c_session_enter(session)) return GPT2C_STATUS_BUSY;
    const gpt2c_status status = n <= session->n_past ? GPT2C_STATUS_OK : GPT2C_STATUS_INVALID_ARGUMENT;
    if (status == GPT2C_STATUS_OK) memcpy(ids, session->ids, n * sizeof *ids);
    gpt2c_session_leave(session);
    return status;
}

void gpt2c_session_cancel(gpt2c_session *session) {
    if (session != NULL) __atomic_store_n(&session->cancelled, 1, __ATOMIC_RELAXED);
}

gpt2c_status gpt2c_session_rows(gpt2c_session *session, size_t rows[GPT2C_SWITCH_COUNT]) {
    if (session == NULL || rows == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!gpt2c_session_enter(session)) return GPT2C_STATUS_BUSY;
    memcpy(rows, session->rows, sizeof session->rows);
    gpt2c_session_leave(session);
    return GPT2C_STATUS_OK;
}

gpt2c_status gpt2c_session_separate_passes(gpt2c_session *session, size_t *passes) {
    if (session == NULL || passes == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!gpt2c_session_enter(session)) return GPT2C_STATUS_BUSY;
    *passes = session->separate_passes;
    gpt2c_session_leave(session);
    return GPT2C_STATUS_OK;
}

gpt2c_status gpt2c_session_screened(gpt2c_session *session, size_t *ids, size_t *candidates) {
    if (session == NULL || ids == NULL || candidates == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!gpt2c_session_enter(session)) return GPT2C_STATUS_BUSY;
    *ids = session->screened_ids;
    *candidates = session->screened_candidates;
    gpt2c_session_leave(session);
    return GPT2C_STATUS_OK;
}
