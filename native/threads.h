/* A small pool of threads for one model. */
#ifndef GPT2C_THREADS_H
#define GPT2C_THREADS_H

#include <stddef.h>

typedef struct gpt2c_pool gpt2c_pool;

/* One piece of work. `worker` is below n_threads, and no two calls that run at the same time within
 * one gpt2c_pool_run have the same one: scratch may be indexed by it. */
typedef void (*gpt2c_task)(void *context, size_t task, size_t worker);

/* No thread is started before there is work for one. NULL: out of memory. */
gpt2c_pool *gpt2c_pool_create(size_t n_threads);

size_t gpt2c_pool_threads(const gpt2c_pool *pool);

/* Runs tasks 0 .. n_tasks - 1, each once, in any order, and returns when all are done. The calling
 * thread takes its share. It does all of them itself if the pool is busy with another caller's, or
 * threads cannot be started. */
void gpt2c_pool_run(gpt2c_pool *pool, size_t n_tasks, gpt2c_task task, void *context);

/* Ends the threads. NULL is allowed. */
void gpt2c_pool_free(gpt2c_pool *pool);

#endif
