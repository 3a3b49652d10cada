// Convs in a row, separable (depthwise 3x3, pointwise 1x1) or plain 3x3, with the LeakyReLU and the split after each.
//
// A layer at a time, each of these writes a feature map to memory and reads it back. Here a band of rows of one image
// goes through buffers that stay in the cache.
// - separable: depthwise maps are multiplied from a buffer. Backward computes them again.
// - plain: six products for every four rows, on sums of rows (Winograd's minimal filtering down the columns), take half
//   of the multiplications. Their error is about 1e-6 of the largest of those rows; what is not finite spreads over them.
// Forward shares out images, or the bands of a few; backward images alone, and holds one stage's gradient.
//
// Built by native.py, called by chain.py.

#include "vectors.h"

// Winograd's F(4, 3) makes four outputs of three taps by six products. Source: Lavin and Gray, arXiv 1509.09308.
constexpr int OUTPUTS = 4, PRODUCTS = 6;

// One conv of a chain. Its first `kept` output channels leave the chain, the rest feed the next stage.
struct Stage {
    int64_t in_channels, out_channels, kept;
    const float *depthwise_weight, *depthwise_bias;  // null: a plain conv
    const float *weight, *bias;                      // of the pointwise conv, or of the plain one: 3x3
    float slope;                                     // of the LeakyReLU after it; 1: none
    float* rest;                                     // (images, out_channels - kept, height, width)

    bool separable() const { return depthwise_weight; }
    int64_t kernels() const { return out_channels * in_channels; }
    int64_t rest_channels() const { return out_channels - kept; }
    int64_t depthwise_parameters() const { return separable() ? in_channels * (9 + 1) : 0; }
    int64_t weights() const { return kernels() * (separable() ? 1 : 9); }
    int64_t parameters() const { return depthwise_parameters() + weights() + out_channels; }
    // of one image's gradient; a plain conv's is that of its SummedKernels
    int64_t summed_weights() const { return kernels() * (separable() ? 1 : PRODUCTS * 3); }
    int64_t summed_parameters() const { return depthwise_parameters() + summed_weights() + out_channels; }
};

struct Shape {
    int64_t images, height, width;
    int64_t pixels() const { return height * width; }
};

namespace {

struct Scratch {
    Buffer plane, gradient_plane, depthwise, gradient, depthwise_gradient, rest_gradient[2];
    Buffer sums, gradient_sums, product, image_gradients;
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

// Rows of a band, a multiple of `multiple`, such that about so many channels stay in the cache; bands of about the same
// height.
int64_t band_rows(const Shape& shape, int64_t channels, int64_t multiple, int64_t least_bands) {
    int64_t fitting = std::max<int64_t>(1, BAND_FLOATS / (channels * shape.width));
    int64_t bands = std::max((shape.height + fitting - 1) / fitting, std::min(least_bands, shape.height));
    return round_up((shape.height + bands - 1) / bands, multiple);
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

// Four outputs y of three taps w on six inputs d are y = OUT ((TAPS w) * (IN d)).
constexpr float TAPS[PRODUCTS][3] = {
    {1 / 4.0f, 0, 0},
    {-1 / 6.0f, -1 / 6.0f, -1 / 6.0f},
    {-1 / 6.0f, 1 / 6.0f, -1 / 6.0f},
    {1 / 24.0f, 1 / 12.0f, 1 / 6.0f},
    {1 / 24.0f, -1 / 12.0f, 1 / 6.0f},
    {0, 0, 1},
};

struct SumIn {  // IN: from row -1 to row 4
    static constexpr int ROWS = PRODUCTS, FIRST = -1;
    static void sum(const Vector* d, Vector* t) {
        const Vector a = d[4] - 4 * d[2], b = d[3] - 4 * d[1], c = d[4] - d[2], e = 2 * (d[3] - d[1]);
        t[0] = 4 * d[0] - 5 * d[2] + d[4];
        t[1] = a + b;
        t[2] = a - b;
        t[3] = c + e;
        t[4] = c - e;
        t[5] = 4 * d[1] - 5 * d[3] + d[5];
    }
};

struct SumGradient {  // OUT transposed: from row 0 to row 3
    static constexpr int ROWS = OUTPUTS, FIRST = 0;
    static void sum(const Vector* g, Vector* t) {
        const Vector a = g[0] + g[2], b = g[1] + g[3], c = g[0] + 4 * g[2], e = 2 * g[1] + 8 * g[3];
        t[0] = g[0];
        t[1] = a + b;
        t[2] = a - b;
        t[3] = c + e;
        t[4] = c - e;
        t[5] = g[3];
    }
};

inline void sum_out(const Vector* m, Vector* y) {
    const Vector a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], e = m[3] - m[4];
    y[0] = m[0] + a + c;
    y[1] = b + 2 * e;
    y[2] = a + 4 * c;
    y[3] = b + 8 * e + m[5];
}

// Rows [first, last) of an image in groups of OUTPUTS.
struct Band {
    int64_t first, last, width;

