/* Checks that the kernels of every instruction set that this machine supports do what
 * native/kernels.h promises: the error bounds, against sums in double, and the row contract, bit by
 * bit.
 *
 *   cc -std=c99 -Iinclude -Inative <this folder> <the core> -lm -lpthread -o check_kernels
 *   ./check_kernels
 *
 * Prints one line per operation and instruction set; the exit status is 1 if anything is wrong. The
 * tests in tests/kernels/ go further. This program needs no Python, so tools/check_native.py can
 * run it with sanitizers and for other machines. */
#include <stdio.h>

#include "check.h"

const size_t sizes[N_SIZES] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,
                               14, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 768};

void expect(check *c, int right, const char *what, size_t a, size_t b) {
    if (right)
        c->n_right++;
    else if (c->n_wrong++ == 0)
        printf("%s %s: %s, case %zu, %zu\n", c->isa_name, c->op, what, a, b);
}

void expect_ok(check *c, gpt2c_status status) {
    expect(c, status == GPT2C_STATUS_OK, gpt2c_status_message(status), 0, 0);
}

typedef struct operation {
    const char *name;
    void (*run)(check *c);
} operation;

static const operation operations[] = {
    {"linear", check_linear},
    {"embed", check_embed},
    {"layernorm", check_layernorm},
    {"gelu", check_gelu},
    {"gelu_table", check_gelu_table},
    {"gelu_erf", check_gelu_erf},
    {"relu", check_relu},
    {"add", check_add},
    {"softmax", check_softmax},
    {"argmax", check_argmax},
    {"attention", check_attention},
    {"attention_f16", check_attention_f16},
};

int main(void) {
    size_t n_wrong = 0;
    for (int32_t isa = 0; isa < gpt2c_isa_count(); isa++) {
        gpt2c_isa_info info;
        if (gpt2c_isa_get(isa, &info) != GPT2C_STATUS_OK || !info.supported) continue;
        for (size_t i = 0; i < COUNT_OF(operations); i++) {
            check c = {isa, info.name, operations[i].name, 0, 0};
            operations[i].run(&c);
            printf("%-12s %-13s %7zu right, %zu wrong\n", c.isa_name, c.op, c.n_right, c.n_wrong);
            n_wrong += c.n_wrong;
        }
    }
    return n_wrong > 0;
}
