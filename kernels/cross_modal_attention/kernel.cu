// PSA-MF's cross-modal attention block in one launch: both modalities, all queries, the whole batch.
//
//     u = t @ key_query + key_query_bias                       W_k and 1/sqrt(32) folded into the query, for each head
//     m = softmax(h u) h                                       over the valid steps of the voice or the face
//     x = norm(t + joined m @ value_out + value_out_bias)      nothing but t where the modality is missing
//     y = output_norm(x + gelu(x @ up + up_bias) @ down + down_bias)
//
// One block of threads computes one row of `contexts`: one query looking at one modality. Its chain of dependent steps,
// and its 200 KB of weights from L2, are all the time there is, so each matrix is asked for before the barrier that its
// input waits for, and there are four barriers. README.md tells why and what was tried.
//
// No header is included: nvcc, NVRTC (whose wheels carry none) and g++ with kernels/host/shim.h compile this very text.

namespace psamf {

constexpr int WIDTH = 64;       // d
constexpr int JOINED = 128;     // two heads, each as wide as a step: nothing is projected before the mean
constexpr int HIDDEN = 256;     // of the feed-forward
constexpr int WARPS = 8;
constexpr int THREADS = 32 * WARPS;
constexpr int GROUPS = 2 * WARPS;  // half-warps: 16 lanes x 4 dimensions hold one step
constexpr int DEPTH = 8;           // steps that a group has in registers: 16 lanes then sum 2 heads x 8 scores, one each
constexpr int CHUNK = GROUPS * DEPTH;
constexpr int PART = JOINED + 16;  // 16 more than a row, so that two groups' rows lie in different banks
constexpr float EPS = 1e-5f;
constexpr float LOWEST = -3.402823466e38f;  // finite: no infinity is ever subtracted from another
constexpr unsigned ALL = 0xffffffffu;

// Where a packed row has what, in numbers (packing.py: LAYOUT).
constexpr int KEY_QUERY = 0;
constexpr int KEY_QUERY_BIAS = KEY_QUERY + WIDTH * JOINED;
constexpr int VALUE_OUT = KEY_QUERY_BIAS + JOINED;
constexpr int VALUE_OUT_BIAS = VALUE_OUT + JOINED * WIDTH;
constexpr int NORM_WEIGHT = VALUE_OUT_BIAS + WIDTH;
constexpr int NORM_BIAS = NORM_WEIGHT + WIDTH;
constexpr int UP = NORM_BIAS + WIDTH;
constexpr int UP_BIAS = UP + WIDTH * HIDDEN;
constexpr int DOWN = UP_BIAS + HIDDEN;
constexpr int DOWN_BIAS = DOWN + HIDDEN * WIDTH;
constexpr int OUTPUT_NORM_WEIGHT = DOWN_BIAS + WIDTH;
constexpr int OUTPUT_NORM_BIAS = OUTPUT_NORM_WEIGHT + WIDTH;
constexpr int ROW = OUTPUT_NORM_BIAS + WIDTH;

struct half_t {  // __half's bits: its own type lives in a header
    unsigned short bits;
};

#ifndef PSAMF_HOST
__device__ __forceinline__ float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ __forceinline__ unsigned short float_to_half(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ void prefetch_l2(const void* address) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}
#endif

// Four neighbouring numbers as they lie in memory: one load of 16 or 8 bytes. Loads are plain and pointers not __restrict__
// on purpose: what the compiler may read through the non-coherent path it moves down to its use, behind the very barrier
// that the load shall overlap.
template <typename T> struct Raw;
template <> struct Raw<float> { using type = float4; };
template <> struct Raw<half_t> { using type = uint2; };

template <typename T> __device__ __forceinline__ typename Raw<T>::type load4(const T* address) {
    return *reinterpret_cast<const typename Raw<T>::type*>(address);
}

__device__ __forceinline__ float4 unpack(float4 raw) { return raw; }

__device__ __forceinline__ float4 unpack(uint2 raw) {
    return make_float4(half_to_float(raw.x & 0xffff), half_to_float(raw.x >> 16), half_to_float(raw.y & 0xffff),
                       half_to_float(raw.y >> 16));
}

__device__ __forceinline__ float load1(const float* address) { return *address; }
__device__ __forceinline__ float load1(const half_t* address) { return half_to_float(address->bits); }
__device__ __forceinline__ void store1(float* address, float value) { *address = value; }
__device__ __forceinline__ void store1(half_t* address, float value) { address->bits = float_to_half(value); }

__device__ __forceinline__ float from(float value, int lane) { return __shfl_sync(ALL, value, lane); }
__device__ __forceinline__ float across(float value, int bit) { return __shfl_xor_sync(ALL, value, bit); }

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int bit = 16; bit; bit /= 2) value += across(value, bit);
    return value;
}