    int64_t groups() const { return (last - first + OUTPUTS - 1) / OUTPUTS; }
    int64_t stride() const { return width + 1; }  // a zero between rows is the border of both
    int64_t pixels() const { return round_up(groups() * stride(), LANES); }
    int64_t channel_stride() const { return LANES + pixels() + LANES; }
};

// What SUM makes of each group of rows of each channel: PRODUCTS x channels runs of pixels, with zeros around.
struct Sums {
    float* data;
    int64_t channels, channel_stride;

    template <typename Sum>
    static Sums of(Buffer& buffer, const float* maps, int64_t channels, const Shape& shape, const Band& band) {
        const int64_t stride = band.channel_stride(), width = shape.width;
        Sums sums{buffer.zeros(PRODUCTS * channels * stride), channels, stride};
        for (int64_t c = 0; c < channels; c++)
            for (int64_t group = 0; group < band.groups(); group++) {
                const int64_t y = band.first + group * OUTPUTS + Sum::FIRST;
                const float* row = maps + (c * shape.height + y) * width;
                float* to = sums.data + c * stride + LANES + group * band.stride();
                for (int64_t x = 0; x < width; x += LANES) {
                    Vector in[Sum::ROWS], out[PRODUCTS];
                    UNROLL for (int i = 0; i < Sum::ROWS; i++) {
                        const bool inside = y + i >= 0 && y + i < shape.height;
                        in[i] = inside ? load_some(row + i * width + x, width - x) : Vector{};
                    }
                    Sum::sum(in, out);
                    UNROLL for (int k = 0; k < PRODUCTS; k++)
                        store_some(to + k * channels * stride + x, out[k], width - x);
                }
            }
        return sums;
    }

    // The runs of one product, or each as seen by the three taps of a row.
    std::vector<const float*> runs(int64_t k) const {
        return rows_of(data + k * channels * channel_stride + LANES, channels, channel_stride);
    }
    std::vector<const float*> shifted(int64_t k) const {
        std::vector<const float*> pointers;
        for (const float* run : runs(k))
            for (int64_t x = -1; x <= 1; x++) pointers.push_back(run + x);
        return pointers;
    }
};

// TAPS down the columns of the plain stages' kernels: (PRODUCTS, out, in, 3) of each stage, or flipped, with in and out
// exchanged, as x's gradient takes them.
class SummedKernels {
public:
    SummedKernels(const Stage* stages, int64_t count, bool flipped) : starts(count) {
        for (int64_t s = 0; s < count; s++) {
            starts[s] = data.size();
            if (!stages[s].separable()) append(stages[s], flipped);
        }
    }
    const float* of(int64_t stage) const { return data.data() + starts[stage]; }

private:
    std::vector<float> data;
    std::vector<size_t> starts;

