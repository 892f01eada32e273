/* Feeding tokens to one session, in chunks, or to several sessions in one pass, which reads every weight once
 * for all of them. */
#include <string.h>

#include "forward.h"
#include "head.h"

/* ---- One session ---- */

/* The outputs that a chunk writes. Those of the last position are written by the last chunk only. */
static gpt2c_outputs outputs_of_chunk(const gpt2c_model_config *c, const gpt2c_outputs *all,
                                      size_t begin, int is_last) {
    gpt2c_outputs outputs = *all;
    if (outputs.logits != NULL) outputs.logits += begin * (size_t)c->n_vocab;
    if (outputs.hidden != NULL) outputs.hidden += begin * (size_t)c->n_embd;
    if (outputs.next_ids != NULL) outputs.next_ids += begin;
    if (!is_last) outputs.last_logits = NULL;
    if (!is_last) outputs.next_id = NULL;
    return outputs;
}

static gpt2c_status feed_chunks(gpt2c_session *session, size_t n_ids, const gpt2c_outputs *outputs) {
    const gpt2c_model *model = session->model;
    const size_t n_past = session->n_past, n = n_past + n_ids;
    const size_t step = gpt2c_is_incremental(model) ? GPT2C_LIMIT_CHUNK_ROWS : n_ids;
    gpt2c_segment segment = {.session = session};
    gpt2c_pass pass = gpt2c_pass_start(session);
    session->n_events = 0;
    pass.segments = &segment;
    pass.n_segments = 1;
    size_t rows[GPT2C_SWITCH_COUNT] = {0};

    for (size_t begin = n_past; begin < n; begin += step) {
        const size_t end = n - begin > step ? begin + step : n;
        const gpt2c_outputs wanted =
            outputs_of_chunk(&model->config, outputs, begin - n_past, end == n);
        pass.origin = gpt2c_is_incremental(model) ? begin : 0;
        pass.n_past = begin;
        pass.n = end;
        segment.position = pass.origin;
        segment.end = end - pass.origin;
        pass.wanted = gpt2c_is_incremental(model) ? gpt2c_first_wanted(&pass, &wanted) : 0;
        memset(pass.rows, 0, sizeof pass.rows);
        gpt2c_unembed(&pass, gpt2c_forward(&pass), &wanted);
        if (pass.stopped) return GPT2C_STATUS_CANCELLED;
        for (int s = 0; s < GPT2C_SWITCH_COUNT; s++) rows[s] += pass.rows[s];
    }
    memcpy(session->rows, rows, sizeof session->rows);
    session->separate_passes = pass.separate_passes;
    gpt2c_hold(session, n);
    return GPT2C_STATUS_OK;
}

gpt2c_status gpt2c_session_feed(gpt2c_session *session, const int32_t *ids, size_t n_ids,
                                const gpt2c_outputs *outputs) {
    if (session == NULL || ids == NULL || n_ids == 0 || outputs == NULL)
        return GPT2C_STATUS_INVALID_ARGUMENT;
    const gpt2c_model_config *c = &session->model->config;
    for (size_t i = 0; i < n_ids; i++)
        if (ids[i] < 0 || ids[i] >= c->n_vocab) return GPT2C_STATUS_BAD_TOKEN;
    if (!gpt2c_session_enter(session)) return GPT2C_STATUS_BUSY;

    gpt2c_status status = GPT2C_STATUS_CONTEXT_FULL;
    if (n_ids <= (size_t)c->n_ctx - session->n_past) {
        __atomic_store_n(&session->cancelled, 0, __ATOMIC_RELAXED);
        memcpy(session->ids + session->n_past, ids, n_ids * sizeof *ids);
        status = feed_chunks(session, n_ids, outputs);
    }
    gpt2c_session_leave(session);
    return status;
}

/* ---- Several sessions ---- */

