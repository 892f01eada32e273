#include "memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gpt2c.h"

/* Relaxed atomics: they only count, and order nothing. */
static size_t live_bytes;
static size_t peak_bytes;
static size_t allocations;
static size_t fail_at;

/* Before every block, in one alignment unit, so that the block stays aligned. */
typedef struct block_header {
    size_t n_bytes;
    void *base;
} block_header;

static int should_fail(void) {
    size_t left = __atomic_load_n(&fail_at, __ATOMIC_RELAXED);
    while (left > 1) {
        if (__atomic_compare_exchange_n(&fail_at, &left, left - 1, 0, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED))
            return 0;
    }
    return left == 1;
}

static void count_up(size_t n_bytes) {
    const size_t live = __atomic_add_fetch(&live_bytes, n_bytes, __ATOMIC_RELAXED);
    size_t peak = __atomic_load_n(&peak_bytes, __ATOMIC_RELAXED);
    while (live > peak && !__atomic_compare_exchange_n(&peak_bytes, &peak, live, 0,
                                                       __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
}

void *gpt2c_alloc(size_t count, size_t size) {
    if (size != 0 && count > (SIZE_MAX - 2 * GPT2C_ALIGNMENT) / size) return NULL;
    if (should_fail()) return NULL;
    const size_t n_bytes = count * size;
    char *base = malloc(n_bytes + 2 * GPT2C_ALIGNMENT);
    if (base == NULL) return NULL;
    const uintptr_t first = (uintptr_t)base + GPT2C_ALIGNMENT + GPT2C_ALIGNMENT - 1;
    char *data = base + (first / GPT2C_ALIGNMENT * GPT2C_ALIGNMENT - (uintptr_t)base);
    const block_header header = {n_bytes, base};
    memcpy(data - GPT2C_ALIGNMENT, &header, sizeof header);
    count_up(n_bytes);
    return data;
}

void *gpt2c_alloc_zero(size_t count, size_t size) {
    void *data = gpt2c_alloc(count, size);
    if (data != NULL) memset(data, 0, count * size);
    return data;
}

void gpt2c_free(void *data) {
    if (data == NULL) return;
    block_header header;
    memcpy(&header, (char *)data - GPT2C_ALIGNMENT, sizeof header);
    __atomic_sub_fetch(&live_bytes, header.n_bytes, __ATOMIC_RELAXED);
    free(header.base);
}

void gpt2c_memory_get(gpt2c_memory_stats *stats) {
    if (stats == NULL) return;
    stats->live_bytes = __atomic_load_n(&live_bytes, __ATOMIC_RELAXED);
    stats->peak_bytes = __atomic_load_n(&peak_bytes, __ATOMIC_RELAXED);
    stats->allocations = __atomic_load_n(&allocations, __ATOMIC_RELAXED);
}

void gpt2c_memory_fail_at(size_t n) { __atomic_store_n(&fail_at, n, __ATOMIC_RELAXED); }