    void append(const Stage& stage, bool flipped) {
        const int64_t rows = flipped ? stage.in_channels : stage.out_channels, columns = stage.kernels() / rows;
        for (int k = 0; k < PRODUCTS; k++)
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = 0; j < columns; j++) {
                    const float* kernel = stage.weight + 9 * (flipped ? j * rows + i : i * columns + j);
                    for (int x = 0; x < 3; x++) {
                        float sum = 0;
                        for (int y = 0; y < 3; y++) sum += TAPS[k][y] * kernel[flipped ? 8 - 3 * y - x : 3 * y + x];
                        data.push_back(sum);
                    }
                }
    }
};

// Rows of a band of each output channel: LeakyReLU(bias + conv). `weight` is a stage's SummedKernels.
void convolve_band(
    const float* maps, int64_t in_channels, const float* weight, int64_t out_channels, const float* bias, float slope,
    float* const* out, const Shape& shape, const Band& band
) {
    const int64_t pixels = band.pixels(), width = shape.width;
    const Sums sums = Sums::of<SumIn>(scratch.sums, maps, in_channels, shape, band);
    float* product = scratch.product.floats(PRODUCTS * out_channels * pixels);
    std::vector<float*> to(out_channels);
    for (int64_t k = 0; k < PRODUCTS; k++) {
        for (int64_t o = 0; o < out_channels; o++) to[o] = product + (k * out_channels + o) * pixels;
        const Matrix matrix{weight + k * out_channels * in_channels * 3, in_channels * 3, 1};
        multiply(
            matrix, out_channels, in_channels * 3, sums.shifted(k).data(), nullptr, 1.0f, to.data(), 0, pixels
        );
    }
    for (int64_t o = 0; o < out_channels; o++) {
        const Vector start = broadcast(bias ? bias[o] : 0.0f);
        for (int64_t group = 0; group < band.groups(); group++) {
            const int64_t y = band.first + group * OUTPUTS, rows = std::min<int64_t>(OUTPUTS, band.last - y);
            for (int64_t x = 0; x < width; x += LANES) {
                Vector m[PRODUCTS], result[OUTPUTS];
                const float* from = product + o * pixels + group * band.stride() + x;
                UNROLL for (int k = 0; k < PRODUCTS; k++)
                    m[k] = load_some(from + k * out_channels * pixels, width - x);
                sum_out(m, result);
                UNROLL for (int i = 0; i < OUTPUTS; i++) {
                    const Vector value = result[i] + start;
                    if (i < rows)
                        store_some(out[o] + (y + i) * width + x, value > 0 ? value : value * slope, width - x);
                }
            }
        }
    }
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
// and where the gradients go. Those of parameters are added to; a plain conv's weight's is that of its SummedKernels.
struct Backward {
    const float* x;
    std::vector<const float*> values, gradients;
    float *x_gradient, *weight_gradient, *bias_gradient, *depthwise_weight_gradient, *depthwise_bias_gradient;
};

void backward_separable(const Stage& stage, const Backward& io, const Shape& shape) {
    const int64_t in = stage.in_channels, out = stage.out_channels, pixels = shape.pixels();

    // through the activation and the pointwise conv, a band at a time
    float* depthwise_gradient = scratch.depthwise_gradient.floats(in * pixels);
    std::vector<float*> into(in);
    for (int64_t c = 0; c < in; c++) into[c] = depthwise_gradient + c * pixels;
    const int64_t step = band_rows(shape, in + out, 1, 1);
    for (int64_t first = 0; first < shape.height; first += step) {
        const int64_t last = std::min(shape.height, first + step), count = (last - first) * shape.width;
        const int64_t whole = round_up(count, LANES), stride = whole + LANES, start = first * shape.width;
        float* maps = scratch.depthwise.zeros(in * stride + LANES);
        depthwise_band(stage, io.x, shape, first, last, maps, stride);
        float* g = scratch.gradient.zeros(out * stride);
        for (int64_t o = 0; o < out; o++)
            io.bias_gradient[o] += through_activation(
                io.gradients[o] + start, io.values[o] + start, stage.slope, g + o * stride, count
            );
        const std::vector<const float*> gradients = rows_of(g, out, stride);
        add_dot_products(gradients.data(), out, rows_of(maps, in, stride).data(), in, whole, io.weight_gradient);
        multiply({stage.weight, 1, in}, in, out, gradients.data(), nullptr, 1.0f, into.data(), start, count);
    }

    // through the depthwise conv
    const int64_t plane_floats = Plane::floats_for(shape.height, shape.width);
    Plane plane{scratch.plane.zeros(plane_floats), Plane::stride_for(shape.width)};
    Plane gradient_plane{scratch.gradient_plane.zeros(plane_floats), Plane::stride_for(shape.width)};
    for (int64_t c = 0; c < in; c++) {
        plane.fill(io.x + c * pixels, shape.height, shape.width, 0, shape.height);
        gradient_plane.fill(depthwise_gradient + c * pixels, shape.height, shape.width, 0, shape.height);
        io.depthwise_bias_gradient[c] +=
            correlate_planes(plane, gradient_plane, io.depthwise_weight_gradient + 9 * c, shape.height, shape.width);
        float flipped[9];
        std::reverse_copy(stage.depthwise_weight + 9 * c, stage.depthwise_weight + 9 * c + 9, flipped);
        if (io.x_gradient)
            convolve_plane(gradient_plane, flipped, 0.0f, io.x_gradient + c * pixels, shape.height, shape.width);
    }
}

void backward_plain(const Stage& stage, const Backward& io, const float* flipped, const Shape& shape) {
    const int64_t in = stage.in_channels, out = stage.out_channels, pixels = shape.pixels();
    float* g = scratch.gradient.floats(out * pixels);
    for (int64_t o = 0; o < out; o++)
        io.bias_gradient[o] += through_activation(io.gradients[o], io.values[o], stage.slope, g + o * pixels, pixels);
    std::vector<float*> into(in);
    for (int64_t c = 0; io.x_gradient && c < in; c++) into[c] = io.x_gradient + c * pixels;
    const int64_t step = band_rows(shape, in + out, OUTPUTS, 1);
    for (int64_t first = 0; first < shape.height; first += step) {
        const Band band{first, std::min(shape.height, first + step), shape.width};
        const Sums sums = Sums::of<SumIn>(scratch.sums, io.x, in, shape, band);
        const Sums gradient_sums = Sums::of<SumGradient>(scratch.gradient_sums, g, out, shape, band);
        for (int64_t k = 0; k < PRODUCTS; k++)
            add_dot_products(
                gradient_sums.runs(k).data(), out, sums.shifted(k).data(), in * 3, band.pixels(),
                io.weight_gradient + k * stage.kernels() * 3
            );
        if (io.x_gradient) convolve_band(g, out, flipped, in, nullptr, 1.0f, into.data(), shape, band);
    }
}

// From one image's layout of gradients to that of the parameters.
void parameter_layout(const Stage& stage, const float* summed, float* out) {
    copy(out, summed, stage.depthwise_parameters());
    summed += stage.depthwise_parameters();
    out += stage.depthwise_parameters();
    if (stage.separable()) copy(out, summed, stage.weights());
    else
        for (int64_t i = 0; i < stage.kernels(); i++)
            for (int y = 0; y < 3; y++)
                for (int x = 0; x < 3; x++) {
                    float sum = 0;
                    for (int k = 0; k < PRODUCTS; k++) sum += TAPS[k][y] * summed[(k * stage.kernels() + i) * 3 + x];
                    out[9 * i + 3 * y + x] = sum;
                }
    copy(out + stage.weights(), summed + stage.summed_weights(), stage.out_channels);
}

int64_t kept_channels(const Stage* stages, int64_t count) {
    int64_t sum = 0;
    for (int64_t s = 0; s < count; s++) sum += stages[s].kept;
    return sum;
}

// All stages for image n; its bands are shared out to the threads.
void forward_image(
    const Stage* stages, int64_t count, const SummedKernels& kernels, const Shape& shape, int64_t n, const float* x,
    float* kept, int threads
) {
    const float* in = x + n * stages[0].in_channels * shape.pixels();
    float* out = kept + n * kept_channels(stages, count) * shape.pixels();
    for (int64_t s = 0; s < count; s++) {
        const Stage& stage = stages[s];
        float* rest = stage.rest + n * stage.rest_channels() * shape.pixels();
        const std::vector<float*> channels = output_channels(stage, out, rest, shape);
        const int64_t step = stage.separable()
            ? band_rows(shape, stage.in_channels, 1, threads)
            : band_rows(shape, stage.in_channels + stage.out_channels, OUTPUTS, threads);
        const int64_t bands = (shape.height + step - 1) / step;
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t band = 0; band < bands; band++) {
            const int64_t first = band * step, last = std::min(shape.height, first + step);
            if (stage.separable()) separable_band(stage, in, channels.data(), shape, first, last);
            else
                convolve_band(
                    in, stage.in_channels, kernels.of(s), stage.out_channels, stage.bias, stage.slope, channels.data(),
                    shape, {first, last, shape.width}
                );
        }
        in = rest;
        out += stage.kept * shape.pixels();
    }
}

}  // namespace

