/* Many sessions of one model at once. Each must generate what it generates alone.
 *
 *   ./sessions [-n NEW] [-t THREADS] [-i ISA] [-c CALLERS] model.packed
 *
 * CALLERS threads do the same work at the same time. First come prompts of several lengths one
 * after another, each in its own session; then all of them in shared passes; then one that
 * continues from a copy of a session that every caller copies. Then all callers feed one session,
 * which accepts one feed at a time, and query it. Prints how many continuations agree with those
 * that one thread generated before. tools/check_native.py builds and runs it, under
 * ThreadSanitizer, too. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "examples/common.h"
#include "gpt2c.h"

enum { MAX_CALLERS = 16,
       ROWS = 5,
       MAX_PROMPT = 1 + 2 * (ROWS - 1),
       CONTENDED = 20 };

typedef struct arguments {
    const char *path;
    const char *isa;
    int32_t n_new;
    int32_t n_threads; /* of the model's pool */
    size_t n_callers;
} arguments;

/* Shared by all callers. */
typedef struct shared {
    gpt2c_model *model;
    size_t n_vocab;
    size_t n_new;
    int32_t *expected;        /* [ROWS, n_new] */
    gpt2c_session *source;    /* holds the longest prompt except its last token */
    gpt2c_session *contended; /* all callers feed it */
} shared;

typedef struct caller {
    const shared *shared;
    size_t n_agreed;
    size_t n_wrong;
    size_t n_accepted;     /* feeds that the contended session accepted */
    gpt2c_status failed;   /* the first error */
} caller;

static int fail(const char *what, gpt2c_status status) {
    fprintf(stderr, "sessions: %s: %s\n", what, gpt2c_status_message(status));
    return 1;
}

static int usage(void) {
    fprintf(stderr, "usage: sessions [-n NEW] [-t THREADS] [-i ISA] [-c CALLERS] model.packed\n");
    return 2;
}

/* Prompt `row`, of 1 + 2 row tokens. */
static size_t prompt(const shared *s, size_t row, int32_t *ids) {
    const size_t n = 1 + 2 * row;
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)((7 * row + 3 * i * i + 5) % s->n_vocab);
    return n;
}

/* Generates n_new greedy ids after a prompt of which the session already holds the first n_held
 * tokens. */
static gpt2c_status generate(const shared *s, gpt2c_session *session, size_t row, size_t n_held, int32_t *out) {
    int32_t ids[MAX_PROMPT];
    size_t n = prompt(s, row, ids) - n_held;
    const int32_t *fed = ids + n_held;
    gpt2c_status status = GPT2C_STATUS_OK;
    for (size_t i = 0; i < s->n_new && status == GPT2C_STATUS_OK; i++) {
        const gpt2c_outputs outputs = {.next_id = &out[i]};
        status = gpt2c_session_feed(session, fed, n, &outputs);
        fed = &out[i];
        n = 1;
    }
    return status;
}

/* Continues all prompts in shared passes, one session each: out [ROWS, n_new]. */
static gpt2c_status generate_together(const shared *s, gpt2c_session *const *sessions, int32_t *out) {
    int32_t ids[ROWS * MAX_PROMPT], next[ROWS];
    size_t n_ids[ROWS], n_all = 0;
    for (size_t row = 0; row < ROWS; row++) n_all += n_ids[row] = prompt(s, row, ids + n_all);
    for (size_t i = 0; i < s->n_new; i++) {
        const gpt2c_status status = gpt2c_batch_feed(sessions, ROWS, ids, n_ids, NULL, next);
        if (status != GPT2C_STATUS_OK) return status;
        for (size_t row = 0; row < ROWS; row++) {
            out[row * s->n_new + i] = ids[row] = next[row];
            n_ids[row] = 1;
        }
    }
    return GPT2C_STATUS_OK;
}

static void compare(caller *c, size_t row, const int32_t *found) {
    const size_t n = c->shared->n_new;
    if (memcmp(found, c->shared->expected + row * n, n * sizeof *found) == 0) {
        c->n_agreed++;
    } else {
        c->n_wrong++;
    }
}

