/* What a session keeps of its first tokens, as runs of bytes in its arena: copied into another session
 * of the same model, or taken out and put back. */
#include <string.h>

#include "kernels/tiled/attention.h"
#include "session.h"

/* Called with each run of what is kept: where it begins in the arena, and how long it is. */
typedef void (*visit_function)(void *context, size_t offset, size_t n_bytes);

typedef struct visitor {
    visit_function visit;
    void *context;
} visitor;

/* Tokens [begin, end) of a session. */
typedef struct range {
    size_t begin;
    size_t end;
} range;

static void visit_floats(const visitor *to, size_t offset, size_t n) {
    to->visit(to->context, offset * sizeof(float), n * sizeof(float));
}

/* The range's rows of an output, in every layer that it is kept of. */
static void visit_rows(const visitor *to, gpt2c_buffer buffer, size_t layers, size_t width, range tokens) {
    if (buffer.layer_stride == 0) return;
    for (size_t layer = 0; layer < layers; layer++) {
        const size_t offset = buffer.offset + layer * buffer.layer_stride + tokens.begin * width;
        visit_floats(to, offset, (tokens.end - tokens.begin) * width);
    }
}

/* Where K and V lie by position, as in ref, those of a range are one run. */
static int lies_by_position(const gpt2c_model *model) {
    const gpt2c_kernels *kernels = model->kernels, *ref = gpt2c_kernels_of(0);
    return model->config.kv_f16 ? kernels->keep_f16 == ref->keep_f16 : kernels->keep == ref->keep;
}

/* A range of a head's K and V as kernels/tiled/attention.h lays them out. Tiles of K are visited as a
 * whole, but for the last one, of which only the lanes in use are: what the others hold is undefined. */
static void visit_head(const visitor *to, const gpt2c_kv *kv, size_t k_offset, size_t v_offset, size_t head,
                       range tokens) {
    const size_t bytes = gpt2c_kv_number_bytes(kv->f16);
    const size_t first = tokens.begin / GPT2C_BLOCK * GPT2C_BLOCK;
    const size_t last = tokens.end / GPT2C_BLOCK * GPT2C_BLOCK, n_left = tokens.end - last;
    const size_t last_tile = gpt2c_k_at(kv, head, last);
    to->visit(to->context, k_offset + gpt2c_k_at(kv, head, first) * bytes,
              (last - first) * kv->head_dim * bytes);
    for (size_t d = 0; d < kv->head_dim && n_left > 0; d++)
        to->visit(to->context, k_offset + (last_tile + d * GPT2C_BLOCK) * bytes, n_left * bytes);
    to->visit(to->context, v_offset + gpt2c_v_at(kv, head, tokens.begin) * bytes,
              (tokens.end - tokens.begin) * gpt2c_v_stride(kv) * bytes);
}

static void visit_kv(const visitor *to, const gpt2c_session *session, size_t layer, range tokens) {
    const gpt2c_model_config *c = &session->model->config;
    const gpt2c_buffers *b = &session->buffers;
    const gpt2c_kv kv = {
        .n_ctx = (size_t)c->n_ctx,
        .n_head = (size_t)c->n_head,
        .head_dim = (size_t)(c->n_embd / c->n_head),
        .f16 = c->kv_f16,
    };
    const size_t k = (b->k.offset + layer * b->k.layer_stride) * sizeof(float);
    const size_t v = (b->v.offset + layer * b->v.layer_stride) * sizeof(float);
    if (lies_by_position(session->model)) {
        const size_t row_bytes = (size_t)c->n_embd * gpt2c_kv_number_bytes(kv.f16);
        const size_t skipped = tokens.begin * row_bytes, n_bytes = (tokens.end - tokens.begin) * row_bytes;
        to->visit(to->context, k + skipped, n_bytes);
        to->visit(to->context, v + skipped, n_bytes);
        return;
    }
    for (size_t head = 0; head < kv.n_head; head++) visit_head(to, &kv, k, v, head, tokens);
}

/* All that is kept of a range of tokens, always in the same order. */
static void visit_kept(const visitor *to, const gpt2c_session *session, range tokens) {
    const gpt2c_model_config *c = &session->model->config;
    const gpt2c_buffers *b = &session->buffers;
    const size_t layers = (size_t)c->n_layer, embd = (size_t)c->n_embd, inner = (size_t)c->n_inner;
    visit_rows(to, b->x, layers + 1, embd, tokens);
    visit_rows(to, b->ln_1, layers, embd, tokens);
    visit_rows(to, b->attn, layers, embd, tokens);
    visit_rows(to, b->attn_proj, layers, embd, tokens);
    visit_rows(to, b->x_mid, layers, embd, tokens);
    visit_rows(to, b->ln_2, layers, embd, tokens);
    visit_rows(to, b->mlp_fc, layers, inner, tokens);
    visit_rows(to, b->mlp_gelu, layers, inner, tokens);
    visit_rows(to, b->mlp_proj, layers, embd, tokens);
    visit_rows(to, b->ln_f, 1, embd, tokens);
    for (size_t layer = 0; layer < layers && b->k.layer_stride > 0; layer++)
        visit_kv(to, session, layer, tokens);
}

