/* A small pool of threads for one model. */
#ifndef GPT2C_THREADS_H
#define GPT2C_THREADS_H

#include <stddef.h>

typedef struct gpt2c_pool gpt2c_pool;

/* One piece of work. `worker` is below n_threads. Two calls that run at the same time within one
 * gpt2c_pool_run never have the same worker, so scratch may be indexed by it. */
typedef void (*gpt2c_task)(void *context, size_t task, size_t worker);

/* Creates a pool. Its threads are started with the first work for them. NULL: out of memory. */
gpt2c_pool *gpt2c_pool_create(size_t n_threads);

size_t gpt2c_pool_threads(const gpt2c_pool *pool);

/* Runs tasks 0 .. n_tasks - 1, each once, in any order, and returns when all are done. The calling
 * thread takes its share. It runs all tasks itself if the pool is busy with another caller's work, or if
 * threads cannot be started. */
void gpt2c_pool_run(gpt2c_pool *pool, size_t n_tasks, gpt2c_task task, void *context);

/* Ends the threads and frees the pool. NULL is allowed. */
void gpt2c_pool_free(gpt2c_pool *pool);

#endif