extern "C" {

// x (images, in_channels, height, width) -> kept (images, all kept channels, height, width) and every stage's rest.
void chain_forward(const Stage* stages, int64_t count, Shape shape, const float* x, float* kept, int threads) {
    const SummedKernels kernels(stages, count, false);
    if (shape.images < threads) {
        for (int64_t n = 0; n < shape.images; n++) forward_image(stages, count, kernels, shape, n, x, kept, threads);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < shape.images; n++) forward_image(stages, count, kernels, shape, n, x, kept, 1);
}

// x_gradient as x, or null where none is wanted; parameter_gradients as the parameters of all stages. Images are summed
// in their order, so that the result does not depend on the number of threads.
void chain_backward(
    const Stage* stages, int64_t count, Shape shape, const float* x, const float* kept, const float* kept_gradient,
    float* x_gradient, float* parameter_gradients, int threads
) {
    const int64_t pixels = shape.pixels(), kept_total = kept_channels(stages, count);
    int64_t summed = 0, widest = 0;
    for (int64_t s = 0; s < count; s++) {
        summed += stages[s].summed_parameters();
        widest = std::max(widest, stages[s].rest_channels());
    }
    const SummedKernels flipped(stages, count, true);
    float* const image_gradients = scratch.image_gradients.zeros(shape.images * summed);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < shape.images; n++) {
        float* gradients = image_gradients + (n + 1) * summed;
        int64_t kept_start = n * kept_total + kept_total;
        const float* rest_gradient = nullptr;
        for (int64_t s = count - 1; s >= 0; s--) {
            const Stage& stage = stages[s];
            gradients -= stage.summed_parameters();
            kept_start -= stage.kept;
            const float* in =
                s ? stages[s - 1].rest + n * stage.in_channels * pixels : x + n * stage.in_channels * pixels;
            float* into = nullptr;
            if (s) into = scratch.rest_gradient[s % 2].floats(widest * pixels);
            else if (x_gradient) into = x_gradient + n * stage.in_channels * pixels;
            const float* rest = stage.rest + n * stage.rest_channels() * pixels;
            float *weight = gradients + stage.depthwise_parameters(), *bias = weight + stage.summed_weights();
            const Backward io{
                in, output_channels(stage, kept + kept_start * pixels, rest, shape),
                output_channels(stage, kept_gradient + kept_start * pixels, rest_gradient, shape), into, weight, bias,
                gradients, gradients + 9 * stage.in_channels,
            };
            if (stage.separable()) backward_separable(stage, io, shape);
            else backward_plain(stage, io, flipped.of(s), shape);
            rest_gradient = into;
        }
    }
    for (int64_t n = 1; n < shape.images; n++)
        for (int64_t i = 0; i < summed; i++) image_gradients[i] += image_gradients[n * summed + i];
    const float* from = image_gradients;
    for (int64_t s = 0; s < count; s++) {
        parameter_layout(stages[s], from, parameter_gradients);
        from += stages[s].summed_parameters();
        parameter_gradients += stages[s].parameters();
    }
}
}
