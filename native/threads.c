/* The pool.
 *
 * A forward pass has some sixty short operations per token, so waking must be cheap: an idle worker first
 * spins on the number of the round, and parks on a condition variable only after a while. Tasks are taken
 * from a shared counter, so that a worker whose core is busy with other work takes fewer. Which worker
 * computes what changes no result.
 *
 * The upper half of the counter is the number of the round. A worker that wakes late, after its round has
 * ended, sees the number of another round and takes nothing.
 *
 * A forked child has none of its parent's threads, and a call that was running in another thread of the
 * parent never ends in the child. So the pool records the process of its threads and of its call, and
 * ignores those of another process. */
#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <unistd.h>

#include "memory.h"

#define SPINS 20000 /* some 100 microseconds: longer than Python's part of a decode step */

/* Written before its thread starts, and read by it when it does. */
typedef struct pool_worker {
    pthread_t thread;
    gpt2c_pool *pool;
    size_t number;
    uint32_t round;
} pool_worker;

struct gpt2c_pool {
    size_t n_threads;
    pool_worker *workers; /* [n_threads], one more than is used */
    size_t n_started;
    pid_t owner;        /* the process that started the threads; 0: not started */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    pid_t caller;       /* atomic: the process of the call that uses the pool; 0: none */
    int stopping;       /* atomic */
    int n_parked;       /* atomic; changed under the mutex */
    uint64_t next;      /* atomic: round << 32 | next task */
    uint32_t round;     /* atomic: the number of the current or last round */
    size_t n_done;      /* atomic: tasks finished in this round */
    size_t n_tasks;     /* of this round; written before the round is published */
    gpt2c_task task;
    void *context;
};

static void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void work(gpt2c_pool *pool, uint32_t round, size_t worker) {
    uint64_t next = __atomic_load_n(&pool->next, __ATOMIC_ACQUIRE);
    while ((uint32_t)(next >> 32) == round) {
        const size_t task = (uint32_t)next;
        if (task >= __atomic_load_n(&pool->n_tasks, __ATOMIC_ACQUIRE)) return;
        if (!__atomic_compare_exchange_n(&pool->next, &next, next + 1, 0, __ATOMIC_ACQ_REL,
                                         __ATOMIC_ACQUIRE))
            continue;
        /* This task is not done yet, so the round cannot end, and `task` and `context` cannot change. */
        pool->task(pool->context, task, worker);
        __atomic_add_fetch(&pool->n_done, 1, __ATOMIC_RELEASE);
        next = __atomic_load_n(&pool->next, __ATOMIC_ACQUIRE);
    }
}

static int is_over(gpt2c_pool *pool, uint32_t round) {
    return __atomic_load_n(&pool->round, __ATOMIC_SEQ_CST) != round ||
           __atomic_load_n(&pool->stopping, __ATOMIC_SEQ_CST);
}

/* Waits until a new round begins or the pool ends. */
static void wait_for_round(gpt2c_pool *pool, uint32_t round) {
    for (int i = 0; i < SPINS; i++) {
        if (is_over(pool, round)) return;
        pause_briefly();
    }
    pthread_mutex_lock(&pool->mutex);
    __atomic_add_fetch(&pool->n_parked, 1, __ATOMIC_SEQ_CST);
    while (!is_over(pool, round)) pthread_cond_wait(&pool->wake, &pool->mutex);
    __atomic_sub_fetch(&pool->n_parked, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&pool->mutex);
}

static void *worker_main(void *argument) {
    const pool_worker *self = argument;
    gpt2c_pool *pool = self->pool;
    uint32_t round = self->round;
    for (;;) {
        wait_for_round(pool, round);
        if (__atomic_load_n(&pool->stopping, __ATOMIC_SEQ_CST)) return NULL;
        round = __atomic_load_n(&pool->round, __ATOMIC_SEQ_CST);
        work(pool, round, self->number);
    }
}

static void wake_parked(gpt2c_pool *pool) {
    if (__atomic_load_n(&pool->n_parked, __ATOMIC_SEQ_CST) == 0) return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

static int start_thread(gpt2c_pool *pool) {
    pool_worker *next = &pool->workers[pool->n_started];
    next->pool = pool;
    next->number = pool->n_started + 1;
    next->round = pool->round;
    return pthread_create(&next->thread, NULL, worker_main, next) == 0;
}

/* Starts as many threads as it can, once per process. */
static void start_threads(gpt2c_pool *pool, pid_t process) {
    if (pool->owner == process) return;
    pool->owner = process;
    pool->n_started = 0;
    pool->n_parked = 0;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    sigset_t all, before; /* signals belong to the threads that the program itself started */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool->n_started + 1 < pool->n_threads && start_thread(pool)) pool->n_started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* One caller of a process at a time. */
static int enter(gpt2c_pool *pool, pid_t process) {
    pid_t caller = __atomic_load_n(&pool->caller, __ATOMIC_RELAXED);
    return caller != process && __atomic_compare_exchange_n(&pool->caller, &caller, process, 0,
                                                            __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

static void leave(gpt2c_pool *pool) { __atomic_store_n(&pool->caller, 0, __ATOMIC_RELEASE); }

gpt2c_pool *gpt2c_pool_create(size_t n_threads) {
    gpt2c_pool *pool = gpt2c_alloc_zero(1, sizeof *pool);
    if (pool == NULL) return NULL;
    pool->n_threads = n_threads;
    pool->workers = gpt2c_alloc(n_threads, sizeof *pool->workers);
    if (pool->workers == NULL) {
        gpt2c_free(pool);
        return NULL;
    }
    return pool;
}

size_t gpt2c_pool_threads(const gpt2c_pool *pool) { return pool->n_threads; }

void gpt2c_pool_run(gpt2c_pool *pool, size_t n_tasks, gpt2c_task task, void *context) {
    const int shared = n_tasks > 1 && pool->n_threads > 1;
    const pid_t process = shared ? getpid() : 0;
    if (!shared || !enter(pool, process)) {
        for (size_t i = 0; i < n_tasks; i++) task(context, i, 0);
        return;
    }
    start_threads(pool, process);

    /* Closes the counter first, so that no late worker takes a task of the new round with the old number. */
    const uint32_t round = pool->round + 1;
    __atomic_store_n(&pool->next, (uint64_t)round << 32 | UINT32_MAX, __ATOMIC_RELEASE);
    pool->task = task;
    pool->context = context;
    __atomic_store_n(&pool->n_done, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&pool->n_tasks, n_tasks, __ATOMIC_RELEASE);
    __atomic_store_n(&pool->next, (uint64_t)round << 32, __ATOMIC_RELEASE);
    __atomic_store_n(&pool->round, round, __ATOMIC_SEQ_CST);
    wake_parked(pool);

    work(pool, round, 0);
    for (size_t i = 0; __atomic_load_n(&pool->n_done, __ATOMIC_ACQUIRE) != n_tasks; i++) {
        pause_briefly();
        if (i >= SPINS) sched_yield(); /* more threads than cores: let the one waited for run */
    }
    leave(pool);
}

void gpt2c_pool_free(gpt2c_pool *pool) {
    if (pool == NULL) return;
    if (pool->owner == getpid()) {
        pthread_mutex_lock(&pool->mutex);
        __atomic_store_n(&pool->stopping, 1, __ATOMIC_SEQ_CST);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
        for (size_t i = 0; i < pool->n_started; i++) pthread_join(pool->workers[i].thread, NULL);
        pthread_mutex_destroy(&pool->mutex);
        pthread_cond_destroy(&pool->wake);
    }
    gpt2c_free(pool->workers);
    gpt2c_free(pool);
}
