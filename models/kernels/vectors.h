// What the kernels share: vectors of floats, buffers, and products of matrices whose columns are pixels.
//
// Maps are NCHW float32: vectors run along pixels, so that any number of channels is as fast.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE_VECTORS = 4, DOT_ROWS = 4, DOT_COLUMNS = 6;
#elif defined(__AVX__)
constexpr int LANES = 8, TILE_VECTORS = 2, DOT_ROWS = 3, DOT_COLUMNS = 4;
#else
constexpr int LANES = 4, TILE_VECTORS = 2, DOT_ROWS = 3, DOT_COLUMNS = 4;
#endif
constexpr int TILE_ROWS = 6;  // with TILE_VECTORS, what the vector registers hold
constexpr int64_t BAND_FLOATS = 1 << 17;  // of a band's buffers: half of a 1 MB L2 cache

typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

#define UNROLL _Pragma("GCC unroll 16")  // sums that are indexed by a loop's counter leave the registers

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }
inline Vector broadcast(float value) { return value - Vector{}; }
constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Keeps a value in its register: compilers load it again at every use, and loads bound a product.
#if defined(__x86_64__)
#define IN_REGISTER(value) asm("" : "+v"(value))
#else
#define IN_REGISTER(value) (void)(value)
#endif

// The first `count` lanes, at most all of them.
inline void store_some(float* to, Vector value, int64_t count) {
    if (count >= LANES) store(to, value);
    else if (count > 0) std::memcpy(to, &value, count * sizeof(float));
}

// The first `count` lanes, zeros in the others.
inline Vector load_some(const float* from, int64_t count) {
    if (count >= LANES) return load(from);
    Vector value = {};
    std::memcpy(&value, from, count * sizeof(float));
    return value;
}

inline void copy(float* to, const float* from, int64_t count) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store(to + i, load(from + i));
    for (; i < count; i++) to[i] = from[i];
}

// Memory on a cache line, kept by its thread from call to call.
class Buffer {
public:
    float* floats(int64_t count) {
        if (count > capacity) {
            std::free(memory);
            capacity = round_up(count, LANES);
            memory = static_cast<float*>(std::aligned_alloc(64, round_up(capacity * sizeof(float), 64)));
            if (!memory) throw std::bad_alloc();
        }
        return memory;
    }
    float* zeros(int64_t count) { return static_cast<float*>(std::memset(floats(count), 0, count * sizeof(float))); }
    ~Buffer() { std::free(memory); }

private:
    float* memory = nullptr;
    int64_t capacity = 0;
};

template <int N>
inline float total_of(const float (&lanes)[N]) {
    if constexpr (N == 1) return lanes[0];
    else {
        float halves[N / 2];
        UNROLL for (int i = 0; i < N / 2; i++) halves[i] = lanes[i] + lanes[i + N / 2];
        return total_of(halves);
    }
}

inline float total(Vector v) {
    float lanes[LANES];
    store(lanes, v);
    return total_of(lanes);
}

typedef int32_t Lanes __attribute__((vector_size(LANES * sizeof(int32_t))));

// Groups of 2 * HALF lanes of a, then those of b, each folded to HALF.
template <int HALF>
inline Vector fold(Vector a, Vector b) {
    Lanes low, high;
    UNROLL for (int i = 0; i < LANES; i++) {
        const int lane = i % (LANES / 2);
        low[i] = lane / HALF * 2 * HALF + lane % HALF + (i < LANES / 2 ? 0 : LANES);
        high[i] = low[i] + HALF;
    }
#if defined(__clang__)  // which has another builtin, but makes shuffles of the loop
    Vector folded;
    for (int i = 0; i < LANES; i++)
        folded[i] = low[i] < LANES ? a[low[i]] + a[high[i]] : b[low[i] - LANES] + b[high[i] - LANES];
    return folded;
#else
    return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
#endif
}

// Lane i is the total of v[i], for i < COUNT <= LANES: cheaper than one total after the other.
template <int COUNT, int HALF = LANES / 2>
inline __attribute__((always_inline)) Vector totals(const Vector* v) {
    if constexpr (HALF == 0) return v[0];
    else {
        Vector folded[(COUNT + 1) / 2];
        UNROLL for (int i = 0; i < COUNT / 2; i++) folded[i] = fold<HALF>(v[2 * i], v[2 * i + 1]);
        if (COUNT % 2) folded[COUNT / 2] = fold<HALF>(v[COUNT - 1], Vector{});
        return totals<(COUNT + 1) / 2, HALF / 2>(folded);
    }
}

// A matrix by its strides, so that its transpose is the same memory.
struct Matrix {
    const float* data;
    int64_t row_stride, column_stride;
};

