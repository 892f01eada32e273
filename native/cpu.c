#include "cpu.h"

uint32_t gpt2c_cpu_features(void) { return 0; }
