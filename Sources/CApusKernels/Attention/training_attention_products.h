/* Products of packed operands with sums in registers. In bf16 an operand is a pair of neighbours along the reduced axis.
 *
 * The left matrix is read one operand at a time and broadcast, so it may lie either way round: [row][k] or [k][row]. The
 * right one lies as [k][column] and is read by vectors. An element is summed along k in order, whatever stands beside it. */

#if LANES == 16
#define WIDE 4
#else
#define WIDE 2
#endif

/* How the sums begin: from zero, from what c holds, or from that times a factor per row. */
typedef enum { FROM_ZERO, FROM_SUMS, FROM_RESCALED } sums_origin;

typedef struct {
  int64_t depth; /* in operands */
  const operand *a;
  int64_t a_stride;
  const operand *b;
  int64_t b_stride;
  sums_origin origin;
  const float *rescale;
  float *c;
  int64_t c_stride;
} product;

INLINE void multiply_panel(const product *p, const int rows, const int vectors, const int by_column, int64_t column) {
  vf sums[MICRO_ROWS][WIDE];
  float *c = p->c + column;
  const operand *a = p->a, *b = p->b + column;
  const int64_t a_stride = p->a_stride, b_stride = p->b_stride, c_stride = p->c_stride;
#pragma clang loop unroll(full)
  for (int r = 0; r < rows; r++)
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++)
      sums[r][v] = p->origin == FROM_ZERO ? splat(0) : load(c + r * c_stride + v * LANES);
  if (p->origin == FROM_RESCALED) {
#pragma clang loop unroll(full)
    for (int r = 0; r < rows; r++)
#pragma clang loop unroll(full)
      for (int v = 0; v < vectors; v++) sums[r][v] *= p->rescale[r];
  }
  for (int64_t k = p->depth; k > 0; k--) {
    vf right[WIDE];
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++) right[v] = load((const float *)b + v * LANES);
#pragma clang loop unroll(full)
    for (int r = 0; r < rows; r++) {
      const operand left = by_column ? a[r] : a[r * a_stride];
#if COMPUTE_BF16
      __m512bh pair = (__m512bh)_mm512_set1_epi32((int)left);
#pragma clang loop unroll(full)
      for (int v = 0; v < vectors; v++) sums[r][v] = (vf)_mm512_dpbf16_ps((__m512)sums[r][v], pair, (__m512bh)right[v]);
#else
      vf factor = splat(left);
#pragma clang loop unroll(full)
      for (int v = 0; v < vectors; v++) sums[r][v] += factor * right[v];
#endif
    }
    a += by_column ? a_stride : 1;
    b += b_stride;
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < rows; r++)
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++) store(c + r * c_stride + v * LANES, sums[r][v]);
}

INLINE void multiply_rows(const product *p, const int rows, const int by_column, int64_t width) {
  int64_t vectors = (width + LANES - 1) / LANES, column = 0;
  while (vectors > 0) {
    /* What is left beyond one panel is cut in halves: a panel of one vector would load as much as it multiplies. */
    int64_t taken = vectors <= WIDE ? vectors : vectors < 2 * WIDE ? (vectors + 1) / 2 : WIDE;
    switch (taken) {
      case 1: multiply_panel(p, rows, 1, by_column, column); break;
#if WIDE == 4
      case 3: multiply_panel(p, rows, 3, by_column, column); break;
      case 4: multiply_panel(p, rows, 4, by_column, column); break;
#endif
      default: multiply_panel(p, rows, 2, by_column, column); break;
    }
    vectors -= taken;
    column += taken * LANES;
  }
}

/* c[rows][width] += a b for an even number of rows up to MICRO_ROWS; width counts floats, whole vectors are written.
 * a lies as [row][k]. */
static void multiply_by_rows(const product *p, int rows, int64_t width) {
  switch (rows) {
    case 2: multiply_rows(p, 2, 0, width); break;
    case 4: multiply_rows(p, 4, 0, width); break;
    default: multiply_rows(p, MICRO_ROWS, 0, width); break;
  }
}

/* The same with a as [k][row]. */
static void multiply_by_columns(const product *p, int rows, int64_t width) {
  switch (rows) {
    case 2: multiply_rows(p, 2, 1, width); break;
    case 4: multiply_rows(p, 4, 1, width); break;
    default: multiply_rows(p, MICRO_ROWS, 1, width); break;
  }
}
