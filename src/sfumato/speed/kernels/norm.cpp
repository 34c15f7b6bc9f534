// Group normalization, a scale and shift of each channel, and an activation, in one pass of memory
// forward and one backward.
//
//     y = act(x_hat * a + b),   x_hat = (x - mean) * rstd
//
// x, y: N images, channels last (N, P, C), P pixels, in float, bfloat16 or double. a, b: of each channel (stride 0) or of each channel and image (stride C). Sums and all
// arithmetic in float (double for double). act is nothing, SiLU or GELU.
//
// Backward: with dz = dy act'(z), S1 = sum(a dz), S2 = sum(a dz x_hat) over a group of M numbers,
//     da = sum(dz x_hat), db = sum(dz) over the pixels, dx = rstd (a dz - S1 / M - x_hat S2 / M).
// dz is kept in dx between the two passes.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using Index = int64_t;

struct bfloat16 {
    uint16_t bits;
};

inline float load(float x) { return x; }
inline double load(double x) { return x; }
inline float load(bfloat16 x) {
    uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline void store(float& to, float x) { to = x; }
inline void store(double& to, double x) { to = x; }
inline void store(bfloat16& to, float x) {  // to nearest, ties to even; NaN stays NaN
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    to.bits = static_cast<uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded);
}

// exp(x) to a few units in the last place, in operations that compilers turn into vectors.
inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float k = __builtin_rintf(x * 1.44269504f);
    float r = (x - k * 0.693145752f) - k * 1.42860677e-6f;
    float p = 1.98756916e-4f;
    p = p * r + 1.39819994e-3f;
    p = p * r + 8.33345205e-3f;
    p = p * r + 4.16657962e-2f;
    p = p * r + 1.66666657e-1f;
    p = p * r + 5.00000000e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = (static_cast<int32_t>(k) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}
inline double exponential(double x) { return std::exp(x); }

template <class Real>
inline Real sigmoid(Real z) {
    return Real(1) / (Real(1) + exponential(-z));
}

// The integral of the standard normal density up to z, and the density.
inline void normal(float z, float& integral, float& density) {
    const float e = exponential(-0.5f * z * z);
    const float x = std::fabs(z) * 0.707106781f;
    const float t = 1.0f / (1.0f + 0.3275911f * x);  // Abramowitz & Stegun 7.1.26, error 1.5e-7
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const float tail = 0.5f * p * t * e;
    integral = z < 0 ? tail : 1.0f - tail;
    density = 0.398942280f * e;
}
inline void normal(double z, double& integral, double& density) {
    integral = 0.5 * std::erfc(-z * 0.70710678118654752);
    density = 0.39894228040143268 * std::exp(-0.5 * z * z);
}

enum Activation { none, silu, gelu };

template <Activation act, class Real>
inline Real activate(Real z) {
    if (act == silu) return z * sigmoid(z);
    if (act == gelu) {
        Real integral, density;
        normal(z, integral, density);
        return z * integral;
    }
    return z;
}
// d act(z) / dz
template <Activation act, class Real>
inline Real slope(Real z) {
    if (act == silu) {
        const Real s = sigmoid(z);
        return s * (Real(1) + z * (Real(1) - s));
    }
    if (act == gelu) {
        Real integral, density;
        normal(z, integral, density);
        return integral + z * density;
    }
    return Real(1);
}

// A pixel is a run of C numbers. One task is some whole groups of an image.
template <class Real>
struct Rows {  // of per-channel numbers
    std::vector<Real> numbers;
    Index width;
    Rows(Index rows, Index width) : numbers(rows * width, Real(0)), width(width) {}
    Real* operator[](Index row) { return numbers.data() + row * width; }
};

template <class T>
Index groups_of_a_task(Index N, Index C, Index P, Index G) {
    // Whole images, unless these are few or leave the cache between two passes; but whole lines.
    const Index D = C / G, cache = 1 << 19, line = 64;
    Index groups = G;
    const auto too_large = [&] {
        return N * (G / groups) < 64 || 3 * groups * D * P * Index(sizeof(T)) > cache;
    };
    while (groups % 2 == 0 && groups / 2 * D * Index(sizeof(T)) >= line && too_large()) groups /= 2;
    return groups;
}

