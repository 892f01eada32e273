#include "kernels/neon/neon.h"
#include "kernels/ref/ref.h"
#include "kernels/unroll/unroll.h"
#include "neon_dot.h"

/* An entry that is initialized twice is an override, on purpose. */
#pragma GCC diagnostic ignored "-Woverride-init"

const gpt2c_kernels gpt2c_kernels_neon_dot = {GPT2C_KERNELS_REF, GPT2C_KERNELS_UNROLL,
                                              GPT2C_KERNELS_NEON, GPT2C_KERNELS_NEON_DOT};
