// What ends a distillation block: x + M d + b for each image, its M and b made by gates from the mean and covariance of
// d, (channels, pixels). Bands of pixels stay in the cache from one use to the next.
//
// With no gate M and b are the 1x1 conv's. One gate is of d: M = matrix diag(gate). A second one, by the same weights, is
// of what that made: M and b are its multiples too. A map's gate needs its channels' means and deviations only, and those
// of a map mixed by M follow from d's.
// Forward shares out images, or the bands of few; backward images alone.
//
// Built by native.py, called by tail.py.

#include <cmath>

#include "vectors.h"

struct Tail {
    int64_t channels, hidden, gates;
    const float *matrix, *bias;                                // (channels, channels), (channels)
    const float *reduce, *reduce_bias, *expand, *expand_bias;  // of the gates: (hidden, channels), (channels, hidden)

    int64_t moments() const { return gates ? channels * (1 + channels) : 0; }  // floats: mean, covariance
    int64_t mixing() const { return channels * (channels + 1); }
    int64_t parameters() const { return mixing() + (gates ? hidden * (2 * channels + 1) + channels : 0); }
};

struct Maps {
    int64_t images, pixels;
};

namespace {

constexpr float LEAST_VARIANCE = 1e-12f;  // below it a deviation has no gradient
typedef std::vector<float> Floats;

struct Scratch {
    Buffer centred, left, right, image_gradients;
};
thread_local Scratch scratch;

// Pixels of a band, whole vectors, such that so many channels stay in the cache.
int64_t band_pixels(const Maps& maps, int64_t channels, int64_t least_bands) {
    const int64_t fitting = std::max<int64_t>(1, BAND_FLOATS / channels);
    const int64_t bands = std::max((maps.pixels + fitting - 1) / fitting, least_bands);
    return round_up((maps.pixels + bands - 1) / bands, LANES);
}

struct Band {
    int64_t first, count;

    Band(int64_t index, int64_t step, int64_t pixels) : first(index * step), count(std::min(step, pixels - first)) {}
    int64_t whole() const { return round_up(count, LANES); }
};

// The rows of a band: themselves, or a copy with zeros up to a whole vector.
std::vector<const float*> whole_rows(
    const float* data, int64_t channels, int64_t pixels, const Band& band, Buffer& buffer
) {
    const std::vector<const float*> rows = rows_of(data + band.first, channels, pixels);
    if (band.count == band.whole()) return rows;
    float* padded = buffer.zeros(channels * band.whole());
    for (int64_t c = 0; c < channels; c++) copy(padded + c * band.whole(), rows[c], band.count);
    return rows_of(padded, channels, band.whole());
}

double sum_of(const float* values, int64_t count) {
    double sum = 0;
    constexpr int64_t STEP = 16 * LANES;  // of floats: a longer sum of equal numbers is off by 4e-6 of it
    for (int64_t first = 0; first < count; first += STEP) {
        const int64_t last = std::min(count, first + STEP);
        Vector lanes = {};
        for (int64_t p = first; p < last; p += LANES) lanes += load_some(values + p, last - p);
        sum += total(lanes);
    }
    return sum;
}

// Mean and covariance over pixels, centred before it is squared: E[x^2] - E[x]^2 loses what is small beside a mean.
void find_moments(const float* d, int64_t channels, const Maps& maps, float* moments, int threads) {
    float *mean = moments, *covariance = moments + channels;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t c = 0; c < channels; c++) mean[c] = sum_of(d + c * maps.pixels, maps.pixels) / maps.pixels;
    // the same bands for any number of threads, so that their sums are the same
    const int64_t step = band_pixels(maps, channels, 1), bands = (maps.pixels + step - 1) / step;
    Floats sums(bands * channels * channels);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t index = 0; index < bands; index++) {
        const Band band(index, step, maps.pixels);
        float* centred = scratch.centred.zeros(channels * band.whole());
        for (int64_t c = 0; c < channels; c++) {
            const float* from = d + c * maps.pixels + band.first;
            float* to = centred + c * band.whole();
            for (int64_t p = 0; p < band.count; p += LANES)
                store_some(to + p, load_some(from + p, band.count - p) - mean[c], band.count - p);
        }
        const std::vector<const float*> rows = rows_of(centred, channels, band.whole());
        add_dot_products(
            rows.data(), channels, rows.data(), channels, band.whole(), sums.data() + index * channels * channels, true
        );
    }
    for (int64_t i = 0; i < channels; i++)
        for (int64_t j = i; j < channels; j++) {
            float sum = 0;
            for (int64_t index = 0; index < bands; index++) sum += sums[(index * channels + i) * channels + j];
            covariance[i * channels + j] = covariance[j * channels + i] = sum / maps.pixels;
        }
}

