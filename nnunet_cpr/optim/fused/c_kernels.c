/* One pass over memory for the constraint step (l2) and the optimizer's update of contiguous float32 tensors.

   Every tensor is cut into chunks, and a thread gets the same chunks in each function. The partial sums of chunks are
   added in order, so results do not depend on the number of threads. An update adds up the squares of what it has just
   written, chunk by chunk while it is in the cache: bit for bit what square_sums would read afterwards.

   Functions return 0, or 1 where there is no memory; then they have changed nothing. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define CHUNK 8192
#define BLOCK 32 /* updated, then squared while in the first-level cache; CHUNK is a multiple */
#define ROW 32    /* BLOCK is a multiple */
#define AHEAD 640 /* fetched so many elements before their turn; tried from 256 to 4096 */
#define LINE 16   /* floats in 64 bytes, the usual line of a cache */

static int64_t chunks(int64_t n) { return (n + CHUNK - 1) / CHUNK; }
static int64_t length(int64_t n, int64_t chunk) { return n - chunk * CHUNK < CHUNK ? n - chunk * CHUNK : CHUNK; }

/* Sums of squares of chunks: those of tensor t from first[t] on. */
typedef struct {
    int64_t *first;
    double *of_chunk;
} Partial;

static int allocate(Partial *partial, int64_t count, const int64_t *n) {
    partial->first = malloc((count + 1) * sizeof(int64_t));
    if (!partial->first) return 1;
    partial->first[0] = 0;
    for (int64_t t = 0; t < count; t++) partial->first[t + 1] = partial->first[t] + chunks(n[t]);
    partial->of_chunk = malloc((partial->first[count] + 1) * sizeof(double));
    if (partial->of_chunk) return 0;
    free(partial->first);
    return 1;
}

static void add_up(Partial *partial, int64_t count, double *sums) {
    for (int64_t t = 0; t < count; t++) {
        sums[t] = 0;
        for (int64_t c = partial->first[t]; c < partial->first[t + 1]; c++) sums[t] += partial->of_chunk[c];
    }
    free(partial->of_chunk);
    free(partial->first);
}

/* Ask for the block that comes AHEAD of this one, maybe past the end, which is harmless. Everything is used once a step,
   so nothing need stay in the larger caches. That saves up to 8 % of the time, and nothing where memory is the limit. */
static inline void fetch(const float *block) {
    for (int64_t i = 0; i < BLOCK; i += LINE) __builtin_prefetch(block + AHEAD + i, 0, 3);
}

/* Eight weights at once, in any register width; floats need no more alignment than one of them has. */
typedef float Floats __attribute__((vector_size(32), aligned(4), may_alias));
typedef double Doubles __attribute__((vector_size(64)));

/* The sum of squares so far. Four parts hide the latency of an addition; squares of floats are exact in float64. */
typedef struct {
    Doubles part[4];
} Squares;

/* Add full rows of 32 weights; what is left of n is for total(). */
static inline void add_rows(Squares *squares, const float *a, int64_t n) {
    Squares s = *squares;
    for (int64_t i = 0; i + ROW <= n; i += ROW) {
        for (int part = 0; part < 4; part++) {
            const Doubles x = __builtin_convertvector(*(const Floats *)(a + i + 8 * part), Doubles);
            s.part[part] += x * x;
        }
    }
    *squares = s;
}

/* The sum of the rows of a and of the weights after the last row. */
static double total(const Squares *squares, const float *a, int64_t n) {
    const Doubles all = (squares->part[0] + squares->part[1]) + (squares->part[2] + squares->part[3]);
    double sum = 0;
    for (int lane = 0; lane < 8; lane++) sum += all[lane];
    for (int64_t i = n / ROW * ROW; i < n; i++) sum += (double)a[i] * (double)a[i];
    return sum;
}

/* sums[t] = sum of squares of tensor t, in float64. */
int square_sums(int64_t count, const int64_t *n, const float *const *x, double *sums) {
    Partial partial;
    if (allocate(&partial, count, n)) return 1;
#pragma omp parallel
    for (int64_t t = 0; t < count; t++) {
#pragma omp for schedule(static) nowait
        for (int64_t c = 0; c < chunks(n[t]); c++) {
            const float *xc = x[t] + c * CHUNK;
            const int64_t end = length(n[t], c);
            Squares squares = {0};
            add_rows(&squares, xc, end);
            partial.of_chunk[partial.first[t] + c] = total(&squares, xc, end);
        }
    }
    add_up(&partial, count, sums);
    return 0;
}

