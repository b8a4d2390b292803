/* One pass over memory for the constraint step (l2) and the optimizer's update of contiguous float32 tensors.

   Every tensor is cut into chunks, and a thread gets the same chunks in each function. The partial sums of chunks are
   added in order, so results do not depend on the number of threads. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define CHUNK 16384

static int64_t chunks(int64_t n) { return (n + CHUNK - 1) / CHUNK; }
static int64_t length(int64_t n, int64_t chunk) { return n - chunk * CHUNK < CHUNK ? n - chunk * CHUNK : CHUNK; }

/* sums[t] = sum of squares of tensor t, in float64. Returns 0, or 1 where there is no memory. */
int square_sums(int64_t count, const int64_t *n, const float *const *x, double *sums) {
    int64_t *first = malloc((count + 1) * sizeof(int64_t));
    if (!first) return 1;
    first[0] = 0;
    for (int64_t t = 0; t < count; t++) first[t + 1] = first[t] + chunks(n[t]);
    double *partial = malloc((first[count] + 1) * sizeof(double));
    if (!partial) {
        free(first);
        return 1;
    }
#pragma omp parallel
    for (int64_t t = 0; t < count; t++) {
#pragma omp for schedule(static) nowait
        for (int64_t c = 0; c < chunks(n[t]); c++) {
            const float *a = x[t] + c * CHUNK;
            const int64_t end = length(n[t], c);
            double sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < end; i++) sum += (double)a[i] * (double)a[i];
            partial[first[t] + c] = sum;
        }
    }
    for (int64_t t = 0; t < count; t++) {
        sums[t] = 0;
        for (int64_t c = first[t]; c < first[t + 1]; c++) sums[t] += partial[c];
    }
    free(partial);
    free(first);
    return 0;
}

/* x = x * keep[t] - lr * (m / correction1) / (sqrt(v) / correction2 + eps), as torch.optim.Adam; counts steps up. */
void adam(int64_t count, const int64_t *n, float *const *x, const float *const *gradient, const float *keep,
          float *const *m, float *const *v, float *const *steps, double lr, double beta1, double beta2, double eps,
          int maximize) {
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
#pragma omp simd
            for (int64_t i = 0; i < end; i++) {
                const float g = sign * gc[i];
                mc[i] = b1 * mc[i] + c1 * g;
                vc[i] = b2 * vc[i] + c2 * g * g;
                xc[i] = k * xc[i] - rate * mc[i] / (sqrtf(vc[i]) * spread + e);
            }
        }
    }
}

/* x = x * keep[t] - lr * direction, as torch.optim.SGD with momentum. */
void sgd(int64_t count, const int64_t *n, float *const *x, const float *const *gradient, const float *keep,
         float *const *momentum_buffer, double lr, double momentum, double dampening, int nesterov, int maximize) {
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
#pragma omp simd
            for (int64_t i = 0; i < end; i++) {
                const float g = sign * gc[i];
                bc[i] = mu * bc[i] + damp * g;
                xc[i] = k * xc[i] - rate * (own * g + carried * bc[i]);
            }
        }
    }
}