// Adds the N values of two lanes that differ in `bit`; the lane without it keeps the first half, the other the second.
// log2(N) calls sum N values over N lanes with N - 1 shuffles in place of N log2(N), and leave one value a lane.
template <int N> __device__ __forceinline__ void fold(float* values, int lane, int bit) {
    const bool second = lane & bit;
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
        const float kept = second ? values[N / 2 + i] : values[i];
        const float sent = second ? values[i] : values[N / 2 + i];
        values[i] = kept + across(sent, bit);
    }
}

__device__ __forceinline__ void add_scaled(float* sums, float scale, float4 values) {
    sums[0] += scale * values.x;
    sums[1] += scale * values.y;
    sums[2] += scale * values.z;
    sums[3] += scale * values.w;
}

__device__ __forceinline__ float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }

// A row of 64 numbers over a warp: each lane has columns `lane` and `lane + 32`.
struct Pair {
    float first, second;
};

template <typename T> __device__ __forceinline__ Pair load_pair(const T* row, int lane) {
    return {load1(row + lane), load1(row + lane + 32)};
}

__device__ __forceinline__ Pair operator+(Pair a, Pair b) { return {a.first + b.first, a.second + b.second}; }

// Number `i` of a row that is spread so, for all lanes; each lane may ask for another, all in the same half.
__device__ __forceinline__ float at(Pair row, int half, int lane) { return from(half ? row.second : row.first, lane); }

__device__ __forceinline__ Pair layer_norm(Pair x, Pair weight, Pair bias) {
    const float mean = warp_sum(x.first + x.second) / WIDTH;
    const float a = x.first - mean, b = x.second - mean;  // two passes: squares of x would cancel where it varies little
    const float scale = rsqrtf(warp_sum(a * a + b * b) / WIDTH + EPS);
    return {a * scale * weight.first + bias.first, b * scale * weight.second + bias.second};
}

__device__ __forceinline__ float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }

struct Scratch {  // 14 KB of shared memory
    float4 query[JOINED / 4];            // u
    float part[GROUPS][PART];            // each group's sum of exp(score - maximum) h, head 0 before head 1
    float maximum[2][GROUPS];            // of its scores
    float total[2][GROUPS];              // of exp(score - maximum)
    float context[WARPS][WIDTH];         // each warp's share of the product with value_out
    float output[WARPS][WIDTH];          // and with down
};

// The columns of a (rows, 64) product that a warp has summed over its own rows: two lanes share four columns.
__device__ __forceinline__ void store_share(float* share, float* sums, int lane) {
    fold<4>(sums, lane, 16);
    float* columns = share + 4 * (lane & 15) + (lane & 16 ? 2 : 0);
    columns[0] = sums[0];
    columns[1] = sums[1];
}

__device__ __forceinline__ Pair sum_shares(const float (*shares)[WIDTH], int lane) {
    Pair sum = {0.0f, 0.0f};
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) sum = sum + Pair{shares[warp][lane], shares[warp][lane + 32]};
    return sum;
}

// Steps base + group, base + group + 16, ...: zeros past the last valid one, whose memory is never read.
template <typename T>
__device__ __forceinline__ void load_steps(typename Raw<T>::type* steps, const T* memory, int base, int length, int group,
                                           int column) {
#pragma unroll
    for (int i = 0; i < DEPTH; ++i) {
        const int step = base + i * GROUPS + group;
        steps[i] = typename Raw<T>::type{};
        if (step < length) steps[i] = load4(memory + (long long)step * WIDTH + column);
    }
}

