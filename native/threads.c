/* The pool.
 *
 * A forward pass hands out some sixty short pieces of work a token, so waking must be cheap: a worker
 * that has nothing to do first spins on the round's number, and parks on a condition variable only
 * after a while. Tasks are taken from a common counter, so that a worker whose core is busy with
 * something else takes fewer; which worker computes what changes no result.
 *
 * The counter holds the round in its upper half: a worker that wakes late, after the round it was
 * woken for has ended, sees another round's number and takes nothing.
 *
 * A forked child has none of its parent's threads, and a call that another thread of the parent was in
 * will never end there: threads and calls are known by the process that they belong to, and those of
 * another process count for nothing. */
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
    pid_t owner;        /* process that started them; 0: none did */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    pid_t caller;       /* atomic: process of the call that it works for; 0: none */
    int stopping;       /* atomic */
    int n_parked;       /* atomic; changed under the mutex */
    uint64_t next;      /* atomic: round << 32 | next task */
    uint32_t round;     /* atomic: the round that runs, or ran last */
    size_t n_done;      /* atomic: tasks finished in this round */
    size_t n_tasks;     /* of this round; written before the round is announced */
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
        /* The task is taken, so the round cannot end and these cannot change. */
        pool->task(pool->context, task, worker);
        __atomic_add_fetch(&pool->n_done, 1, __ATOMIC_RELEASE);
        next = __atomic_load_n(&pool->next, __ATOMIC_ACQUIRE);
    }
}

static int is_over(gpt2c_pool *pool, uint32_t round) {
    return __atomic_load_n(&pool->round, __ATOMIC_SEQ_CST) != round ||
           __atomic_load_n(&pool->stopping, __ATOMIC_SEQ_CST);
}

/* Until another round than this begins, or the pool ends. */
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

/* Starts what threads can be had, once for each process. */
static void start_threads(gpt2c_pool *pool, pid_t process) {
    if (pool->owner == process) return;
    pool->owner = process;
    pool->n_started = 0;
    pool->n_parked = 0;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    sigset_t all, before; /* signals are for the threads that the program started itself */
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

    /* Closed first, so that nobody who is late takes the old round's number for the new one's tasks. */
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