static gpt2c_status generate_from_copy(const shared *s, gpt2c_session *session, int32_t *out) {
    gpt2c_status status = GPT2C_STATUS_BUSY;
    while (status == GPT2C_STATUS_BUSY) status = gpt2c_session_copy(session, s->source, MAX_PROMPT - 1);
    return status == GPT2C_STATUS_OK ? generate(s, session, ROWS - 1, MAX_PROMPT - 1, out) : status;
}

/* Queries a session while others feed it: n_past at any time, everything else only between two
 * feeds. */
static gpt2c_status watch(const caller *c) {
    gpt2c_session *session = c->shared->contended;
    size_t rows[GPT2C_SWITCH_COUNT], n, candidates;
    if (gpt2c_session_n_past(session) < c->n_accepted) return GPT2C_STATUS_INVALID_ARGUMENT;
    const gpt2c_status found[] = {
        gpt2c_session_rows(session, rows),
        gpt2c_session_separate_passes(session, &n),
        gpt2c_session_screened(session, &n, &candidates),
        gpt2c_session_traced(session, &n),
    };
    for (size_t i = 0; i < sizeof found / sizeof found[0]; i++)
        if (found[i] != GPT2C_STATUS_OK && found[i] != GPT2C_STATUS_BUSY) return found[i];
    return GPT2C_STATUS_OK;
}

/* Feeds the session that all callers feed, until it has accepted CONTENDED feeds. */
static gpt2c_status contend(caller *c) {
    const int32_t id = 1;
    int32_t next;
    const gpt2c_outputs outputs = {.next_id = &next};
    while (c->n_accepted < CONTENDED) {
        const gpt2c_status status = gpt2c_session_feed(c->shared->contended, &id, 1, &outputs);
        if (status == GPT2C_STATUS_OK) {
            c->n_accepted++;
        } else if (status != GPT2C_STATUS_BUSY) {
            return status;
        }
        const gpt2c_status seen = watch(c);
        if (seen != GPT2C_STATUS_OK) return seen;
    }
    return GPT2C_STATUS_OK;
}

static gpt2c_status call(caller *c, gpt2c_session **sessions, int32_t *found) {
    const shared *s = c->shared;
    gpt2c_status status = GPT2C_STATUS_OK;
    for (size_t row = 0; row < ROWS && status == GPT2C_STATUS_OK; row++) {
        status = generate(s, sessions[row], row, 0, found);
        if (status == GPT2C_STATUS_OK) compare(c, row, found);
        if (status == GPT2C_STATUS_OK) status = gpt2c_session_rewind(sessions[row], 0);
    }
    if (status == GPT2C_STATUS_OK) status = generate_together(s, sessions, found);
    for (size_t row = 0; row < ROWS && status == GPT2C_STATUS_OK; row++) compare(c, row, found + row * s->n_new);
    if (status == GPT2C_STATUS_OK) status = generate_from_copy(s, sessions[0], found);
    if (status == GPT2C_STATUS_OK) compare(c, ROWS - 1, found);
    return status == GPT2C_STATUS_OK ? contend(c) : status;
}

static void *run_caller(void *context) {
    caller *c = context;
    gpt2c_session *sessions[ROWS] = {NULL};
    int32_t *found = malloc(ROWS * c->shared->n_new * sizeof *found);
    c->failed = found != NULL ? GPT2C_STATUS_OK : GPT2C_STATUS_OUT_OF_MEMORY;
    for (size_t row = 0; row < ROWS && c->failed == GPT2C_STATUS_OK; row++)
        c->failed = gpt2c_session_create(c->shared->model, NULL, NULL, &sessions[row]);
    if (c->failed == GPT2C_STATUS_OK) c->failed = call(c, sessions, found);
    for (size_t row = 0; row < ROWS; row++) gpt2c_session_free(sessions[row]);
    free(found);
    return NULL;
}

