/* The only allocator: 64-byte aligned, overflow-checked, counted, and able to fail on demand. */
#ifndef GPT2C_MEMORY_H
#define GPT2C_MEMORY_H

#include <stddef.h>

#define GPT2C_ALIGNMENT 64

/* `count` elements of `size` bytes, aligned to GPT2C_ALIGNMENT, not initialized; NULL on failure.
 * Pages that are never written take no physical memory, so large buffers are cheap. */
void *gpt2c_alloc(size_t count, size_t size);

/* The same, set to zero. */
void *gpt2c_alloc_zero(size_t count, size_t size);

/* NULL is allowed. */
void gpt2c_free(void *data);

#endif
