// Versions of the block before kernel.cu, in float32, kept so that lab.py can measure what each idea brought.
//
//   1 textbook   three launches: keys and values of every step in memory, attention over them, all the rest
//   2 folded     three launches: W_k moved into the query, W_v behind the weighted mean, so no keys and no values
//   3 joined     one launch: the same three pieces of text behind each other, what they hand on in shared memory
//   4 kernel.cu  one launch laid out anew, see there
//
// One thread for each output number, scalar loads, softmax in two passes over scores in shared memory: plain on purpose.

namespace lab {

constexpr int WIDTH = 64, HEAD = 32, HIDDEN = 256, LONGEST = 2048;
constexpr float EPS = 1e-5f, LOWEST = -3.402823466e38f;

// Offsets in packing.py's folded row, and in the textbook's row: four projections (in, out) with their biases, then the
// folded row from the first norm on.
constexpr int KEY_QUERY = 0, KEY_QUERY_BIAS = 8192, VALUE_OUT = 8320, VALUE_OUT_BIAS = 16512, FOLDED_REST = 16576;
constexpr int PROJECTION = WIDTH * WIDTH + WIDTH, TEXTBOOK_REST = 4 * PROJECTION;
constexpr int NORM_WEIGHT = 0, NORM_BIAS = 64, UP = 128, UP_BIAS = 16512, DOWN = 16768, DOWN_BIAS = 33152;
constexpr int OUTPUT_NORM_WEIGHT = 33216, OUTPUT_NORM_BIAS = 33280, REST = 33344;
constexpr int FOLDED_ROW = FOLDED_REST + REST, TEXTBOOK_ROW = TEXTBOOK_REST + REST;

struct Place {  // which query looks at which modality
    int modality, steps, length;
    long long query, row;  // rows of `query` and of `contexts`
    const float* memory;
};

__device__ Place place(const float* audio, const float* face, const int* lengths, int B, int S, int Ta, int Tv) {
    Place at;
    at.modality = blockIdx.z;
    at.steps = at.modality ? Tv : Ta;
    at.query = (long long)blockIdx.x * S + blockIdx.y;
    at.row = at.modality * (long long)B * S + at.query;
    at.length = min(max(lengths[2 * at.query + at.modality], 0), at.steps);
    at.memory = (at.modality ? face : audio) + (long long)blockIdx.x * at.steps * WIDTH;
    return at;
}

// y = x @ W + b, a thread for each of `out` columns. W is (in, out).
__device__ void multiply(const float* x, const float* W, const float* bias, int in, int out, float* y) {
    for (int column = threadIdx.x; column < out; column += blockDim.x) {
        float sums[4] = {bias[column], 0.0f, 0.0f, 0.0f};  // four: shorter sums round less
        for (int i = 0; i < in; i += 4)
            for (int j = 0; j < 4; ++j) sums[j] += x[i + j] * W[(i + j) * out + column];
        y[column] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
    __syncthreads();
}

__device__ void softmax(float* scores, int length) {  // of one head, by one warp
    const int lane = threadIdx.x & 31;
    float largest = LOWEST, total = 0.0f;
    for (int t = lane; t < length; t += 32) largest = fmaxf(largest, scores[t]);
    for (int bit = 16; bit; bit /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, bit));
    for (int t = lane; t < length; t += 32) total += scores[t] = expf(scores[t] - largest);
    for (int bit = 16; bit; bit /= 2) total += __shfl_xor_sync(0xffffffffu, total, bit);
    for (int t = lane; t < length; t += 32) scores[t] /= total;
}

// For each head h: mean_h = softmax(rows u_h) rows'. `rows` and `others` are (steps, stride); u is (2, width).
__device__ void attend(const float* u, const float* rows, const float* others, int stride, int width, int head_offset,
                       int length, float (*scores)[LONGEST], float* means) {
    for (int i = threadIdx.x; i < 2 * length; i += blockDim.x) {
        const int t = i / 2, head = i % 2;
        float score = 0.0f;
        for (int d = 0; d < width; ++d) score += u[head * width + d] * rows[(long long)t * stride + head * head_offset + d];
        scores[head][t] = score;
    }
    __syncthreads();
    if (threadIdx.x < 64) softmax(scores[threadIdx.x / 32], length);
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * width; i += blockDim.x) {
        const int head = i / width, d = i % width;
        float mean = 0.0f;
        for (int t = 0; t < length; ++t) mean += scores[head][t] * others[(long long)t * stride + head * head_offset + d];
        means[i] = mean;
    }
    __syncthreads();
}

