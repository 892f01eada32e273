#include "pass.h"

#include <time.h>

#define POLL_INTERVAL 50000000 /* nanoseconds */

int64_t gpt2c_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

gpt2c_pass gpt2c_pass_start(gpt2c_session *session) {
    gpt2c_pass pass = {.session = session};
    pass.traced_until = gpt2c_now();
    pass.next_poll = pass.traced_until + POLL_INTERVAL;
    return pass;
}

static int is_cancelled(const gpt2c_pass *pass) {
    for (size_t i = 0; i < pass->n_segments; i++)
        if (__atomic_load_n(&pass->segments[i].session->cancelled, __ATOMIC_RELAXED)) return 1;
    return 0;
}

int gpt2c_stopped(gpt2c_pass *pass) {
    const gpt2c_session *session = pass->session;
    if (pass->stopped) return 1;
    if (is_cancelled(pass)) return pass->stopped = 1;
    if (session->poll == NULL || gpt2c_now() < pass->next_poll) return 0;
    pass->stopped = session->poll(session->poll_context) != 0;
    pass->next_poll = gpt2c_now() + POLL_INTERVAL;
    return pass->stopped;
}