// sigmoid(expand relu(reduce (mean + deviation))) of a map, and what its gradient needs.
struct Gate {
    Floats deviation, statistic, activated, values;

    Gate(const Tail& tail, const float* mean, const float* variance)
        : deviation(tail.channels), statistic(tail.channels), activated(tail.hidden), values(tail.channels) {
        for (int64_t c = 0; c < tail.channels; c++) {
            deviation[c] = std::sqrt(std::max(variance[c], LEAST_VARIANCE));
            statistic[c] = mean[c] + deviation[c];
        }
        for (int64_t h = 0; h < tail.hidden; h++) {
            float sum = tail.reduce_bias[h];
            for (int64_t c = 0; c < tail.channels; c++) sum += tail.reduce[h * tail.channels + c] * statistic[c];
            activated[h] = sum > 0 ? sum : 0 * sum;  // what is not a number stays so
        }
        for (int64_t c = 0; c < tail.channels; c++) {
            float sum = tail.expand_bias[c];
            for (int64_t h = 0; h < tail.hidden; h++) sum += tail.expand[c * tail.hidden + h] * activated[h];
            values[c] = 1 / (1 + std::exp(-sum));
        }
    }

    // From the values' gradient those of mean and variance, added to; the parameters' begin with `reduce`'s.
    void backward(
        const Tail& tail, const float* variance, const Floats& gradient, float* parameters, Floats& mean_gradient,
        Floats& variance_gradient
    ) const {
        const int64_t channels = tail.channels, hidden = tail.hidden;
        float *reduce = parameters, *reduce_bias = reduce + hidden * channels, *expand = reduce_bias + hidden;
        float* expand_bias = expand + channels * hidden;
        Floats activated_gradient(hidden);
        for (int64_t c = 0; c < channels; c++) {
            const float before = gradient[c] * values[c] * (1 - values[c]);
            expand_bias[c] += before;
            for (int64_t h = 0; h < hidden; h++) {
                expand[c * hidden + h] += before * activated[h];
                activated_gradient[h] += before * tail.expand[c * hidden + h];
            }
        }
        Floats statistic_gradient(channels);
        for (int64_t h = 0; h < hidden; h++) {
            if (!(activated[h] > 0)) continue;
            reduce_bias[h] += activated_gradient[h];
            for (int64_t c = 0; c < channels; c++) {
                reduce[h * channels + c] += activated_gradient[h] * statistic[c];
                statistic_gradient[c] += activated_gradient[h] * tail.reduce[h * channels + c];
            }
        }
        for (int64_t c = 0; c < channels; c++) {
            mean_gradient[c] += statistic_gradient[c];
            if (variance[c] >= LEAST_VARIANCE) variance_gradient[c] += statistic_gradient[c] / (2 * deviation[c]);
        }
    }
};

// An image's M and b, and how they came about.
class Mixing {
public:
    Floats matrix, bias;

    Mixing(const Tail& tail, const float* moments)
        : matrix(tail.matrix, tail.matrix + tail.channels * tail.channels),
          bias(tail.bias, tail.bias + tail.channels),
          tail(tail),
          mean(moments),
          covariance(moments + tail.channels) {
        const int64_t n = tail.channels;
        if (!tail.gates) return;
        for (int64_t c = 0; c < n; c++) variance.push_back(covariance[c * (n + 1)]);
        gates.emplace_back(tail, mean, variance.data());
        for (int64_t i = 0; i < n * n; i++) matrix[i] *= gates[0].values[i % n];
        if (tail.gates == 1) return;
        once_gated = matrix;
        mixed_covariance.resize(n * n);
        for (int64_t o = 0; o < n; o++) {
            float* row = mixed_covariance.data() + o * n;
            for (int64_t c = 0; c < n; c++)
                for (int64_t i = 0; i < n; i++) row[i] += once_gated[o * n + c] * covariance[c * n + i];
            float mixed_mean = bias[o], mixed_variance = 0;
            for (int64_t c = 0; c < n; c++) {
                mixed_mean += once_gated[o * n + c] * mean[c];
                mixed_variance += row[c] * once_gated[o * n + c];
            }
            mixed_means.push_back(mixed_mean);
            mixed_variances.push_back(mixed_variance);
        }
        gates.emplace_back(tail, mixed_means.data(), mixed_variances.data());
        for (int64_t i = 0; i < n * n; i++) matrix[i] *= gates[1].values[i / n];
        for (int64_t o = 0; o < n; o++) bias[o] *= gates[1].values[o];
    }

