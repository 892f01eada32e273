/* Many rows times q8 or q4. A panel is processed in pieces that stay in L1 until all rows are done
 * with them. A piece is unpacked once for all rows, its weights to unsigned bytes and its scales to
 * float32; while the rows use it, the next piece is prefetched. Between
 * the pieces of a panel its sums are held in the output.
 *
 * Registers for 6 rows: 12 sums in float32, 12 in integers, 2 of weights, 2 to 4 of scales. After
 * each group of 32 steps the integers are scaled and added: 3 operations (q4: 4) after 8 dot
 * products. */
#include "int8_avx512_vnni.h"

#define MAX_ROWS 6
#define EACH_ROWS(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6)

/* Groups per piece of a panel: 27 KB of q8, 30 KB of q4. */
#define PIECE_GROUPS 24

/* 32 steps of k of a panel, unpacked. */
typedef struct unpacked {
    uint8_t q[GPT2C_GROUP_QUADS][GPT2C_PANEL][GPT2C_QUAD];
    float scale[GPT2C_PANEL];
    float offset[GPT2C_PANEL]; /* of q4 */
} unpacked;

static void unpack_q8(unpacked *to, const gpt2c_q8_block *panel, gpt2c_span groups) {
    for (size_t g = groups.begin; g < groups.end; g++, to++) {
        for (size_t v = 0; v < 2; v++) {
            for (size_t quad = 0; quad < GPT2C_GROUP_QUADS; quad++)
                _mm512_store_si512(to->q[quad][v * GPT2C_LANES], gpt2c_q8_quad(&panel[g / 2], g, quad, v));
            _mm512_store_ps(to->scale + v * GPT2C_LANES, gpt2c_q8_scales(&panel[g / 2], v));
        }
    }
}

static void unpack_q4(unpacked *to, const gpt2c_q4_block *panel, const gpt2c_q4_columns *factors,
                      gpt2c_span groups) {
    for (size_t g = groups.begin; g < groups.end; g++, to++) {
        for (size_t v = 0; v < 2; v++) {
            for (size_t quad = 0; quad < GPT2C_GROUP_QUADS; quad += 2) {
                const gpt2c_q4_quads two = gpt2c_q4_two_quads(&panel[g], quad, v);
                _mm512_store_si512(to->q[quad][v * GPT2C_LANES], two.w[0]);
                _mm512_store_si512(to->q[quad + 1][v * GPT2C_LANES], two.w[1]);
            }
            _mm512_store_ps(to->scale + v * GPT2C_LANES, gpt2c_q4_scales(factors->scale, panel[g].scale, v));
            _mm512_store_ps(to->offset + v * GPT2C_LANES, gpt2c_q4_scales(factors->offset, panel[g].offset, v));
        }
    }
}

/* A few rows times one panel, over the groups of a piece. */
typedef struct tile {
    const unpacked *w;
    size_t groups;
    const gpt2c_int8_group *x[2]; /* the groups of the first row, and those of its remainder or NULL */
    size_t n_in;
    const float *from; /* the sums so far, rows `from_stride` apart; NULL: none yet */
    size_t from_stride;
    float *to;
    size_t to_stride;
    size_t columns;
} tile;

/* sums += one group. `rows` and `q4` are constants at every call, so that all loops over them are
 * unrolled. */
