/* The limits of the machine that kernels are compared with, for one thread: how fast it reads, and how
 * many multiply-adds it does. Not part of gpt2c: native_library.py compiles it with -march=native.
 *
 * Both use the widest registers of the CPU, with enough independent chains that no instruction waits for
 * the one before it. On a CPU without a section below they are plain loops, and the limit is what the
 * compiler makes of them. */
#include <stddef.h>

#if defined(__AVX512F__)
#include <immintrin.h>
typedef __m512 vec;
#define WIDTH 16
#define CHAINS 16
#define LOAD(p) _mm512_loadu_ps(p)
#define SET(x) _mm512_set1_ps(x)
#define STORE(p, a) _mm512_storeu_ps(p, a)
#define ADD(a, b) _mm512_add_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
typedef __m256 vec;
#define WIDTH 8
#define CHAINS 12
#define LOAD(p) _mm256_loadu_ps(p)
#define SET(x) _mm256_set1_ps(x)
#define STORE(p, a) _mm256_storeu_ps(p, a)
#define ADD(a, b) _mm256_add_ps(a, b)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
typedef float32x4_t vec;
#define WIDTH 4
#define CHAINS 16
#define LOAD(p) vld1q_f32(p)
#define SET(x) vdupq_n_f32(x)
#define STORE(p, a) vst1q_f32(p, a)
#define ADD(a, b) vaddq_f32(a, b)
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#else
typedef float vec;
#define WIDTH 1
#define CHAINS 16
#define LOAD(p) (*(p))
#define SET(x) (x)
#define STORE(p, a) (*(p) = (a))
#define ADD(a, b) ((a) + (b))
#define FMA(a, b, c) ((a) * (b) + (c))
#endif

#if defined(__GNUC__)
#define PREFETCH(p) __builtin_prefetch(p)
#else
#define PREFETCH(p) ((void)0)
#endif

#define LOADS 8                 /* registers loaded per step */
#define AHEAD (4096 / sizeof(float))
#define LINE (64 / sizeof(float))
#define STEPS 1000              /* multiply-adds in each chain per loop */

/* A result must look used, or the compiler drops its computation. */
static volatile float sink;

static void use(vec *chains, int n) {
    float lanes[WIDTH];
    float sum = 0.0f;
    for (int i = 1; i < n; i++) chains[0] = ADD(chains[0], chains[i]);
    STORE(lanes, chains[0]);
    for (int i = 0; i < WIDTH; i++) sum += lanes[i];
    sink = sum;
}

/* Reads n floats `loops` times: `streams` equal parts side by side, each from first to last, in steps of
 * gpt2c_bench_read_step() floats. */
void gpt2c_bench_read(const float *data, size_t n, size_t streams, size_t loops) {
    const size_t part = n / streams;
    for (size_t loop = 0; loop < loops; loop++) {
        vec sums[LOADS];
        for (int i = 0; i < LOADS; i++) sums[i] = SET(0.0f);
        for (size_t at = 0; at < part; at += LOADS * WIDTH) {
            for (size_t stream = 0; stream < streams; stream++) {
                const float *p = data + stream * part + at;
                for (size_t line = 0; line < LOADS * WIDTH; line += LINE) PREFETCH(p + line + AHEAD);
                for (int i = 0; i < LOADS; i++) sums[i] = ADD(sums[i], LOAD(p + i * WIDTH));
            }
        }
        use(sums, LOADS);
    }
}

size_t gpt2c_bench_read_step(void) { return LOADS * WIDTH; }

void gpt2c_bench_multiply_add(size_t loops) {
    volatile float half = 0.5f; /* each chain tends to 2, never to a subnormal */
    const vec factor = SET(half), summand = SET(2.0f * half);
    vec chains[CHAINS];
    for (int i = 0; i < CHAINS; i++) chains[i] = SET((float)i);
    for (size_t step = 0; step < loops * STEPS; step++)
        for (int i = 0; i < CHAINS; i++) chains[i] = FMA(chains[i], factor, summand);
    use(chains, CHAINS);
}

/* Operations per loop; a multiply-add is two. */
size_t gpt2c_bench_multiply_add_operations(void) { return (size_t)2 * STEPS * CHAINS * WIDTH; }

/* Dot products of bfloat16 pairs, summed in float32; 0 operations on a CPU without them. */
#if defined(__AVX512BF16__) && defined(__AVX512F__)
void gpt2c_bench_bf16(size_t loops) {
    volatile float half = 0.5f;
    const __m512bh pairs = _mm512_cvtne2ps_pbh(SET(half), SET(half));
    vec chains[CHAINS];
    for (int i = 0; i < CHAINS; i++) chains[i] = SET((float)i);
    for (size_t step = 0; step < loops * STEPS; step++)
        for (int i = 0; i < CHAINS; i++) chains[i] = _mm512_dpbf16_ps(chains[i], pairs, pairs);
    use(chains, CHAINS);
}

size_t gpt2c_bench_bf16_operations(void) { return (size_t)4 * STEPS * CHAINS * WIDTH; }
#else
void gpt2c_bench_bf16(size_t loops) { (void)loops; }

size_t gpt2c_bench_bf16_operations(void) { return 0; }
#endif
