#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <stddef.h>

/* The registers of CPUID leaves that are read, and the bit of each feature in them (Intel SDM 2A, CPUID). */
typedef enum cpuid_word { LEAF_1_ECX,
                          LEAF_7_EBX,
                          LEAF_7_ECX,
                          LEAF_7_1_EAX,
                          CPUID_WORDS } cpuid_word;

typedef struct cpuid_bit {
    uint32_t feature;
    cpuid_word word;
    int bit;
} cpuid_bit;

/* Features that need the YMM registers, and those that need the registers of AVX-512. */
static const cpuid_bit avx_bits[] = {
    {GPT2C_CPU_FMA, LEAF_1_ECX, 12},
    {GPT2C_CPU_F16C, LEAF_1_ECX, 29},
    {GPT2C_CPU_AVX2, LEAF_7_EBX, 5},
};
static const cpuid_bit avx512_bits[] = {
    {GPT2C_CPU_AVX512F, LEAF_7_EBX, 16},
    {GPT2C_CPU_AVX512DQ, LEAF_7_EBX, 17},
    {GPT2C_CPU_AVX512BW, LEAF_7_EBX, 30},
    {GPT2C_CPU_AVX512VL, LEAF_7_EBX, 31},
    {GPT2C_CPU_AVX512_VNNI, LEAF_7_ECX, 11},
    {GPT2C_CPU_AVX512_BF16, LEAF_7_1_EAX, 5},
};

/* Bits of leaf 1: the operating system saves registers with XSAVE, so XGETBV exists; and AVX itself. */
#define OSXSAVE (1u << 27)
#define AVX (1u << 28)

/* Bits of XCR0: the register sets that the operating system saves when it switches threads. */
#define AVX_STATE 0x06u    /* bits 1 and 2: XMM, YMM */
#define AVX512_STATE 0xe6u /* and 5, 6, 7: masks, upper halves of ZMM 0-15, ZMM 16-31 */

/* The lower half of XCR0. XGETBV is written as bytes, because its name needs a compiler flag. */
static uint32_t saved_state(void) {
    uint32_t low, high;
    __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static uint32_t features_in(const uint32_t words[CPUID_WORDS], const cpuid_bit *bits, size_t n) {
    uint32_t features = 0;
    for (size_t i = 0; i < n; i++)
        if (words[bits[i].word] >> bits[i].bit & 1u) features |= bits[i].feature;
    return features;
}

static uint32_t detect_features(void) {
    uint32_t words[CPUID_WORDS] = {0}, eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return 0;
    words[LEAF_1_ECX] = ecx;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) {
        words[LEAF_7_EBX] = ebx;
        words[LEAF_7_ECX] = ecx;
    }
    if (__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) words[LEAF_7_1_EAX] = eax;
    if ((words[LEAF_1_ECX] & (OSXSAVE | AVX)) != (OSXSAVE | AVX)) return 0;

    const uint32_t state = saved_state();
    uint32_t features = 0;
    if ((state & AVX_STATE) == AVX_STATE)
        features |= features_in(words, avx_bits, sizeof avx_bits / sizeof avx_bits[0]);
    if ((state & AVX512_STATE) == AVX512_STATE)
        features |= features_in(words, avx512_bits, sizeof avx512_bits / sizeof avx512_bits[0]);
    return features;
}

#define DETECTED (1u << 31)

/* The result is stored, because under a hypervisor each CPUID exits from the guest, which takes some
 * microseconds. Threads that detect at the same time store the same value. */
uint32_t gpt2c_cpu_features(void) {
    static uint32_t known; /* atomic; 0: not detected yet */
    uint32_t features = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (features == 0) {
        features = detect_features() | DETECTED;
        __atomic_store_n(&known, features, __ATOMIC_RELAXED);
    }
    return features & ~DETECTED;
}

#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

/* On Linux one bit says that the CPU has a feature and that programs may use it (arm64/elf_hwcaps). */
#define DOT_PRODUCTS (1ul << 20) /* HWCAP_ASIMDDP */

uint32_t gpt2c_cpu_features(void) { return getauxval(AT_HWCAP) & DOT_PRODUCTS ? GPT2C_CPU_ASIMDDP : 0; }

#else

uint32_t gpt2c_cpu_features(void) { return 0; }

#endif