__device__ void layer_norm(float* x, const float* weight, const float* bias) {  // in place, by one warp
    if (threadIdx.x < 32) {
        const int lane = threadIdx.x;
        float mean = x[lane] + x[lane + 32];
        for (int bit = 16; bit; bit /= 2) mean += __shfl_xor_sync(0xffffffffu, mean, bit);
        mean /= WIDTH;
        const float a = x[lane] - mean, b = x[lane + 32] - mean;
        float variance = a * a + b * b;
        for (int bit = 16; bit; bit /= 2) variance += __shfl_xor_sync(0xffffffffu, variance, bit);
        const float scale = rsqrtf(variance / WIDTH + EPS);
        x[lane] = a * scale * weight[lane] + bias[lane];
        x[lane + 32] = b * scale * weight[lane + 32] + bias[lane + 32];
    }
    __syncthreads();
}

// Everything after the weighted means (`in` numbers): output projection, norm, feed-forward, norm.
__device__ void finish(const float* query, const float* means, const float* out, const float* out_bias, int in,
                       const float* rest, bool missing, float* contexts) {
    __shared__ float x[WIDTH], hidden[HIDDEN], y[WIDTH];
    multiply(means, out, out_bias, in, WIDTH, x);
    if (threadIdx.x < WIDTH) x[threadIdx.x] = query[threadIdx.x] + (missing ? 0.0f : x[threadIdx.x]);
    __syncthreads();
    layer_norm(x, rest + NORM_WEIGHT, rest + NORM_BIAS);
    multiply(x, rest + UP, rest + UP_BIAS, WIDTH, HIDDEN, hidden);
    for (int i = threadIdx.x; i < HIDDEN; i += blockDim.x)
        hidden[i] = 0.5f * hidden[i] * (1.0f + erff(hidden[i] * 0.70710678118654752f));
    __syncthreads();
    multiply(hidden, rest + DOWN, rest + DOWN_BIAS, HIDDEN, WIDTH, y);
    if (threadIdx.x < WIDTH) y[threadIdx.x] += x[threadIdx.x];
    __syncthreads();
    layer_norm(y, rest + OUTPUT_NORM_WEIGHT, rest + OUTPUT_NORM_BIAS);
    if (threadIdx.x < WIDTH) contexts[threadIdx.x] = y[threadIdx.x];
}

}  // namespace lab

#define INPUTS const float *query, const float *audio, const float *face, const int *lengths, const float *weights
#define SIZES int B, int S, int Ta, int Tv

// keys_values (2, B, max(Ta, Tv), 128): a block for each step
extern "C" __global__ void textbook_keys_values(INPUTS, SIZES, float* keys_values) {
    const int step = blockIdx.x, b = blockIdx.y, modality = blockIdx.z, steps = modality ? Tv : Ta;
    if (step >= steps) return;
    const float* h = (modality ? face : audio) + ((long long)b * steps + step) * lab::WIDTH;
    const float* w = weights + modality * lab::TEXTBOOK_ROW + lab::PROJECTION;  // key, then value
    float* row = keys_values + (((long long)modality * B + b) * max(Ta, Tv) + step) * 2 * lab::WIDTH;
    lab::multiply(h, w, w + lab::WIDTH * lab::WIDTH, lab::WIDTH, lab::WIDTH, row);
    w += lab::PROJECTION;
    lab::multiply(h, w, w + lab::WIDTH * lab::WIDTH, lab::WIDTH, lab::WIDTH, row + lab::WIDTH);
}