static GPT2C_ALWAYS_INLINE void add_group(__m512 sums[][2], const unpacked *w, const gpt2c_int8_group *x, size_t n_in,
                                          const size_t rows, const int q4) {
    /* Hides w from the compiler, which would hold the weights in registers for the remainder and
     * run out of them. */
    __asm__("" : "+r"(w));
    /* Rows 0 to 2 share one address and rows 3 to 5 another, so that the registers for addresses
     * suffice. */
    const gpt2c_int8_group *first[2] = {x, gpt2c_rows_down(x, 3, n_in)};
    __m512i integers[MAX_ROWS][2];
    GPT2C_UNROLL(6)
    for (size_t r = 0; r < rows; r++) {
        const int32_t correction = gpt2c_rows_down(first[r / 3], r % 3, n_in)->correction;
        integers[r][0] = integers[r][1] = q4 ? _mm512_setzero_si512() : _mm512_set1_epi32(correction);
    }
    GPT2C_UNROLL(8)
    for (size_t quad = 0; quad < GPT2C_GROUP_QUADS; quad++) {
        const __m512i w0 = _mm512_load_si512(w->q[quad][0]);
        const __m512i w1 = _mm512_load_si512(w->q[quad][GPT2C_LANES]);
        GPT2C_UNROLL(6)
        for (size_t r = 0; r < rows; r++) {
            const gpt2c_int8_group *group = gpt2c_rows_down(first[r / 3], r % 3, n_in);
            const __m512i four_x = _mm512_set1_epi32(*gpt2c_quad_of(group, quad));
            integers[r][0] = gpt2c_add_dots(integers[r][0], w0, four_x);
            integers[r][1] = gpt2c_add_dots(integers[r][1], w1, four_x);
        }
    }
    GPT2C_UNROLL(2)
    for (size_t v = 0; v < 2; v++) {
        const __m512 scale = _mm512_load_ps(w->scale + v * GPT2C_LANES);
        const __m512 offset = q4 ? _mm512_load_ps(w->offset + v * GPT2C_LANES) : scale;
        GPT2C_UNROLL(6)
        for (size_t r = 0; r < rows; r++) {
            const gpt2c_int8_group *group = gpt2c_rows_down(first[r / 3], r % 3, n_in);
            const __m512 dots = _mm512_cvtepi32_ps(integers[r][v]);
            sums[r][v] = _mm512_fmadd_ps(scale, _mm512_mul_ps(_mm512_set1_ps(group->scale), dots), sums[r][v]);
            if (q4) sums[r][v] = _mm512_fnmadd_ps(offset, _mm512_set1_ps(group->scaled_sum), sums[r][v]);
        }
    }
}

static GPT2C_ALWAYS_INLINE void add_tile(const tile *t, const size_t rows, const int q4) {
    const size_t n[2] = {t->columns, t->columns > GPT2C_LANES ? t->columns - GPT2C_LANES : 0};
    const size_t parts = t->x[1] != NULL ? 2 : 1;
    __m512 sums[MAX_ROWS][2];
    GPT2C_UNROLL(6)
    for (size_t r = 0; r < rows; r++) {
        GPT2C_UNROLL(2)
        for (size_t v = 0; v < 2; v++)
            sums[r][v] = t->from == NULL ? _mm512_setzero_ps()
                                         : gpt2c_load(t->from + r * t->from_stride + v * GPT2C_LANES, n[v]);
    }
    for (size_t g = 0; g < t->groups; g++)
        for (size_t i = 0; i < parts; i++) add_group(sums, &t->w[g], &t->x[i][g], t->n_in, rows, q4);
    GPT2C_UNROLL(6)
    for (size_t r = 0; r < rows; r++) {
        GPT2C_UNROLL(2)
        for (size_t v = 0; v < 2; v++)
            gpt2c_store(t->to + r * t->to_stride + v * GPT2C_LANES, n[v], sums[r][v]);
    }
}

static void add_rows_q8(const tile *t, size_t rows) {
    switch (rows) {
#define GPT2C_ROWS(N) \
    case N: add_tile(t, N, 0); break;
        EACH_ROWS(GPT2C_ROWS)
#undef GPT2C_ROWS
    default: break;
    }
}

static void add_rows_q4(const tile *t, size_t rows) {
    switch (rows) {
#define GPT2C_ROWS(N) \
    case N: add_tile(t, N, 1); break;
        EACH_ROWS(GPT2C_ROWS)
#undef GPT2C_ROWS
    default: break;
    }
}

/* An unpacked piece of a panel, and where the piece after it in memory begins, which is usually the
 * next one. */
typedef struct piece {
    unpacked w[PIECE_GROUPS];
    gpt2c_span groups;
    int is_last; /* of its panel */
    const char *next;
    size_t next_bytes;
} piece;