/* Generates `expected` with one thread, and prepares the two sessions that the callers share. */
static gpt2c_status prepare(shared *s) {
    int32_t ids[MAX_PROMPT], ignored;
    const gpt2c_outputs outputs = {.next_id = &ignored};
    gpt2c_status status = gpt2c_session_create(s->model, NULL, NULL, &s->source);
    if (status == GPT2C_STATUS_OK) status = gpt2c_session_create(s->model, NULL, NULL, &s->contended);
    for (size_t row = 0; row < ROWS && status == GPT2C_STATUS_OK; row++) {
        status = generate(s, s->source, row, 0, s->expected + row * s->n_new);
        if (status == GPT2C_STATUS_OK) status = gpt2c_session_rewind(s->source, 0);
    }
    prompt(s, ROWS - 1, ids);
    return status == GPT2C_STATUS_OK ? gpt2c_session_feed(s->source, ids, MAX_PROMPT - 1, &outputs) : status;
}

static int run_callers(const shared *s, size_t n_callers) {
    pthread_t threads[MAX_CALLERS];
    caller callers[MAX_CALLERS];
    size_t n_started = 0, n_agreed = 0, n_wrong = 0, n_accepted = 0;
    gpt2c_status failed = GPT2C_STATUS_OK;
    for (; n_started < n_callers; n_started++) {
        callers[n_started] = (caller){.shared = s};
        if (pthread_create(&threads[n_started], NULL, run_caller, &callers[n_started]) != 0) break;
    }
    for (size_t i = 0; i < n_started; i++) {
        pthread_join(threads[i], NULL);
        n_agreed += callers[i].n_agreed;
        n_wrong += callers[i].n_wrong;
        n_accepted += callers[i].n_accepted;
        if (failed == GPT2C_STATUS_OK) failed = callers[i].failed;
    }
    if (failed != GPT2C_STATUS_OK) return fail("caller", failed);
    if (n_started < n_callers) return fail("threads", GPT2C_STATUS_OUT_OF_MEMORY);
    printf("%zu agreed, %zu wrong\n", n_agreed, n_wrong);
    return n_wrong != 0 || gpt2c_session_n_past(s->contended) != n_accepted;
}

static int run(const arguments *a) {
    gpt2c_model_config config;
    gpt2c_status status = gpt2c_packed_info(a->path, 1, &config);
    if (status != GPT2C_STATUS_OK) return fail(a->path, status);
    config.isa = example_find_isa(a->isa);
    if (config.isa < 0) return fail(a->isa != NULL ? a->isa : "isa", GPT2C_STATUS_UNSUPPORTED);
    config.switches = 63;
    config.n_threads = a->n_threads;
    config.fused = 1;
    shared s = {.n_vocab = (size_t)config.n_vocab, .n_new = (size_t)a->n_new};
    status = gpt2c_packed_open(a->path, NULL, &config, &s.model);
    if (status != GPT2C_STATUS_OK) return fail(a->path, status);
    s.expected = malloc(ROWS * s.n_new * sizeof *s.expected);
    status = s.expected != NULL ? prepare(&s) : GPT2C_STATUS_OUT_OF_MEMORY;
    const int result = status == GPT2C_STATUS_OK ? run_callers(&s, a->n_callers) : fail("alone", status);
    free(s.expected);
    gpt2c_session_free(s.source);
    gpt2c_session_free(s.contended);
    gpt2c_model_free(s.model);
    return result;
}

int main(int argc, char **argv) {
    arguments a = {.n_new = 8, .n_threads = 2, .n_callers = 3};
    int option;
    while ((option = getopt(argc, argv, "n:t:i:c:")) != -1) {
        switch (option) {
        case 'n': a.n_new = (int32_t)example_number(optarg, 1, 1000000, usage); break;
        case 't': a.n_threads = (int32_t)example_number(optarg, 1, 1024, usage); break;
        case 'c': a.n_callers = (size_t)example_number(optarg, 1, MAX_CALLERS, usage); break;
        case 'i': a.isa = optarg; break;
        default: return usage();
        }
    }
    if (argc - optind != 1) return usage();
    a.path = argv[optind];
    return run(&a);
}