// means (2, B, S, 64): the heads' weighted values joined
extern "C" __global__ void textbook_attend(INPUTS, SIZES, const float* keys_values, float* means) {
    __shared__ float scores[2][lab::LONGEST], q[lab::WIDTH];
    const lab::Place at = lab::place(audio, face, lengths, B, S, Ta, Tv);
    const float* w = weights + at.modality * lab::TEXTBOOK_ROW;
    const float* rows = keys_values + ((long long)at.modality * B + blockIdx.x) * max(Ta, Tv) * 2 * lab::WIDTH;
    lab::multiply(query + at.query * lab::WIDTH, w, w + lab::WIDTH * lab::WIDTH, lab::WIDTH, lab::WIDTH, q);
    if (threadIdx.x < lab::WIDTH) q[threadIdx.x] *= rsqrtf(lab::HEAD);
    __syncthreads();
    lab::attend(q, rows, rows + lab::WIDTH, 2 * lab::WIDTH, lab::HEAD, lab::HEAD, at.length, scores,
                means + at.row * lab::WIDTH);
}

extern "C" __global__ void textbook_finish(INPUTS, SIZES, const float* means, float* contexts) {
    const lab::Place at = lab::place(audio, face, lengths, B, S, Ta, Tv);
    const float* row = weights + at.modality * lab::TEXTBOOK_ROW;
    const float* out = row + 3 * lab::PROJECTION;
    lab::finish(query + at.query * lab::WIDTH, means + at.row * lab::WIDTH, out, out + lab::WIDTH * lab::WIDTH, lab::WIDTH,
                row + lab::TEXTBOOK_REST, at.length == 0, contexts + at.row * lab::WIDTH);
}

// u (2, B, S, 128)
extern "C" __global__ void folded_query(INPUTS, SIZES, float* u) {
    const lab::Place at = lab::place(audio, face, lengths, B, S, Ta, Tv);
    const float* w = weights + at.modality * lab::FOLDED_ROW;
    lab::multiply(query + at.query * lab::WIDTH, w + lab::KEY_QUERY, w + lab::KEY_QUERY_BIAS, lab::WIDTH, 2 * lab::WIDTH,
                  u + at.row * 2 * lab::WIDTH);
}

// means (2, B, S, 128): each head's weighted mean of the steps
extern "C" __global__ void folded_attend(INPUTS, SIZES, const float* u, float* means) {
    __shared__ float scores[2][lab::LONGEST];
    const lab::Place at = lab::place(audio, face, lengths, B, S, Ta, Tv);
    lab::attend(u + at.row * 2 * lab::WIDTH, at.memory, at.memory, lab::WIDTH, lab::WIDTH, 0, at.length, scores,
                means + at.row * 2 * lab::WIDTH);
}

extern "C" __global__ void folded_finish(INPUTS, SIZES, const float* means, float* contexts) {
    const lab::Place at = lab::place(audio, face, lengths, B, S, Ta, Tv);
    const float* w = weights + at.modality * lab::FOLDED_ROW;
    lab::finish(query + at.query * lab::WIDTH, means + at.row * 2 * lab::WIDTH, w + lab::VALUE_OUT, w + lab::VALUE_OUT_BIAS,
                2 * lab::WIDTH, w + lab::FOLDED_REST, at.length == 0, contexts + at.row * lab::WIDTH);
}

extern "C" __global__ void joined(INPUTS, SIZES, float* contexts) {
    __shared__ float scores[2][lab::LONGEST], u[2 * lab::WIDTH], means[2 * lab::WIDTH];
    const lab::Place at = lab::place(audio, face, lengths, B, S, Ta, Tv);
    const float* w = weights + at.modality * lab::FOLDED_ROW;
    const float* t = query + at.query * lab::WIDTH;
    lab::multiply(t, w + lab::KEY_QUERY, w + lab::KEY_QUERY_BIAS, lab::WIDTH, 2 * lab::WIDTH, u);
    lab::attend(u, at.memory, at.memory, lab::WIDTH, lab::WIDTH, 0, at.length, scores, means);
    lab::finish(t, means, w + lab::VALUE_OUT, w + lab::VALUE_OUT_BIAS, 2 * lab::WIDTH, w + lab::FOLDED_REST,
                at.length == 0, contexts + at.row * lab::WIDTH);
}

extern "C" __global__ void nothing() {}