template <typename T>
__device__ __forceinline__ void block(const T* query, const T* audio, const T* face, const int* lengths, const T* weights,
                                      int B, int S, int Ta, int Tv, T* contexts, Scratch& scratch) {
    using Four = typename Raw<T>::type;
    constexpr int LINE = 128 / sizeof(T), LINES = (ROW - UP) / LINE;  // of L2
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int group = threadIdx.x >> 4, column = 4 * (lane & 15), upper = lane >> 4;
    const int b = blockIdx.x, s = blockIdx.y, modality = blockIdx.z;  // 0 the voice, 1 the face
    const int steps = modality ? Tv : Ta;
    const int length = min(max(lengths[2 * (b * S + s) + modality], 0), steps);  // none leads out of the memory
    const T* memory = (modality ? face : audio) + (long long)b * steps * WIDTH;
    const T* w = weights + modality * ROW;

    const Pair t = load_pair(query + (long long)(b * S + s) * WIDTH, lane);

    // u: a warp has 16 of its 128 columns, a lane 4 of them and 8 rows
    const int own_u = 16 * warp + 4 * (lane & 3);
    const int mine = own_u + (lane & 16 ? 2 : 0) + (lane & 8 ? 1 : 0);  // the one that it holds after the folds below
    const float key_query_bias = load1(w + KEY_QUERY_BIAS + mine);
    Four key_query[8], held[DEPTH], value_out[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) key_query[i] = load4(w + KEY_QUERY + (8 * i + (lane >> 2)) * JOINED + own_u);
    load_steps(held, memory, 0, length, group, column);
    // value_out: a warp has 16 of its 128 rows, a lane 8 of them and 4 columns
#pragma unroll
    for (int i = 0; i < 8; ++i) value_out[i] = load4(w + VALUE_OUT + (16 * warp + 2 * i + upper) * WIDTH + column);
#pragma unroll
    for (int i = 0; i < LINES; i += THREADS)
        if (i + threadIdx.x < LINES) prefetch_l2(w + UP + (i + threadIdx.x) * LINE);

    float sums[4] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i) add_scaled(sums, at(t, i / 4, 8 * (i % 4) + (lane >> 2)), unpack(key_query[i]));
    fold<4>(sums, lane, 16);
    fold<2>(sums, lane, 8);
    sums[0] += across(sums[0], 4);
    if (!(lane & 4)) reinterpret_cast<float*>(scratch.query)[mine] = sums[0] + key_query_bias;
    __syncthreads();

    // online softmax over the valid steps, each group of 16 lanes by itself
    const float4 u0 = scratch.query[lane & 15], u1 = scratch.query[16 + (lane & 15)];
    float maximum = LOWEST, total = 0.0f;  // of this lane's head: lanes with bit 3 have head 1
    float mean0[4] = {}, mean1[4] = {};
    for (int base = 0; base < length; base += CHUNK) {
        Four next[DEPTH];
        load_steps(next, memory, base + CHUNK, length, group, column);
        float scores[2 * DEPTH];
#pragma unroll
        for (int i = 0; i < DEPTH; ++i) {
            const float4 h = unpack(held[i]);
            scores[i] = dot(h, u0);
            scores[DEPTH + i] = dot(h, u1);
        }
        fold<16>(scores, lane, 8);
        fold<8>(scores, lane, 4);
        fold<4>(scores, lane, 2);
        fold<2>(scores, lane, 1);  // now a lane has one score: step `lane & 7` of the group's eight
        const bool valid = base + (lane & 7) * GROUPS + group < length;
        float largest = valid ? fmaxf(maximum, scores[0]) : maximum;
        largest = fmaxf(largest, across(largest, 4));
        largest = fmaxf(largest, across(largest, 2));
        largest = fmaxf(largest, across(largest, 1));
        const float shrink = expf(maximum - largest);
        const float share = valid ? expf(scores[0] - largest) : 0.0f;
        maximum = largest;
        total = total * shrink + share;
        const float shrink0 = from(shrink, lane & 16), shrink1 = from(shrink, (lane & 16) | 8);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            mean0[i] *= shrink0;
            mean1[i] *= shrink1;
        }
#pragma unroll
        for (int i = 0; i < DEPTH; ++i) {
            const float4 h = unpack(held[i]);
            add_scaled(mean0, from(share, (lane & 16) | i), h);
            add_scaled(mean1, from(share, (lane & 16) | 8 | i), h);
            held[i] = next[i];
        }
    }
    total += across(total, 4);
    total += across(total, 2);
    total += across(total, 1);
    *reinterpret_cast<float4*>(&scratch.part[group][column]) = make_float4(mean0[0], mean0[1], mean0[2], mean0[3]);
    *reinterpret_cast<float4*>(&scratch.part[group][WIDTH + column]) =
        make_float4(mean1[0], mean1[1], mean1[2], mean1[3]);
    if (!(lane & 7)) {
        scratch.maximum[lane >> 3 & 1][group] = maximum;
        scratch.total[lane >> 3 & 1][group] = total;
    }

    // up: a warp has 32 of its 256 columns, a lane 4 of them and 16 rows
    const int own_up = 32 * warp + 4 * (lane & 7);
    Four up[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) up[i] = load4(w + UP + (4 * i + (lane >> 3)) * HIDDEN + own_up);
    const Pair value_out_bias = load_pair(w + VALUE_OUT_BIAS, lane);
    const Pair norm_weight = load_pair(w + NORM_WEIGHT, lane), norm_bias = load_pair(w + NORM_BIAS, lane);
    const float up_bias = load1(w + UP_BIAS + own_up + (lane & 16 ? 2 : 0) + (lane & 8 ? 1 : 0));
    __syncthreads();

    // the groups' means into one, of this warp's rows alone, all of one head
    const int head = warp >> 2;
    float largest = scratch.maximum[head][lane & 15];
    float scale = largest;
