#include "ref.h"

const gpt2c_kernels gpt2c_kernels_ref = {GPT2C_KERNELS_REF};
