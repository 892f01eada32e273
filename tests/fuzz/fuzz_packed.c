/* libFuzzer: packed files. Built and run by tools/fuzz.py.
 *
 * The input is a file. If it is long enough, its header's checksum is corrected first; otherwise
 * nothing after that check would ever be reached. Whatever opens must run: its shape is taken from
 * the file itself, as in generate.c, and one token is fed. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gpt2c.h"

#define CHECKSUM_AT 216 /* in the header of native/packed.c */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static uint64_t checksum(const uint8_t *bytes, size_t n) {
    uint64_t hash = 0xcbf29ce484222325u, word;
    for (; n >= sizeof word; bytes += sizeof word, n -= sizeof word) {
        memcpy(&word, bytes, sizeof word);
        hash = (hash ^ word) * 0x100000001b3u;
        hash ^= hash >> 29;
    }
    for (; n > 0; bytes++, n--) hash = (hash ^ *bytes) * 0x100000001b3u;
    return hash;
}

static void feed(gpt2c_model *model, int32_t n_vocab) {
    gpt2c_session *session;
    if (gpt2c_session_create(model, NULL, NULL, &session) != GPT2C_STATUS_OK) return;
    const int32_t id = n_vocab - 1;
    int32_t next = -1;
    const gpt2c_outputs outputs = {.next_id = &next};
    if (gpt2c_session_feed(session, &id, 1, &outputs) == GPT2C_STATUS_OK && (next < 0 || next >= n_vocab)) abort();
    gpt2c_session_free(session);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const int file = memfd_create("packed", 0);
    if (file < 0) return 0;
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    uint8_t *copy = malloc(n + 1);
    memcpy(copy, data, n);
    if (n >= CHECKSUM_AT + 8) {
        const uint64_t sum = checksum(copy, CHECKSUM_AT);
        memcpy(copy + CHECKSUM_AT, &sum, sizeof sum);
    }
    const int written = write(file, copy, n) == (ssize_t)n;
    free(copy);

    gpt2c_model_config config;
    if (written) (void)gpt2c_packed_info(path, 1, &config);
    if (written && gpt2c_packed_info(path, 0, &config) == GPT2C_STATUS_OK) {
        config.switches = 63;
        config.n_threads = 1;
        config.fused = 1;
        gpt2c_model *model;
        if (gpt2c_packed_open(path, NULL, &config, &model) == GPT2C_STATUS_OK) {
            feed(model, config.n_vocab);
            gpt2c_model_free(model);
        }
    }
    close(file);
    gpt2c_memory_stats stats;
    gpt2c_memory_get(&stats);
    if (stats.live_bytes != 0) abort();
    return 0;
}
