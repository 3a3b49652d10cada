// Convs in a row, 3x3 or depthwise 3x3 and pointwise 1x1, with the LeakyReLU and the split after each.
//
// A layer at a time, each of these writes a feature map to memory and reads it back. Here a band of rows is convolved
// depthwise into a buffer that stays in the cache, and multiplied from there; backward computes the depthwise maps
// again, and holds the gradient of one stage's. A 3x3 conv is the same product, of its weights with nine shifted views
// of each channel. Maps are NCHW float32: vectors run along pixels, so that any number of channels is as fast. Forward
// shares out images, or the bands of a single one; backward images alone.
//
// Built by utils/native.py, called by models/chain.py.

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
inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Keeps a value in its register: compilers load it again at every use, and loads across cache lines bound a product.
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

struct Scratch {
    Buffer plane, gradient_plane, depthwise, gradient, depthwise_gradient, rest_gradient[2];
    Buffer bordered, bordered_gradient, product, flipped;
};
thread_local Scratch scratch;

// One channel with a border of zeros, its rows padded to whole vectors.
struct Plane {
    float* data;
    int64_t stride;

    static int64_t stride_for(int64_t width) { return round_up(width, LANES) + LANES; }
    static int64_t floats_for(int64_t rows, int64_t width) { return (rows + 2) * stride_for(width) + LANES; }

    // Rows [first - 1, last + 1) of a channel, zero outside of it. The borders must be zero already.
    void fill(const float* channel, int64_t height, int64_t width, int64_t first, int64_t last) {
        for (int64_t y = first - 1; y <= last; y++) {
            float* row = data + (y - first + 1) * stride + 1;
            if (y < 0 || y >= height) std::memset(row, 0, width * sizeof(float));
            else copy(row, channel + y * width, width);
        }
    }
    const float* row(int64_t y) const { return data + (y + 1) * stride + 1; }  // y counts from the first filled
};

// out (rows x width, packed) = 3x3 correlation of the plane.
void convolve_plane(const Plane& in, const float* kernel, float bias, float* out, int64_t rows, int64_t width) {
    Vector taps[9];
    UNROLL for (int k = 0; k < 9; k++) taps[k] = broadcast(kernel[k]);
    const Vector start = broadcast(bias);
    int64_t y = 0;
    for (; y + 2 <= rows; y += 2) {  // two rows share the loads of what is between them
        const float *row0 = in.row(y - 1), *row1 = in.row(y), *row2 = in.row(y + 1), *row3 = in.row(y + 2);
        float* to = out + y * width;
        for (int64_t x = 0; x < width; x += LANES) {
            Vector upper = start, lower = start;
            UNROLL for (int k = 0; k < 3; k++) {
                const int64_t at = x + k - 1;
                const Vector v1 = load(row1 + at), v2 = load(row2 + at);
                upper += taps[k] * load(row0 + at) + taps[3 + k] * v1 + taps[6 + k] * v2;
                lower += taps[k] * v1 + taps[3 + k] * v2 + taps[6 + k] * load(row3 + at);
            }
            store_some(to + x, upper, width - x);
            store_some(to + width + x, lower, width - x);
        }
    }
    for (; y < rows; y++) {
        const float *row0 = in.row(y - 1), *row1 = in.row(y), *row2 = in.row(y + 1);
        for (int64_t x = 0; x < width; x += LANES) {
            Vector sum = start;
            UNROLL for (int k = 0; k < 3; k++) {
                const int64_t at = x + k - 1;
                sum += taps[k] * load(row0 + at) + taps[3 + k] * load(row1 + at) + taps[6 + k] * load(row2 + at);
            }
            store_some(out + y * width + x, sum, width - x);
        }
    }
}

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