/* x = x * keep[t] - lr * (m / correction1) / (sqrt(v) / correction2 + eps), as torch.optim.Adam; counts steps up.
   sums[t] = sum of squares of the new x. */
int adam(int64_t count, const int64_t *n, float *const *x, const float *const *gradient, const float *keep,
         double *sums, float *const *m, float *const *v, float *const *steps, double lr, double beta1, double beta2,
         double eps, int maximize) {
    Partial partial;
    if (allocate(&partial, count, n)) return 1;
    for (int64_t t = 0; t < count; t++) *steps[t] += 1;
#pragma omp parallel
    for (int64_t t = 0; t < count; t++) {
        const float rate = (float)(lr / (1 - pow(beta1, *steps[t])));
        const float spread = (float)(1 / sqrt(1 - pow(beta2, *steps[t])));
        const float b1 = (float)beta1, b2 = (float)beta2, c1 = (float)(1 - beta1), c2 = (float)(1 - beta2);
        const float e = (float)eps, sign = maximize ? -1.0f : 1.0f, k = keep[t];
#pragma omp for schedule(static) nowait
        for (int64_t c = 0; c < chunks(n[t]); c++) {
            const float *restrict gc = gradient[t] + c * CHUNK;
            float *restrict xc = x[t] + c * CHUNK, *restrict mc = m[t] + c * CHUNK, *restrict vc = v[t] + c * CHUNK;
            const int64_t end = length(n[t], c);
            Squares squares = {0};
            for (int64_t b = 0; b < end; b += BLOCK) {
                const int64_t stop = b + BLOCK < end ? b + BLOCK : end;
                fetch(gc + b);
                fetch(xc + b);
                fetch(mc + b);
                fetch(vc + b);
#pragma omp simd
                for (int64_t i = b; i < stop; i++) {
                    const float g = sign * gc[i];
                    mc[i] = b1 * mc[i] + c1 * g;
                    vc[i] = b2 * vc[i] + c2 * g * g;
                    xc[i] = k * xc[i] - rate * mc[i] / (sqrtf(vc[i]) * spread + e);
                }
                add_rows(&squares, xc + b, stop - b);
            }
            partial.of_chunk[partial.first[t] + c] = total(&squares, xc, end);
        }
    }
    add_up(&partial, count, sums);
    return 0;
}

/* x = x * keep[t] - lr * direction, as torch.optim.SGD with momentum. sums[t] = sum of squares of the new x. */
int sgd(int64_t count, const int64_t *n, float *const *x, const float *const *gradient, const float *keep,
        double *sums, float *const *momentum_buffer, double lr, double momentum, double dampening, int nesterov,
        int maximize) {
    Partial partial;
    if (allocate(&partial, count, n)) return 1;
    const float mu = (float)momentum, damp = (float)(1 - dampening), rate = (float)lr;
    const float sign = maximize ? -1.0f : 1.0f;
    /* direction = own * g + carried * buffer */
    const float own = nesterov ? 1.0f : 0.0f, carried = nesterov ? mu : 1.0f;
#pragma omp parallel
    for (int64_t t = 0; t < count; t++) {
        const float k = keep[t];
#pragma omp for schedule(static) nowait
        for (int64_t c = 0; c < chunks(n[t]); c++) {
            const float *restrict gc = gradient[t] + c * CHUNK;
            float *restrict xc = x[t] + c * CHUNK, *restrict bc = momentum_buffer[t] + c * CHUNK;
            const int64_t end = length(n[t], c);
            Squares squares = {0};
            for (int64_t b = 0; b < end; b += BLOCK) {
                const int64_t stop = b + BLOCK < end ? b + BLOCK : end;
                fetch(gc + b);
                fetch(xc + b);
                fetch(bc + b);
#pragma omp simd
                for (int64_t i = b; i < stop; i++) {
                    const float g = sign * gc[i];
                    bc[i] = mu * bc[i] + damp * g;
                    xc[i] = k * xc[i] - rate * (own * g + carried * bc[i]);
                }
                add_rows(&squares, xc + b, stop - b);
            }
            partial.of_chunk[partial.first[t] + c] = total(&squares, xc, end);
        }
    }
    add_up(&partial, count, sums);
    return 0;
}
