// Operands of training attention and their panels in shared memory.
//
// Operands (AttentionOperands), bf16, read through tensor maps [token][head][width]:
//   query       QUERY = KEY + ONCE wide; its last ONCE elements meet the part of the key that is kept once
//   key, value  of KV head `head / group`, KEY and VALUE wide; the key kept once of all heads, ONCE wide
// Sequences lie one after the other. Row r of a sequence sees the keys of its own sequence in (r - window, r].
//
// Of a key its own panels come first, then those kept once.
//
// Set at compile time: KEY, ONCE (multiples of 16, ONCE may be 0), VALUE.
#pragma once

#include "attention_items.cuh"

#define QUERY (KEY + ONCE)
#define KEY_PANELS PANELS_OF(KEY)
#define WHOLE_KEY_PANELS (KEY_PANELS + PANELS_OF(ONCE))
#define VALUE_PANELS PANELS_OF(VALUE)
#define QUERY_PANELS PANELS_OF(QUERY)

static_assert(KEY % 16 == 0 && KEY > 0 && ONCE % 16 == 0 && VALUE % 16 == 0, "widths come in steps of 16");

// Where the columns of a query from `column` on meet the key's, in bytes of a tile of `rows` rows.
__device__ constexpr int key_place(int column, int rows) {
    const bool once = column >= KEY;
    const int inside = once ? column - KEY : column;
    return ((once ? KEY_PANELS : 0) + inside / 64) * rows * 128 + inside % 64 * 2;
}

// The same in a tile of queries.
__device__ constexpr int query_place(int column, int rows) {
    return column / 64 * rows * 128 + column % 64 * 2;
}
