/* Greedy generation in plain C: all the calls of include/gpt2c.h that running a model needs, and no others.
 *
 *   cc -std=c99 -Iinclude native/examples/generate.c <the core> -lm -lpthread -o generate
 *   ./generate [-n NEW] [-t THREADS] [-i ISA] [-s SWITCHES] [-c CHUNK] [-k] model.packed ID [ID ...]
 *
 * -k stores K and V in half precision. The program prints the new ids on standard output, and the time to the
 * first token (TTFT) and the total time on standard error. tools/pack_model.py makes packed files.
 * tools/check_native.py builds this program with sanitizers and for other machines, and compares what it
 * prints. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "common.h"
#include "gpt2c.h"

typedef struct arguments {
    const char *path;
    const char *isa;
    int32_t n_new;
    int32_t n_threads;
    uint32_t switches;
    int32_t kv_f16;
    size_t chunk;      /* tokens of the prompt per feed; 0: all in one feed */
    int32_t *ids;      /* the prompt */
    size_t n_ids;
} arguments;

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int fail(const char *what, gpt2c_status status) {
    fprintf(stderr, "generate: %s: %s\n", what, gpt2c_status_message(status));
    return 1;
}

static int usage(void) {
    fprintf(stderr, "usage: generate [-n NEW] [-t THREADS] [-i ISA] [-s SWITCHES] [-c CHUNK] [-k] "
                    "model.packed ID [ID ...]\n");
    return 2;
}

static void parse(int argc, char **argv, arguments *a) {
    *a = (arguments){.n_new = 16, .n_threads = 1, .switches = 63};
    int option;
    while ((option = getopt(argc, argv, "n:t:i:s:c:k")) != -1) {
        switch (option) {
        case 'n': a->n_new = (int32_t)example_number(optarg, 1, 1000000, usage); break;
        case 't': a->n_threads = (int32_t)example_number(optarg, 1, 1024, usage); break;
        case 's': a->switches = (uint32_t)example_number(optarg, 0, 63, usage); break;
        case 'c': a->chunk = (size_t)example_number(optarg, 1, 1000000, usage); break;
        case 'i': a->isa = optarg; break;
        case 'k': a->kv_f16 = 1; break;
        default: exit(usage());
        }
    }
    if (argc - optind < 2) exit(usage());
    a->path = argv[optind++];
    a->n_ids = (size_t)(argc - optind);
    a->ids = malloc(a->n_ids * sizeof *a->ids);
    if (a->ids == NULL) exit(fail("prompt", GPT2C_STATUS_OUT_OF_MEMORY));
    for (size_t i = 0; i < a->n_ids; i++)
        a->ids[i] = (int32_t)example_number(argv[optind + (int)i], 0, INT32_MAX, usage);
}

static int generate(gpt2c_session *session, const arguments *a) {
    const double start = now_ms();
    int32_t next = -1;
    const gpt2c_outputs outputs = {.next_id = &next};
    const size_t chunk = a->chunk != 0 ? a->chunk : a->n_ids;
    for (size_t begin = 0; begin < a->n_ids; begin += chunk) {
        const size_t n = a->n_ids - begin < chunk ? a->n_ids - begin : chunk;
        const gpt2c_status status = gpt2c_session_feed(session, a->ids + begin, n, &outputs);
        if (status != GPT2C_STATUS_OK) return fail("prompt", status);
    }
    const double first = now_ms();
    printf("%d", (int)next);
    for (int32_t i = 1; i < a->n_new; i++) {
        const int32_t token = next;
        const gpt2c_status status = gpt2c_session_feed(session, &token, 1, &outputs);
        if (status != GPT2C_STATUS_OK) return fail("next token", status);
        printf(" %d", (int)next);
    }
    printf("\n");
    fprintf(stderr, "TTFT %.2f ms, total %.2f ms\n", first - start, now_ms() - start);
    return 0;
}

static int run(const arguments *a) {
    gpt2c_model_config config;
    gpt2c_status status = gpt2c_packed_info(a->path, 1, &config);
    if (status != GPT2C_STATUS_OK) return fail(a->path, status);
    config.isa = example_find_isa(a->isa);
    if (config.isa < 0) return fail(a->isa != NULL ? a->isa : "isa", GPT2C_STATUS_UNSUPPORTED);
    config.switches = a->switches;
    config.n_threads = a->n_threads;
    config.kv_f16 = a->kv_f16;
    config.fused = (a->switches & 15) == 15;

    gpt2c_model *model;
    gpt2c_session *session;
    status = gpt2c_packed_open(a->path, NULL, &config, &model);
    if (status != GPT2C_STATUS_OK) return fail(a->path, status);
    status = gpt2c_session_create(model, NULL, NULL, &session);
    gpt2c_model_free(model); /* from here on only the session holds a reference */
    if (status != GPT2C_STATUS_OK) return fail("session", status);
    const int result = generate(session, a);
    gpt2c_session_free(session);
    return result;
}

int main(int argc, char **argv) {
    arguments a;
    parse(argc, argv, &a);
    const int result = run(&a);
    free(a.ids);
    return result;
}