/* Prefetches share i of n of the next piece. */
static void prefetch_next(const piece *p, size_t n, size_t i) {
    const gpt2c_span lines = gpt2c_share(p->next_bytes / 64, n, i);
    for (size_t line = lines.begin; line < lines.end; line++)
        _mm_prefetch(p->next + line * 64, _MM_HINT_T1);
}

static void add_piece(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span panel, const piece *p) {
    const size_t n_in = args->w->n_in, n_out = args->w->n_out, n = rows.end - rows.begin;
    const size_t tiles = (n + MAX_ROWS - 1) / MAX_ROWS, first = p->groups.begin;
    float buffer[MAX_ROWS * GPT2C_PANEL] __attribute__((aligned(64)));
    for (size_t i = 0; i < tiles; i++) {
        const gpt2c_span share = gpt2c_share(n, tiles, i);
        const gpt2c_span part = {rows.begin + share.begin, rows.begin + share.end};
        float *out = args->out + part.begin * n_out + panel.begin;
        const int has_remainder = args->packed_remainder != NULL;
        const tile t = {
            .w = p->w,
            .groups = p->groups.end - first,
            .x = {gpt2c_int8_row_at(args->packed_x, part.begin, n_in) + first,
                  has_remainder ? gpt2c_int8_row_at(args->packed_remainder, part.begin, n_in) + first : NULL},
            .n_in = n_in,
            .from = first > 0 ? out : NULL,
            .from_stride = n_out,
            .to = p->is_last ? buffer : out,
            .to_stride = p->is_last ? GPT2C_PANEL : n_out,
            .columns = panel.end - panel.begin,
        };
        gpt2c_prefetch_lines(args, part, panel);
        prefetch_next(p, tiles, i);
        if (gpt2c_is_q4(args->w))
            add_rows_q4(&t, part.end - part.begin);
        else
            add_rows_q8(&t, part.end - part.begin);
        for (size_t r = part.begin; r < part.end && p->is_last; r++)
            gpt2c_finish_row_avx512(args, r, panel, buffer + (r - part.begin) * GPT2C_PANEL);
    }
}

/* Unpacks p->groups of the panel that begins at column c. */
static void unpack(piece *p, const gpt2c_matrix *w, size_t c) {
    if (gpt2c_is_q4(w)) {
        const gpt2c_q4_block *panel = gpt2c_q4_panel(w, c);
        unpack_q4(p->w, panel, gpt2c_q4_columns_of(w, c), p->groups);
        p->next = (const char *)(panel + p->groups.end);
        p->next_bytes = PIECE_GROUPS * sizeof *panel;
    } else {
        const gpt2c_q8_block *panel = gpt2c_q8_panel(w, c);
        unpack_q8(p->w, panel, p->groups);
        p->next = (const char *)(panel + p->groups.end / 2);
        p->next_bytes = PIECE_GROUPS / 2 * sizeof *panel;
    }
}

static void many_rows(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    const gpt2c_matrix *w = args->w;
    const size_t groups = gpt2c_is_q4(w) ? gpt2c_q4_blocks(w->n_in) : gpt2c_int8_groups(w->n_in);
    piece p __attribute__((aligned(64)));
    for (size_t c = columns.begin; c < columns.end; c += GPT2C_PANEL) {
        const gpt2c_span panel = {c, columns.end - c < GPT2C_PANEL ? columns.end : c + GPT2C_PANEL};
        for (size_t g = 0; g < groups; g = p.groups.end) {
            p.groups = (gpt2c_span){g, groups - g < PIECE_GROUPS ? groups : g + PIECE_GROUPS};
            p.is_last = p.groups.end == groups;
            unpack(&p, w, c);
            if (p.is_last && panel.end == columns.end) p.next_bytes = 0;
            add_piece(args, rows, panel, &p);
        }
    }
}

void gpt2c_linear_int8_avx512_vnni(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    if (rows.end - rows.begin == 1)
        gpt2c_linear_int8_one_row(args, rows.begin, columns);
    else
        many_rows(args, rows, columns);
}
