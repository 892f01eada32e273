#include "format.h"

/* ---- By layout ---- */

#define GPT2C_BY_LAYOUT(name, layout, linear, pack, roundoff) [layout] = &gpt2c_format_##name,
static const gpt2c_format *const by_layout[GPT2C_LAYOUT_COUNT] = {
    GPT2C_ROW_MAJOR_FORMATS(GPT2C_BY_LAYOUT) GPT2C_FORMATS(GPT2C_BY_LAYOUT)};
#undef GPT2C_BY_LAYOUT

const gpt2c_format *gpt2c_format_of(gpt2c_layout layout) { return by_layout[layout]; }

/* ---- By number ---- */

typedef struct format_row {
    const char *name;
    gpt2c_layout layout;
} format_row;

#define GPT2C_BY_NUMBER(name, layout, linear, pack, roundoff) {#name, layout},
static const format_row format_rows[] = {GPT2C_FORMATS(GPT2C_BY_NUMBER)};
#undef GPT2C_BY_NUMBER

int32_t gpt2c_format_count(void) { return (int32_t)(sizeof format_rows / sizeof format_rows[0]); }

const char *gpt2c_format_name(int32_t format) {
    return format >= 0 && format < gpt2c_format_count() ? format_rows[format].name : NULL;
}

gpt2c_layout gpt2c_layout_of_format(int32_t format) { return format_rows[format].layout; }
