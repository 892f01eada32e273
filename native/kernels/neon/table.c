#include "kernels/ref/ref.h"
#include "kernels/unroll/unroll.h"
#include "neon.h"

/* An entry that is initialized twice is an override, on purpose. */
#pragma GCC diagnostic ignored "-Woverride-init"

const gpt2c_kernels gpt2c_kernels_neon = {GPT2C_KERNELS_REF, GPT2C_KERNELS_UNROLL, GPT2C_KERNELS_NEON};