// kernel_gradient (9) += gradient . in at each offset; returns the gradient's sum. Both planes hold `rows` rows.
float correlate_planes(const Plane& in, const Plane& gradient, float* kernel_gradient, int64_t rows, int64_t width) {
    Vector sums[10] = {};
    for (int64_t y = 0; y < rows; y++) {
        const float *above = in.row(y - 1), *here = in.row(y), *below = in.row(y + 1), *g = gradient.row(y);
        for (int64_t x = 0; x < width; x += LANES) {
            Vector v = load(g + x);
            UNROLL for (int k = 0; k < 3; k++) {
                sums[k] += v * load(above + x + k - 1);
                sums[3 + k] += v * load(here + x + k - 1);
                sums[6 + k] += v * load(below + x + k - 1);
            }
            sums[9] += v;
        }
    }
    UNROLL for (int k = 0; k < 9; k++) kernel_gradient[k] += total(sums[k]);
    return total(sums[9]);
}

// A matrix by its strides, so that its transpose is the same memory.
struct Matrix {
    const float* data;
    int64_t row_stride, column_stride;
};

template <int ROWS, int VECTORS>
inline __attribute__((always_inline)) void multiply_tile(
    const Matrix& m, int64_t first_row, int64_t inner, const float* const* in, int64_t p, const float* bias,
    float slope, float* const* out, int64_t offset, int64_t count
) {
    Vector sums[ROWS][VECTORS];
    UNROLL for (int i = 0; i < ROWS; i++) {
        UNROLL for (int j = 0; j < VECTORS; j++) sums[i][j] = broadcast(bias ? bias[first_row + i] : 0.0f);
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
    float* const* out, int64_t offset, int64_t count
) {
    for (int64_t row = 0, groups = (rows + TILE_ROWS - 1) / TILE_ROWS; groups > 0; groups--) {
        const int64_t size = (rows - row + groups - 1) / groups;  // about equal, as a small group wastes its loads
        switch (size) {
#define CASE(n) \
    case n: multiply_tile<n, VECTORS>(m, row, inner, in, p, bias, slope, out, offset, count); break
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

// out[row][offset + p] = LeakyReLU(bias[row] + sum over k of m[row][k] * in[k][p]) for p < count.
void multiply(
    const Matrix& m, int64_t rows, int64_t inner, const float* const* in, const float* bias, float slope,
    float* const* out, int64_t offset, int64_t count
) {
    int64_t p = 0;
    for (; p + TILE_VECTORS * LANES <= count; p += TILE_VECTORS * LANES)
        multiply_columns<TILE_VECTORS>(m, rows, inner, in, p, bias, slope, out, offset, count - p);
    for (; p < count; p += LANES) multiply_columns<1>(m, rows, inner, in, p, bias, slope, out, offset, count - p);
}

// The first `count` lanes, zeros in the others.
inline Vector load_some(const float* from, int64_t count) {
    if (count >= LANES) return load(from);
    Vector value = {};
    std::memcpy(&value, from, count * sizeof(float));
    return value;
}

// sums (rows x columns) += a . b over `count` pixels.
void add_dot_products(
    const float* const* a, int64_t rows, const float* const* b, int64_t columns, int64_t count, float* sums
) {
    for (int64_t column = 0; column < columns; column += DOT_COLUMNS)
        for (int64_t row = 0; row < rows; row += DOT_ROWS) {
            const float *left[DOT_ROWS], *right[DOT_COLUMNS];
            UNROLL for (int i = 0; i < DOT_ROWS; i++) left[i] = a[std::min(row + i, rows - 1)];
            UNROLL for (int j = 0; j < DOT_COLUMNS; j++) right[j] = b[std::min(column + j, columns - 1)];
            Vector s[DOT_ROWS][DOT_COLUMNS] = {};
            const auto add = [&](int64_t p, auto read) __attribute__((always_inline)) {
                Vector v[DOT_COLUMNS];
                UNROLL for (int j = 0; j < DOT_COLUMNS; j++) {
                    v[j] = read(right[j] + p);
                    IN_REGISTER(v[j]);
                }
                UNROLL for (int i = 0; i < DOT_ROWS; i++) {
                    const Vector u = read(left[i] + p);
                    UNROLL for (int j = 0; j < DOT_COLUMNS; j++) s[i][j] += u * v[j];
                }
            };
            int64_t p = 0;
            for (; p + LANES <= count; p += LANES) add(p, load);
            if (p < count) add(p, [&](const float* from) { return load_some(from, count - p); });
            UNROLL for (int i = 0; i < DOT_ROWS; i++) {
                UNROLL for (int j = 0; j < DOT_COLUMNS; j++)
                    if (row + i < rows && column + j < columns)
                        sums[(row + i) * columns + column + j] += total(s[i][j]);
            }
        }
}

}  // namespace

extern "C" {

// One conv of a chain. Its first `kept` output channels leave the chain, the rest feed the next stage.
struct Stage {
    int64_t in_channels, out_channels, kept;
    const float *depthwise_weight, *depthwise_bias;  // null: a plain conv
    const float *weight, *bias;                      // of the pointwise conv, or of the plain one: 3x3
    float slope;                                     // of the LeakyReLU after it; 1: none
    float* rest;                                     // (images, out_channels - kept, height, width)

    bool separable() const { return depthwise_weight; }
    int64_t rest_channels() const { return out_channels - kept; }
    int64_t depthwise_parameters() const { return separable() ? in_channels * (9 + 1) : 0; }
    int64_t inner() const { return separable() ? in_channels : 9 * in_channels; }
    int64_t parameters() const { return depthwise_parameters() + out_channels * (inner() + 1); }
};

struct Shape {
    int64_t images, height, width;
    int64_t pixels() const { return height * width; }
};
}

namespace {

// Rows of a band such that its buffers of so many channels stay in the cache; bands of about the same height.
int64_t band_rows(const Shape& shape, int64_t channels, int64_t least_bands) {
    int64_t fitting = std::max<int64_t>(1, BAND_FLOATS / (channels * shape.width));
    int64_t bands = std::max((shape.height + fitting - 1) / fitting, std::min(least_bands, shape.height));
    return (shape.height + bands - 1) / bands;
}

// Depthwise maps of rows [first, last) into (in_channels, stride).
void depthwise_band(
    const Stage& stage, const float* x, const Shape& shape, int64_t first, int64_t last, float* maps, int64_t stride
) {
    Plane plane{scratch.plane.zeros(Plane::floats_for(last - first, shape.width)), Plane::stride_for(shape.width)};
    for (int64_t c = 0; c < stage.in_channels; c++) {
        plane.fill(x + c * shape.pixels(), shape.height, shape.width, first, last);
        convolve_plane(
            plane, stage.depthwise_weight + 9 * c, stage.depthwise_bias[c], maps + c * stride, last - first, shape.width
        );
    }
}

// Where an image's outputs go, or come from: a pointer to each channel.
template <typename Float>
std::vector<Float*> output_channels(const Stage& stage, Float* kept, Float* rest, const Shape& shape) {
    std::vector<Float*> channels(stage.out_channels);
    for (int64_t o = 0; o < stage.out_channels; o++)
        channels[o] = o < stage.kept ? kept + o * shape.pixels() : rest + (o - stage.kept) * shape.pixels();
    return channels;
}

std::vector<const float*> rows_of(const float* data, int64_t rows, int64_t stride) {
    std::vector<const float*> pointers(rows);
    for (int64_t i = 0; i < rows; i++) pointers[i] = data + i * stride;
    return pointers;
}

void separable_band(
    const Stage& stage, const float* x, float* const* out, const Shape& shape, int64_t first, int64_t last
) {
    int64_t count = (last - first) * shape.width, stride = round_up(count, LANES * TILE_VECTORS) + LANES;
    float* maps = scratch.depthwise.floats(stage.in_channels * stride + LANES);
    depthwise_band(stage, x, shape, first, last, maps, stride);
    multiply(
        {stage.weight, stage.in_channels, 1}, stage.out_channels, stage.in_channels,
        rows_of(maps, stage.in_channels, stride).data(), stage.bias, stage.slope, out, first * shape.width, count
    );
}

// Channels of a band of rows in a border of zeros. A row's right border is the left one of the next, so that the whole
// band is one run of pixels in which a neighbour is always equally far away.
struct Bordered {
    float* data;
    int64_t rows, row_stride, channel_stride;  // rows without the border

    Bordered(Buffer& buffer, int64_t channels, int64_t rows, int64_t width) : rows(rows), row_stride(width + 1) {
        channel_stride = 1 + (rows + 2) * row_stride + LANES;
        data = buffer.zeros(channels * channel_stride);
    }
    int64_t pixels() const { return rows * row_stride; }  // with the border between them
    float* row(int64_t c, int64_t y) { return data + c * channel_stride + (y + 1) * row_stride + 1; }

    // The run of pixels as seen by each tap of a 3x3 kernel, for every channel.
    std::vector<const float*> taps(int64_t channels) const {
        std::vector<const float*> pointers;
        for (int64_t c = 0; c < channels; c++)
            for (int64_t k = 0; k < 9; k++)
                pointers.push_back(data + c * channel_stride + k / 3 * row_stride + k % 3);
        return pointers;
    }
};

// Rows [first - 1, last + 1) of x.
Bordered bordered_band(const float* x, int64_t channels, const Shape& shape, int64_t first, int64_t last) {
    Bordered band(scratch.bordered, channels, last - first, shape.width);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t y = std::max<int64_t>(first - 1, 0); y < std::min(last + 1, shape.height); y++)
            copy(band.row(c, y - first), x + c * shape.pixels() + y * shape.width, shape.width);
    return band;
}

// `multiply` on the taps of a band, its rows then written to `out` without the border.
void multiply_taps(
    const Bordered& band, const float* weight, int64_t rows, int64_t in_channels, const float* bias, float slope,
    float* const* out, const Shape& shape, int64_t first
) {
    const int64_t stride = round_up(band.pixels(), LANES);
    float* product = scratch.product.floats(rows * stride);
    std::vector<float*> to(rows);
    for (int64_t o = 0; o < rows; o++) to[o] = product + o * stride;
    multiply(
        {weight, 9 * in_channels, 1}, rows, 9 * in_channels, band.taps(in_channels).data(), bias, slope, to.data(), 0,
        band.pixels()
    );
    for (int64_t o = 0; o < rows; o++)
        for (int64_t y = 0; y < band.rows; y++)
            copy(out[o] + (first + y) * shape.width, to[o] + y * band.row_stride, shape.width);
}

void plain_band(
    const Stage& stage, const float* x, float* const* out, const Shape& shape, int64_t first, int64_t last
) {
    const Bordered band = bordered_band(x, stage.in_channels, shape, first, last);
    multiply_taps(
        band, stage.weight, stage.out_channels, stage.in_channels, stage.bias, stage.slope, out, shape, first
    );
}

// out = gradient * (value > 0 ? 1 : slope); returns its sum.
float through_activation(const float* gradient, const float* value, float slope, float* out, int64_t count) {
    Vector sums = {};
    int64_t p = 0;
    for (; p + LANES <= count; p += LANES) {
        Vector g = load(gradient + p);
        g = load(value + p) > 0 ? g : g * slope;
        store(out + p, g);
        sums += g;
    }
    float sum = total(sums);
    for (; p < count; p++) {
        out[p] = value[p] > 0 ? gradient[p] : gradient[p] * slope;
        sum += out[p];
    }
    return sum;
}

// What the backward of a stage reads and writes, of one image: pointers to each output channel's values and gradient,
// and where the gradients go. Those of parameters are added to.
struct Backward {
    const float* x;
    std::vector<const float*> values, gradients;
    float *x_gradient, *weight, *bias, *depthwise_weight, *depthwise_bias;
};

void backward_separable(const Stage& stage, const Backward& io, const Shape& shape) {
    const int64_t in = stage.in_channels, out = stage.out_channels, pixels = shape.pixels();

    // through the activation and the pointwise conv, a band at a time
    float* depthwise_gradient = scratch.depthwise_gradient.floats(in * pixels);
    std::vector<float*> into(in);
    for (int64_t c = 0; c < in; c++) into[c] = depthwise_gradient + c * pixels;
    const int64_t step = band_rows(shape, in + out, 1);
    for (int64_t first = 0; first < shape.height; first += step) {
        const int64_t last = std::min(shape.height, first + step), count = (last - first) * shape.width;
        const int64_t stride = round_up(count, LANES) + LANES, start = first * shape.width;
        float* maps = scratch.depthwise.floats(in * stride + LANES);
        depthwise_band(stage, io.x, shape, first, last, maps, stride);
        float* g = scratch.gradient.floats(out * stride);
        for (int64_t o = 0; o < out; o++)
            io.bias[o] += through_activation(
                io.gradients[o] + start, io.values[o] + start, stage.slope, g + o * stride, count
            );
        const std::vector<const float*> gradients = rows_of(g, out, stride);
        add_dot_products(gradients.data(), out, rows_of(maps, in, stride).data(), in, count, io.weight);
        multiply({stage.weight, 1, in}, in, out, gradients.data(), nullptr, 1.0f, into.data(), start, count);
    }

    // through the depthwise conv
    const int64_t plane_floats = Plane::floats_for(shape.height, shape.width);
    Plane plane{scratch.plane.zeros(plane_floats), Plane::stride_for(shape.width)};
    Plane gradient_plane{scratch.gradient_plane.zeros(plane_floats), Plane::stride_for(shape.width)};
    for (int64_t c = 0; c < in; c++) {
        plane.fill(io.x + c * pixels, shape.height, shape.width, 0, shape.height);
        gradient_plane.fill(depthwise_gradient + c * pixels, shape.height, shape.width, 0, shape.height);
        io.depthwise_bias[c] +=
            correlate_planes(plane, gradient_plane, io.depthwise_weight + 9 * c, shape.height, shape.width);
        float flipped[9];
        std::reverse_copy(stage.depthwise_weight + 9 * c, stage.depthwise_weight + 9 * c + 9, flipped);
        if (io.x_gradient)
            convolve_plane(gradient_plane, flipped, 0.0f, io.x_gradient + c * pixels, shape.height, shape.width);
    }
}

void backward_plain(const Stage& stage, const Backward& io, const Shape& shape) {
    const int64_t in = stage.in_channels, out = stage.out_channels, pixels = shape.pixels(), width = shape.width;
    float* flipped = scratch.flipped.floats(in * out * 9);  // (in, out, 3, 3)
    for (int64_t o = 0; o < out; o++)
        for (int64_t c = 0; c < in; c++) {
            const float* kernel = stage.weight + (o * in + c) * 9;
            std::reverse_copy(kernel, kernel + 9, flipped + (c * out + o) * 9);
        }
    std::vector<float*> into(in);
    for (int64_t c = 0; io.x_gradient && c < in; c++) into[c] = io.x_gradient + c * pixels;

    const int64_t step = band_rows(shape, in + out, 1);
    for (int64_t first = 0; first < shape.height; first += step) {
        const int64_t last = std::min(shape.height, first + step);
        Bordered g(scratch.bordered_gradient, out, last - first, width);
        std::vector<const float*> gradients(out);
        for (int64_t o = 0; o < out; o++) {
            gradients[o] = g.row(o, 0);
            for (int64_t y = std::max<int64_t>(first - 1, 0); y < std::min(last + 1, shape.height); y++) {
                const float sum = through_activation(
                    io.gradients[o] + y * width, io.values[o] + y * width, stage.slope, g.row(o, y - first), width
                );
                if (y >= first && y < last) io.bias[o] += sum;
            }
        }
        const Bordered band = bordered_band(io.x, in, shape, first, last);
        add_dot_products(gradients.data(), out, band.taps(in).data(), 9 * in, band.pixels(), io.weight);
        if (io.x_gradient) multiply_taps(g, flipped, in, out, nullptr, 1.0f, into.data(), shape, first);
    }
}

int64_t kept_channels(const Stage* stages, int64_t count) {
    int64_t sum = 0;
    for (int64_t s = 0; s < count; s++) sum += stages[s].kept;
    return sum;
}

// All stages for image n; its bands are shared out to the threads.
void forward_image(
    const Stage* stages, int64_t count, const Shape& shape, int64_t n, const float* x, float* kept, int threads
) {
    const float* in = x + n * stages[0].in_channels * shape.pixels();
    float* out = kept + n * kept_channels(stages, count) * shape.pixels();
    for (int64_t s = 0; s < count; s++) {
        const Stage& stage = stages[s];
        float* rest = stage.rest + n * stage.rest_channels() * shape.pixels();
        const std::vector<float*> channels = output_channels(stage, out, rest, shape);
        const int64_t buffered = stage.in_channels + (stage.separable() ? 0 : stage.out_channels);
        const int64_t step = band_rows(shape, buffered, threads);
        const int64_t bands = (shape.height + step - 1) / step;
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t band = 0; band < bands; band++) {
            const int64_t first = band * step, last = std::min(shape.height, first + step);
            if (stage.separable()) separable_band(stage, in, channels.data(), shape, first, last);
            else plain_band(stage, in, channels.data(), shape, first, last);
        }
        in = rest;
        out += stage.kept * shape.pixels();
    }
}

}  // namespace

extern "C" {

// x (images, in_channels, height, width) -> kept (images, all kept channels, height, width) and every stage's rest.
void chain_forward(const Stage* stages, int64_t count, Shape shape, const float* x, float* kept, int threads) {
    if (shape.images < threads) {
        for (int64_t n = 0; n < shape.images; n++) forward_image(stages, count, shape, n, x, kept, threads);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < shape.images; n++) forward_image(stages, count, shape, n, x, kept, 1);
}

// x_gradient as x, or null where none is wanted; parameter_gradients (images, parameters of all stages), zero before,
// one row for each image so that their sum does not depend on the number of threads.
void chain_backward(
    const Stage* stages, int64_t count, Shape shape, const float* x, const float* kept, const float* kept_gradient,
    float* x_gradient, float* parameter_gradients, int threads
) {
    const int64_t pixels = shape.pixels(), kept_total = kept_channels(stages, count);
    int64_t parameters = 0, widest = 0;
    for (int64_t s = 0; s < count; s++) {
        parameters += stages[s].parameters();
        widest = std::max(widest, stages[s].rest_channels());
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < shape.images; n++) {
        float* gradients = parameter_gradients + (n + 1) * parameters;
        int64_t kept_start = n * kept_total + kept_total;
        const float* rest_gradient = nullptr;
        for (int64_t s = count - 1; s >= 0; s--) {
            const Stage& stage = stages[s];
            gradients -= stage.parameters();
            kept_start -= stage.kept;
            const float* in =
                s ? stages[s - 1].rest + n * stage.in_channels * pixels : x + n * stage.in_channels * pixels;
            float* into = nullptr;
            if (s) into = scratch.rest_gradient[s % 2].floats(widest * pixels);
            else if (x_gradient) into = x_gradient + n * stage.in_channels * pixels;
            const float* rest = stage.rest + n * stage.rest_channels() * pixels;
            float *weight = gradients + stage.depthwise_parameters(), *bias = weight + stage.out_channels * stage.inner();
            const Backward io{
                in, output_channels(stage, kept + kept_start * pixels, rest, shape),
                output_channels(stage, kept_gradient + kept_start * pixels, rest_gradient, shape), into, weight, bias,
                gradients, gradients + 9 * stage.in_channels,
            };
            if (stage.separable()) backward_separable(stage, io, shape);
            else backward_plain(stage, io, shape);
            rest_gradient = into;
        }
    }
}
}