static gpt2c_status check_batch(gpt2c_session *const *sessions, size_t n_sessions, const int32_t *ids,
                                const size_t *n_ids, size_t *n_rows) {
    if (sessions == NULL || ids == NULL || n_ids == NULL || n_sessions == 0)
        return GPT2C_STATUS_INVALID_ARGUMENT;
    *n_rows = 0;
    for (size_t i = 0; i < n_sessions; i++) {
        if (sessions[i] == NULL || sessions[i]->model != sessions[0]->model)
            return GPT2C_STATUS_INVALID_ARGUMENT;
        if (n_ids[i] == 0 || n_ids[i] > GPT2C_LIMIT_CHUNK_ROWS - *n_rows) return GPT2C_STATUS_INVALID_ARGUMENT;
        *n_rows += n_ids[i];
    }
    const gpt2c_model *model = sessions[0]->model;
    if (!gpt2c_is_incremental(model)) return GPT2C_STATUS_INVALID_ARGUMENT;
    for (size_t i = 0; i < *n_rows; i++)
        if (ids[i] < 0 || ids[i] >= model->config.n_vocab) return GPT2C_STATUS_BAD_TOKEN;
    return GPT2C_STATUS_OK;
}

/* Enters all sessions or none. A session that is listed twice is busy the second time. */
static gpt2c_status enter_all(gpt2c_session *const *sessions, const size_t *n_ids, size_t n_sessions) {
    const size_t n_ctx = (size_t)sessions[0]->model->config.n_ctx;
    gpt2c_status status = GPT2C_STATUS_OK;
    size_t n = 0;
    for (; n < n_sessions && status == GPT2C_STATUS_OK; n++) {
        if (!gpt2c_session_enter(sessions[n])) {
            status = GPT2C_STATUS_BUSY;
            break;
        }
        if (n_ids[n] > n_ctx - sessions[n]->n_past) status = GPT2C_STATUS_CONTEXT_FULL;
    }
    for (size_t i = 0; status != GPT2C_STATUS_OK && i < n; i++) gpt2c_session_leave(sessions[i]);
    return status;
}

static gpt2c_status run_batch(gpt2c_segment *segments, size_t n_sessions, size_t n_rows,
                              float *last_logits, int32_t *next_ids) {
    gpt2c_pass pass = gpt2c_pass_start(segments[0].session);
    pass.session->n_events = 0;
    pass.segments = segments;
    pass.n_segments = n_sessions;
    pass.n = n_rows;
    gpt2c_unembed_segments(&pass, gpt2c_forward(&pass), last_logits, next_ids);
    if (pass.stopped) return GPT2C_STATUS_CANCELLED;
    for (size_t i = 0; i < n_sessions; i++) {
        gpt2c_session *session = segments[i].session;
        memcpy(session->rows, pass.rows, sizeof session->rows);
        session->separate_passes = pass.separate_passes;
        gpt2c_hold(session, session->n_past + segments[i].end - segments[i].begin);
    }
    return GPT2C_STATUS_OK;
}

gpt2c_status gpt2c_batch_feed(gpt2c_session *const *sessions, size_t n_sessions, const int32_t *ids,
                              const size_t *n_ids, float *last_logits, int32_t *next_ids) {
    size_t n_rows;
    gpt2c_status status = check_batch(sessions, n_sessions, ids, n_ids, &n_rows);
    if (status != GPT2C_STATUS_OK) return status;
    if (n_rows > (size_t)sessions[0]->model->config.n_ctx) return GPT2C_STATUS_INVALID_ARGUMENT;
    status = enter_all(sessions, n_ids, n_sessions);
    if (status != GPT2C_STATUS_OK) return status;

    gpt2c_segment segments[GPT2C_LIMIT_CHUNK_ROWS]; /* each has at least one row */
    size_t begin = 0;
    for (size_t i = 0; i < n_sessions; i++) {
        gpt2c_session *session = sessions[i];
        __atomic_store_n(&session->cancelled, 0, __ATOMIC_RELAXED);
        memcpy(session->ids + session->n_past, ids + begin, n_ids[i] * sizeof *ids);
        segments[i] = (gpt2c_segment){session, begin, begin + n_ids[i], session->n_past};
        begin += n_ids[i];
    }
    status = run_batch(segments, n_sessions, n_rows, last_logits, next_ids);
    for (size_t i = 0; i < n_sessions; i++) gpt2c_session_leave(sessions[i]);
    return status;
}