#pragma unroll
    for (int bit = 8; bit; bit /= 2) largest = fmaxf(largest, across(largest, bit));
    scale = expf(scale - largest);
    float sum = scratch.total[head][lane & 15] * scale;
#pragma unroll
    for (int bit = 8; bit; bit /= 2) sum += across(sum, bit);
    scale = __fdividef(scale, sum);
    float mean = 0.0f;  // of row 16 * warp + (lane & 15)
#pragma unroll
    for (int i = 0; i < GROUPS / 2; ++i)
        mean += scratch.part[2 * i + upper][16 * warp + (lane & 15)] * from(scale, 2 * i + upper);
    mean += across(mean, 16);
    float context[4] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i) add_scaled(context, from(mean, 2 * i + upper), unpack(value_out[i]));
    store_share(scratch.context[warp], context, lane);

    // down: a warp has the 32 rows that its hidden numbers meet, a lane 16 of them and 4 columns
    Four down[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) down[i] = load4(w + DOWN + (32 * warp + 2 * i + upper) * WIDTH + column);
    const Pair down_bias = load_pair(w + DOWN_BIAS, lane);
    const Pair output_weight = load_pair(w + OUTPUT_NORM_WEIGHT, lane);
    const Pair output_bias = load_pair(w + OUTPUT_NORM_BIAS, lane);
    __syncthreads();

    Pair x = t;  // every warp has all of x: cheaper than one more barrier
    if (length > 0) x = x + value_out_bias + sum_shares(scratch.context, lane);
    x = layer_norm(x, norm_weight, norm_bias);
    float hiddens[4] = {};
#pragma unroll
    for (int i = 0; i < 16; ++i) add_scaled(hiddens, at(x, i / 8, 4 * (i % 8) + (lane >> 3)), unpack(up[i]));
    fold<4>(hiddens, lane, 16);
    fold<2>(hiddens, lane, 8);
    const float hidden = gelu(hiddens[0] + up_bias);
    float outputs[4] = {};
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        // hidden number 2 i + upper of this warp: column 4 c + 2 p + q was left with lane 16 p + 8 q + c
        const int owner = 16 * (i % 2) + 8 * upper + i / 2;
        add_scaled(outputs, from(hidden, owner), unpack(down[i]));
    }
    store_share(scratch.output[warp], outputs, lane);
    __syncthreads();
    if (warp == 0) {
        x = layer_norm(x + down_bias + sum_shares(scratch.output, lane), output_weight, output_bias);
        T* out = contexts + ((long long)(modality * B + b) * S + s) * WIDTH;
        store1(out + lane, x.first);
        store1(out + lane + 32, x.second);
    }
}

}  // namespace psamf

// query (B, S, 64), audio (B, Ta, 64), face (B, Tv, 64), lengths (B, S, 2), weights (2, ROW) -> contexts (2, B, S, 64)
extern "C" __global__ void __launch_bounds__(psamf::THREADS)
    psamf_cross_modal_attention_f32(const float* query, const float* audio, const float* face, const int* lengths,
                                    const float* weights, int B, int S, int Ta, int Tv, float* contexts) {
    __shared__ psamf::Scratch scratch;
    psamf::block(query, audio, face, lengths, weights, B, S, Ta, Tv, contexts, scratch);
}

extern "C" __global__ void __launch_bounds__(psamf::THREADS)
    psamf_cross_modal_attention_f16(const psamf::half_t* query, const psamf::half_t* audio, const psamf::half_t* face,
                                    const int* lengths, const psamf::half_t* weights, int B, int S, int Ta, int Tv,
                                    psamf::half_t* contexts) {
    __shared__ psamf::Scratch scratch;
    psamf::block(query, audio, face, lengths, weights, B, S, Ta, Tv, contexts, scratch);
}