template <int ROWS, int VECTORS>
inline __attribute__((always_inline)) void multiply_tile(
    const Matrix& m, int64_t first_row, int64_t inner, const float* const* in, int64_t p, const float* bias,
    float slope, float* const* out, int64_t offset, int64_t count, const float* const* added
) {
    Vector sums[ROWS][VECTORS];
    UNROLL for (int i = 0; i < ROWS; i++) {
        UNROLL for (int j = 0; j < VECTORS; j++) sums[i][j] = broadcast(bias ? bias[first_row + i] : 0.0f);
        if (added) {
            const float* from = added[first_row + i] + offset + p;
            UNROLL for (int j = 0; j < VECTORS; j++)
                sums[i][j] += VECTORS > 1 ? load(from + j * LANES) : load_some(from, count);
        }
    }
    const float* factors = m.data + first_row * m.row_stride;
    for (int64_t k = 0; k < inner; k++) {
        Vector v[VECTORS];
        UNROLL for (int j = 0; j < VECTORS; j++) v[j] = load(in[k] + p + j * LANES);
        UNROLL for (int i = 0; i < ROWS; i++) {
            const Vector factor = broadcast(factors[i * m.row_stride + k * m.column_stride]);
            UNROLL for (int j = 0; j < VECTORS; j++) sums[i][j] += factor * v[j];
        }
    }
    UNROLL for (int i = 0; i < ROWS; i++) {
        float* to = out[first_row + i] + offset + p;
        UNROLL for (int j = 0; j < VECTORS; j++) {
            const Vector value = sums[i][j] > 0 ? sums[i][j] : sums[i][j] * slope;
            if (VECTORS > 1) store(to + j * LANES, value);
            else store_some(to, value, count);
        }
    }
}

template <int VECTORS>
void multiply_columns(
    const Matrix& m, int64_t rows, int64_t inner, const float* const* in, int64_t p, const float* bias, float slope,
    float* const* out, int64_t offset, int64_t count, const float* const* added
) {
    for (int64_t row = 0, groups = (rows + TILE_ROWS - 1) / TILE_ROWS; groups > 0; groups--) {
        const int64_t size = (rows - row + groups - 1) / groups;  // about equal, as a small group wastes its loads
        switch (size) {
#define CASE(n) \
    case n: multiply_tile<n, VECTORS>(m, row, inner, in, p, bias, slope, out, offset, count, added); break
            CASE(1);
            CASE(2);
            CASE(3);
            CASE(4);
            CASE(5);
            CASE(6);
#undef CASE
        }
        row += size;
    }
}

// out[row][offset + p] = LeakyReLU(added[row][offset + p] + bias[row] + sum over k of m[row][k] * in[k][p]) for
// p < count; whole vectors of `in` are read. `bias` and `added` may be null.
inline void multiply(
    const Matrix& m, int64_t rows, int64_t inner, const float* const* in, const float* bias, float slope,
    float* const* out, int64_t offset, int64_t count, const float* const* added = nullptr
) {
    int64_t p = 0;
    for (; p + TILE_VECTORS * LANES <= count; p += TILE_VECTORS * LANES)
        multiply_columns<TILE_VECTORS>(m, rows, inner, in, p, bias, slope, out, offset, count - p, added);
    for (; p < count; p += LANES)
        multiply_columns<1>(m, rows, inner, in, p, bias, slope, out, offset, count - p, added);
}

// sums (rows x columns) += a . b over `count` pixels, a multiple of LANES. `upper`: what lies wholly below the diagonal is
// left out, as whoever knows that a is b needs one half.
inline void add_dot_products(
    const float* const* a, int64_t rows, const float* const* b, int64_t columns, int64_t count, float* sums,
    bool upper = false
) {
    for (int64_t column = 0; column < columns; column += DOT_COLUMNS)
        for (int64_t row = 0; row < (upper ? std::min(rows, column + DOT_COLUMNS) : rows); row += DOT_ROWS) {
            const float *left[DOT_ROWS], *right[DOT_COLUMNS];
            UNROLL for (int i = 0; i < DOT_ROWS; i++) left[i] = a[std::min(row + i, rows - 1)];
            UNROLL for (int j = 0; j < DOT_COLUMNS; j++) right[j] = b[std::min(column + j, columns - 1)];
            Vector s[DOT_ROWS * DOT_COLUMNS] = {};
            for (int64_t p = 0; p < count; p += LANES) {
                Vector u[DOT_ROWS];
                UNROLL for (int i = 0; i < DOT_ROWS; i++) {
                    u[i] = load(left[i] + p);
                    IN_REGISTER(u[i]);
                }
                UNROLL for (int j = 0; j < DOT_COLUMNS; j++) {
                    Vector v = load(right[j] + p);
                    IN_REGISTER(v);
                    UNROLL for (int i = 0; i < DOT_ROWS; i++) s[i * DOT_COLUMNS + j] += u[i] * v;
                }
            }
            float dots[round_up(DOT_ROWS * DOT_COLUMNS, LANES)];
            constexpr int LAST = (DOT_ROWS * DOT_COLUMNS - 1) / LANES * LANES;
            UNROLL for (int first = 0; first < LAST; first += LANES) store(dots + first, totals<LANES>(s + first));
            store(dots + LAST, totals<DOT_ROWS * DOT_COLUMNS - LAST>(s + LAST));
            for (int i = 0; i < DOT_ROWS && row + i < rows; i++)
                for (int j = 0; j < DOT_COLUMNS && column + j < columns; j++)
                    sums[(row + i) * columns + column + j] += dots[i * DOT_COLUMNS + j];
        }
}

inline std::vector<const float*> rows_of(const float* data, int64_t rows, int64_t stride) {
    std::vector<const float*> pointers(rows);
    for (int64_t i = 0; i < rows; i++) pointers[i] = data + i * stride;
    return pointers;
}

}  // namespace