    // From the gradients of M and b those of the parameters, added to; returns those of mean and covariance.
    Floats backward(Floats matrix_gradient, Floats bias_gradient, float* parameters) const {
        const int64_t n = tail.channels;
        Floats moments_gradient(tail.moments());
        if (tail.gates) {
            Floats mean_gradient(n), variance_gradient(n), gate_gradient(n);
            float* covariance_gradient = moments_gradient.data() + n;
            if (tail.gates == 2) {
                Floats mixed_mean_gradient(n), mixed_variance_gradient(n);
                for (int64_t o = 0; o < n; o++) {
                    gate_gradient[o] = bias_gradient[o] * tail.bias[o];
                    bias_gradient[o] *= gates[1].values[o];
                    for (int64_t c = 0; c < n; c++) {
                        gate_gradient[o] += matrix_gradient[o * n + c] * once_gated[o * n + c];
                        matrix_gradient[o * n + c] *= gates[1].values[o];
                    }
                }
                gates[1].backward(
                    tail, mixed_variances.data(), gate_gradient, parameters + tail.mixing(), mixed_mean_gradient,
                    mixed_variance_gradient
                );
                for (int64_t o = 0; o < n; o++) {
                    bias_gradient[o] += mixed_mean_gradient[o];
                    for (int64_t c = 0; c < n; c++) {
                        const float weight = once_gated[o * n + c], of_variance = mixed_variance_gradient[o];
                        matrix_gradient[o * n + c] +=
                            mixed_mean_gradient[o] * mean[c] + 2 * of_variance * mixed_covariance[o * n + c];
                        mean_gradient[c] += mixed_mean_gradient[o] * weight;
                        for (int64_t i = 0; i < n; i++)
                            covariance_gradient[c * n + i] += of_variance * weight * once_gated[o * n + i];
                    }
                }
            }
            std::fill(gate_gradient.begin(), gate_gradient.end(), 0.0f);
            for (int64_t i = 0; i < n * n; i++) {
                gate_gradient[i % n] += matrix_gradient[i] * tail.matrix[i];
                matrix_gradient[i] *= gates[0].values[i % n];
            }
            gates[0].backward(
                tail, variance.data(), gate_gradient, parameters + tail.mixing(), mean_gradient, variance_gradient
            );
            copy(moments_gradient.data(), mean_gradient.data(), n);
            for (int64_t c = 0; c < n; c++) covariance_gradient[c * (n + 1)] += variance_gradient[c];
        }
        for (int64_t i = 0; i < n * n; i++) parameters[i] += matrix_gradient[i];
        for (int64_t o = 0; o < n; o++) parameters[n * n + o] += bias_gradient[o];
        return moments_gradient;
    }

private:
    const Tail& tail;
    const float *mean, *covariance;
    Floats variance, once_gated, mixed_covariance, mixed_means, mixed_variances;
    std::vector<Gate> gates;
};

void forward_image(
    const Tail& tail, const Maps& maps, const float* x, const float* d, float* out, float* moments, int threads
) {
    const int64_t n = tail.channels;
    if (tail.gates) find_moments(d, n, maps, moments, threads);
    const Mixing mixing(tail, moments);
    std::vector<float*> into(n);
    for (int64_t c = 0; c < n; c++) into[c] = out + c * maps.pixels;
    const std::vector<const float*> added = rows_of(x, n, maps.pixels);
    const int64_t step = band_pixels(maps, 3 * n, threads), bands = (maps.pixels + step - 1) / step;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t index = 0; index < bands; index++) {
        const Band band(index, step, maps.pixels);
        multiply(
            {mixing.matrix.data(), n, 1}, n, n, whole_rows(d, n, maps.pixels, band, scratch.right).data(),
            mixing.bias.data(), 1.0f, into.data(), band.first, band.count, added.data()
        );
    }
}

