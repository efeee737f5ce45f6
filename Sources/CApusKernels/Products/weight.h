#ifndef APUS_WEIGHT_H
#define APUS_WEIGHT_H
#include "formats.h"

struct apus_weight {
    apus_dtype dtype;
    int64_t n, k;
    const uint8_t *rows; /* row-major data of a float type, borrowed or a copy */
    int64_t row_bytes;
    uint8_t *panels;     /* owned: panels of a quantised type, or the copy */
    int64_t panel_bytes;
    size_t owned_bytes;
};

static inline int64_t apus_weight_panels(const apus_weight *w) { return (w->n + PANEL_ROWS - 1) / PANEL_ROWS; }

/* Rows of the weight that panel `p` holds; the last may hold fewer than 16. */
static inline int apus_panel_rows(const apus_weight *w, int64_t p) {
    int64_t left = w->n - p * PANEL_ROWS;
    return left < PANEL_ROWS ? (int)left : PANEL_ROWS;
}

#endif