template <class T, class Real, Activation act>
void forward(const T* x, const Real* a, const Real* b, T* y, Real* means, Real* rstds,
                    Index N, Index C, Index P, Index G, Index stride, Real eps) {
    const Index D = C / G, some = groups_of_a_task<T>(N, C, P, G), W = some * D, parts = G / some;
#pragma omp parallel
    {
        Rows<Real> rows(4, W);
        Real *mean = rows[0], *sums = rows[1], *scale = rows[2], *shift = rows[3];
#pragma omp for
        for (Index task = 0; task < N * parts; task++) {
            const Index n = task / parts, g0 = task % parts * some, c0 = g0 * D;
            const T* in = x + n * P * C + c0;
            T* out = y + n * P * C + c0;
            for (Index c = 0; c < W; c++) sums[c] = 0;
            for (Index p = 0; p < P; p++) {
                const T* row = in + p * C;
#pragma omp simd
                for (Index c = 0; c < W; c++) sums[c] += load(row[c]);
            }
            for (Index g = 0; g < some; g++) {
                Real total = 0;
                for (Index c = g * D; c < (g + 1) * D; c++) total += sums[c];
                means[n * G + g0 + g] = total / (D * P);
                for (Index c = g * D; c < (g + 1) * D; c++) {
                    mean[c] = total / (D * P);
                    sums[c] = 0;
                }
            }
            for (Index p = 0; p < P; p++) {
                const T* row = in + p * C;
#pragma omp simd
                for (Index c = 0; c < W; c++) {
                    const Real d = load(row[c]) - mean[c];
                    sums[c] += d * d;
                }
            }
            for (Index g = 0; g < some; g++) {
                Real total = 0;
                for (Index c = g * D; c < (g + 1) * D; c++) total += sums[c];
                const Real rstd = Real(1) / std::sqrt(total / (D * P) + eps);
                rstds[n * G + g0 + g] = rstd;
                for (Index c = g * D; c < (g + 1) * D; c++) {
                    scale[c] = a[n * stride + c0 + c] * rstd;
                    shift[c] = b[n * stride + c0 + c] - mean[c] * scale[c];
                }
            }
            for (Index p = 0; p < P; p++) {
                const T* row = in + p * C;
                T* to = out + p * C;
#pragma omp simd
                for (Index c = 0; c < W; c++)
                    store(to[c], activate<act>(load(row[c]) * scale[c] + shift[c]));
            }
        }
    }
}

template <class T, class Real, Activation act>
void backward(const T* dy, const T* x, const Real* a, const Real* b, const Real* means,
                     const Real* rstds, T* dx, Real* da, Real* db, Index N, Index C, Index P,
                     Index G, Index stride) {
    const Index D = C / G, some = groups_of_a_task<T>(N, C, P, G), W = some * D, parts = G / some;
#pragma omp parallel
    {
        Rows<Real> rows(7, W);
        Real *mean = rows[0], *scale = rows[1], *shift = rows[2], *plain = rows[3];
        Real *times_x = rows[4], *on_x = rows[5], *constant = rows[6];
#pragma omp for
        for (Index task = 0; task < N * parts; task++) {
            const Index n = task / parts, g0 = task % parts * some, c0 = g0 * D;
            const T *in = x + n * P * C + c0, *grad = dy + n * P * C + c0;
            T* out = dx + n * P * C + c0;
            for (Index c = 0; c < W; c++) {
                const Index g = n * G + g0 + c / D;
                mean[c] = means[g];
                scale[c] = a[n * stride + c0 + c] * rstds[g];
                shift[c] = b[n * stride + c0 + c] - means[g] * scale[c];
                plain[c] = times_x[c] = 0;
            }
            for (Index p = 0; p < P; p++) {
                const T *row = in + p * C, *grads = grad + p * C;
                T* to = out + p * C;
#pragma omp simd
                for (Index c = 0; c < W; c++) {
                    const Real value = load(row[c]);
                    const Real dz = load(grads[c]) * slope<act>(value * scale[c] + shift[c]);
                    plain[c] += dz;
                    times_x[c] += dz * (value - mean[c]);
                    store(to[c], dz);
                }
            }
            for (Index g = 0; g < some; g++) {
                const Real rstd = rstds[n * G + g0 + g];
                Real s1 = 0, s2 = 0;
                for (Index c = g * D; c < (g + 1) * D; c++) {
                    const Real weight = a[n * stride + c0 + c];
                    s1 += weight * plain[c];
                    s2 += weight * times_x[c] * rstd;
                    da[n * C + c0 + c] = times_x[c] * rstd;
                    db[n * C + c0 + c] = plain[c];
                }
                for (Index c = g * D; c < (g + 1) * D; c++) {
                    on_x[c] = -rstd * rstd * s2 / (D * P);
                    constant[c] = -rstd * s1 / (D * P) - mean[c] * on_x[c];
                }
            }
            for (Index p = 0; p < P; p++) {
                const T* row = in + p * C;
                T* to = out + p * C;
#pragma omp simd
                for (Index c = 0; c < W; c++)
                    store(to[c], load(to[c]) * scale[c] + load(row[c]) * on_x[c] + constant[c]);
            }
        }
    }
}

}  // namespace

#define CHOOSE(way, T, Real)                                 \
    (act == silu   ? way<T, Real, silu>                      \
     : act == gelu ? way<T, Real, gelu>                      \
                   : way<T, Real, none>)

#define EXPORT(name, T, Real)                                                                    \
    extern "C" void forward_##name(const T* x, const Real* a, const Real* b, T* y, Real* mean,   \
                                   Real* rstd, Index N, Index C, Index P, Index G, Index stride, \
                                   double eps, int act) {                                        \
        CHOOSE(forward, T, Real)                                                                 \
        (x, a, b, y, mean, rstd, N, C, P, G, stride, static_cast<Real>(eps));                    \
    }                                                                                            \
    extern "C" void backward_##name(const T* dy, const T* x, const Real* a, const Real* b,       \
                                    const Real* mean, const Real* rstd, T* dx, Real* da,         \
                                    Real* db, Index N, Index C, Index P, Index G, Index stride,  \
                                    int act) {                                                   \
        CHOOSE(backward, T, Real)(dy, x, a, b, mean, rstd, dx, da, db, N, C, P, G, stride);      \
    }

EXPORT(float, float, float)
EXPORT(bfloat16, bfloat16, float)
EXPORT(double, double, double)