void backward_image(
    const Tail& tail, const Maps& maps, const float* d, const float* moments, const float* gradient, float* d_gradient,
    float* parameters
) {
    const int64_t n = tail.channels, step = band_pixels(maps, 2 * n, 1);
    const Mixing mixing(tail, moments);
    Floats matrix_gradient(n * n), bias_gradient(n);
    for (int64_t index = 0; index * step < maps.pixels; index++) {
        const Band band(index, step, maps.pixels);
        const auto left = whole_rows(gradient, n, maps.pixels, band, scratch.left);
        const auto right = whole_rows(d, n, maps.pixels, band, scratch.right);
        add_dot_products(left.data(), n, right.data(), n, band.whole(), matrix_gradient.data());
        for (int64_t o = 0; o < n; o++) bias_gradient[o] += sum_of(left[o], band.count);
    }
    const Floats of_moments = mixing.backward(matrix_gradient, bias_gradient, parameters);
    if (!d_gradient) return;

    // M^T gradient + S (d - mean) + the mean's gradient, S the covariance's gradient and its transpose: one product with
    // M^T and S side by side. The deviations' own mean adds nothing.
    const int64_t inner = tail.gates ? 2 * n : n;
    Floats factors(n * inner), offset(n);
    for (int64_t c = 0; c < n; c++)
        for (int64_t o = 0; o < n; o++) factors[c * inner + o] = mixing.matrix[o * n + c];
    if (tail.gates)
        for (int64_t c = 0; c < n; c++) {
            offset[c] = of_moments[c] / maps.pixels;
            for (int64_t i = 0; i < n; i++) {
                const float slope = (of_moments[n + c * n + i] + of_moments[n + i * n + c]) / maps.pixels;
                factors[c * inner + n + i] = slope;
                offset[c] -= slope * moments[i];
            }
        }
    std::vector<float*> into(n);
    for (int64_t c = 0; c < n; c++) into[c] = d_gradient + c * maps.pixels;
    for (int64_t index = 0; index * step < maps.pixels; index++) {
        const Band band(index, step, maps.pixels);
        auto rows = whole_rows(gradient, n, maps.pixels, band, scratch.left);
        const auto others = whole_rows(d, n, maps.pixels, band, scratch.right);
        rows.insert(rows.end(), others.begin(), others.end());
        multiply(
            {factors.data(), inner, 1}, n, inner, rows.data(), offset.data(), 1.0f, into.data(), band.first, band.count
        );
    }
}

}  // namespace

extern "C" {

// x and distilled (images, channels, pixels) -> out, and each image's moments for backward: its mean and covariance.
void tail_forward(
    const Tail* tail, Maps maps, const float* x, const float* distilled, float* out, float* moments, int threads
) {
    const int64_t size = tail->channels * maps.pixels;
    const auto forward = [&](int64_t n, int threads) {
        forward_image(
            *tail, maps, x + n * size, distilled + n * size, out + n * size, moments + n * tail->moments(), threads
        );
    };
    if (maps.images < threads) {
        for (int64_t n = 0; n < maps.images; n++) forward(n, threads);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < maps.images; n++) forward(n, 1);
}

// `gradient` is that of out, and so x's. Gradients of parameters: matrix, bias, then those of the gates. Images are
// summed in their order, so that the result does not depend on the number of threads.
void tail_backward(
    const Tail* tail, Maps maps, const float* distilled, const float* moments, const float* gradient,
    float* distilled_gradient, float* parameter_gradients, int threads
) {
    const int64_t size = tail->channels * maps.pixels, parameters = tail->parameters();
    float* const of_images = scratch.image_gradients.zeros(maps.images * parameters);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < maps.images; n++)
        backward_image(
            *tail, maps, distilled + n * size, moments + n * tail->moments(), gradient + n * size,
            distilled_gradient ? distilled_gradient + n * size : nullptr, of_images + n * parameters
        );
    std::memset(parameter_gradients, 0, parameters * sizeof(float));
    for (int64_t n = 0; n < maps.images; n++)
        for (int64_t i = 0; i < parameters; i++) parameter_gradients[i] += of_images[n * parameters + i];
}
}