/* ---- From session to session ---- */

typedef struct two_arenas {
    char *to;
    const char *from;
} two_arenas;

static void copy_run(void *context, size_t offset, size_t n_bytes) {
    const two_arenas *arenas = context;
    memcpy(arenas->to + offset, arenas->from + offset, n_bytes);
}

/* How many first tokens, n at most, two sessions have in common: what is kept of them has the same bits. */
static size_t n_common(const gpt2c_session *a, const gpt2c_session *b, size_t n) {
    size_t i = 0;
    while (i < n && i < a->n_past && a->ids[i] == b->ids[i]) i++;
    return i;
}

gpt2c_status gpt2c_session_copy(gpt2c_session *session, gpt2c_session *from, size_t n) {
    if (session == NULL || from == NULL || session->model != from->model) return GPT2C_INVALID_ARGUMENT;
    if (!gpt2c_session_enter(session)) return GPT2C_BUSY;
    gpt2c_status status = GPT2C_BUSY;
    if (gpt2c_session_enter(from)) {
        status = n <= from->n_past ? GPT2C_OK : GPT2C_INVALID_ARGUMENT;
        if (status == GPT2C_OK) {
            two_arenas arenas = {(char *)session->arena, (const char *)from->arena};
            visit_kept(&(visitor){copy_run, &arenas}, session, (range){n_common(session, from, n), n});
            memcpy(session->ids, from->ids, n * sizeof *session->ids);
            gpt2c_hold(session, n);
        }
        gpt2c_session_leave(from);
    }
    gpt2c_session_leave(session);
    return status;
}

/* ---- As bytes: the ids, and then every run ---- */

typedef struct cursor {
    char *arena;
    char *written; /* the state, when it is taken out */
    const char *read; /* the state, when it is put back */
} cursor;

static void count_run(void *context, size_t offset, size_t n_bytes) {
    (void)offset;
    *(size_t *)context += n_bytes;
}

static void take_run(void *context, size_t offset, size_t n_bytes) {
    cursor *at = context;
    memcpy(at->written, at->arena + offset, n_bytes);
    at->written += n_bytes;
}

static void put_run(void *context, size_t offset, size_t n_bytes) {
    cursor *at = context;
    memcpy(at->arena + offset, at->read, n_bytes);
    at->read += n_bytes;
}

size_t gpt2c_session_state_bytes(const gpt2c_session *session, size_t n) {
    if (session == NULL || n > (size_t)session->model->config.n_ctx) return 0;
    size_t n_bytes = n * sizeof *session->ids;
    visit_kept(&(visitor){count_run, &n_bytes}, session, (range){0, n});
    return n_bytes;
}

gpt2c_status gpt2c_session_get_state(gpt2c_session *session, void *state, size_t n_bytes) {
    if (session == NULL || state == NULL) return GPT2C_INVALID_ARGUMENT;
    if (!gpt2c_session_enter(session)) return GPT2C_BUSY;
    gpt2c_status status = GPT2C_INVALID_ARGUMENT;
    if (n_bytes == gpt2c_session_state_bytes(session, session->n_past)) {
        const size_t id_bytes = session->n_past * sizeof *session->ids;
        cursor at = {.arena = (char *)session->arena, .written = (char *)state + id_bytes};
        memcpy(state, session->ids, id_bytes);
        visit_kept(&(visitor){take_run, &at}, session, (range){0, session->n_past});
        status = GPT2C_OK;
    }
    gpt2c_session_leave(session);
    return status;
}

static int are_tokens(const gpt2c_model *model, const char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        int32_t id;
        memcpy(&id, bytes + i * sizeof id, sizeof id);
        if (id < 0 || id >= model->config.n_vocab) return 0;
    }
    return 1;
}

gpt2c_status gpt2c_session_set_state(gpt2c_session *session, size_t n, const void *state, size_t n_bytes) {
    if (session == NULL || state == NULL || n > (size_t)session->model->config.n_ctx)
        return GPT2C_INVALID_ARGUMENT;
    if (n_bytes != gpt2c_session_state_bytes(session, n)) return GPT2C_INVALID_ARGUMENT;
    if (!are_tokens(session->model, state, n)) return GPT2C_BAD_TOKEN;
    if (!gpt2c_session_enter(session)) return GPT2C_BUSY;
    const size_t id_bytes = n * sizeof *session->ids;
    cursor at = {.arena = (char *)session->arena, .read = (const char *)state + id_bytes};
    memcpy(session->ids, state, id_bytes);
    visit_kept(&(visitor){put_run, &at}, session, (range){0, n});
    gpt2c_hold(session, n);
    gpt2c_session_leave(session);
    return GPT2C_OK;
}
