// Runs the text of a CUDA kernel on a CPU: each thread of a block is a fiber, a stack of its own that runs until it must
// wait at a barrier or a shuffle. Blocks run one after another. See host.py for what this cannot show.
#pragma once

#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <functional>
#include <math.h>
#include <memory>
#include <ucontext.h>
#include <utility>
#include <vector>

#define PSAMF_HOST
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("psamf_shared")))

struct uint3 { unsigned x, y, z; };
struct uint2 { unsigned x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline uint3 threadIdx, blockIdx, blockDim, gridDim;

// Where the linker put all `__shared__` variables; absent if a kernel has none.
extern char __start_psamf_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_psamf_shared[] __attribute__((weak, visibility("hidden")));

namespace shim {

constexpr unsigned WARP = 32;
constexpr std::size_t STACK = 64 << 10;  // bytes: a kernel's frames and one call into the C library's mathematics

enum Result { DONE = 0, STUCK = 1, PARTIAL_WARP = 2 };

struct Barrier {
    unsigned size, arrived, generation;
};

struct Warp {
    Barrier barrier;
    std::uint64_t slots[2][WARP];  // two, so that a fast lane's next shuffle spares what slow lanes still read
};

struct Fiber {
    ucontext_t start;
    jmp_buf state;
    bool started = false, done = false;
    unsigned index = 0, turn = 0;
    const Barrier* gate = nullptr;  // waits while the gate's generation is this
    unsigned generation = 0;
    std::unique_ptr<char[]> stack;
};

inline std::vector<std::unique_ptr<Fiber>> fibers;
inline std::vector<Warp> warps;
inline Barrier block;
inline Fiber* current;
inline jmp_buf scheduler;
inline std::function<void()> kernel;
inline Result result;

// _setjmp and _longjmp after the first switch: swapcontext would ask the operating system for the signal mask each time.
inline void leave() {
    if (!_setjmp(current->state)) _longjmp(scheduler, 1);
}

inline void body() {
    for (;;) {  // once a block
        kernel();
        current->done = true;
        leave();
    }
}

inline void enter(Fiber& fiber) {
    current = &fiber;
    threadIdx = {fiber.index, 0, 0};
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.state, 1);
    fiber.started = true;
    setcontext(&fiber.start);
}

inline void wait(Barrier& barrier) {
    if (++barrier.arrived == barrier.size) {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    current->gate = &barrier;
    current->generation = barrier.generation;
    leave();
}

inline void make_fibers(unsigned count) {
    fibers.clear();
    for (unsigned i = 0; i < count; ++i) {
        auto fiber = std::make_unique<Fiber>();
        fiber->index = i;
        fiber->stack.reset(new char[STACK]);  // not make_unique: it would touch every page
        getcontext(&fiber->start);
        fiber->start.uc_stack.ss_sp = fiber->stack.get();
        fiber->start.uc_stack.ss_size = STACK;
        makecontext(&fiber->start, body, 0);
        fibers.push_back(std::move(fiber));
    }
}

// The order in which threads come to run between two barriers: 0 ascending, any other number is the seed of a shuffle.
// A kernel whose result depends on it lacks a barrier.
inline std::vector<unsigned> order_of(unsigned count, unsigned seed) {
    std::vector<unsigned> order(count);
    for (unsigned i = 0; i < count; ++i) order[i] = i;
    std::uint64_t state = seed;
    for (unsigned i = count; seed && i > 1; --i) {
        state = state * 6364136223846793005u + 1442695040888963407u;  // Knuth's MMIX generator
        std::swap(order[i - 1], order[(state >> 33) % i]);
    }
    return order;
}

inline void run_block(const std::vector<unsigned>& order) {
    const unsigned count = order.size();
    block = {count, 0, 0};
    warps.assign((count + WARP - 1) / WARP, {});
    for (unsigned i = 0; i < warps.size(); ++i) warps[i].barrier.size = count - i * WARP < WARP ? count - i * WARP : WARP;
    if (__start_psamf_shared)  // a GPU leaves it as the last block did: here it is NaN
        std::memset(__start_psamf_shared, 0xff, __stop_psamf_shared - __start_psamf_shared);
    for (auto& fiber : fibers) fiber->done = false;
    for (unsigned alive = count; alive && result == DONE;) {
        bool moved = false;
        for (unsigned index : order) {
            Fiber& fiber = *fibers[index];
            if (fiber.done || (fiber.gate && fiber.gate->generation == fiber.generation)) continue;
            fiber.gate = nullptr;
            enter(fiber);
            moved = true;
            alive -= fiber.done;
        }
        if (!moved) result = STUCK;
    }
}

template <typename... P, std::size_t... I>
void call(void (*function)(P...), void** arguments, std::index_sequence<I...>) {
    function(*static_cast<P*>(arguments[I])...);
}

// Arguments as cuLaunchKernel takes them: the address of each.
template <typename... P>
int launch(void (*function)(P...), const unsigned* grid, unsigned threads, unsigned seed, void** arguments) {
    kernel = [=] { call(function, arguments, std::index_sequence_for<P...>{}); };
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    result = DONE;
    if (fibers.size() != threads) make_fibers(threads);
    const std::vector<unsigned> order = order_of(threads, seed);
    for (unsigned z = 0; z < grid[2]; ++z)
        for (unsigned y = 0; y < grid[1]; ++y)
            for (unsigned x = 0; x < grid[0] && result == DONE; ++x) {
                blockIdx = {x, y, z};
                run_block(order);
            }
    if (result != DONE) fibers.clear();  // they stand in the middle of a block
    return result;
}

template <typename T> T exchange(unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) <= sizeof(std::uint64_t), "a shuffle moves 4 or 8 bytes");
    if (mask != 0xffffffffu) result = PARTIAL_WARP;
    Warp& warp = warps[current->index / WARP];
    std::uint64_t* slots = warp.slots[current->turn ^= 1];
    std::memcpy(&slots[current->index % WARP], &value, sizeof(T));
    wait(warp.barrier);
    std::memcpy(&value, &slots[source % WARP], sizeof(T));
    return value;
}

}  // namespace shim

inline void __syncthreads() { shim::wait(shim::block); }
inline void __syncwarp() { shim::wait(shim::warps[shim::current->index / shim::WARP].barrier); }

template <typename T> T __shfl_sync(unsigned mask, T value, int lane) { return shim::exchange(mask, value, lane); }
template <typename T> T __shfl_xor_sync(unsigned mask, T value, int bits) {
    return shim::exchange(mask, value, (shim::current->index % shim::WARP) ^ bits);
}

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline void prefetch_l2(const void*) {}

// IEEE 754 half precision in software, exact in both directions: to float always, from float rounded to nearest even.
inline float half_to_float(std::uint16_t half) {
    const std::uint32_t sign = std::uint32_t(half & 0x8000) << 16, magnitude = half & 0x7fff;
    if (magnitude < 0x400) {  // zero and subnormal: a multiple of 2^-24
        const float value = float(magnitude) * 0x1p-24f;
        return sign ? -value : value;
    }
    const std::uint32_t exponent = magnitude >= 0x7c00 ? 0x70000000u : 0x38000000u;  // infinity and NaN stay so
    const std::uint32_t bits = sign | ((magnitude << 13) + exponent);
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline std::uint16_t float_to_half(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const std::uint16_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return sign | 0x7fff;                // NaN, as the GPU writes it
    if (bits >= 0x477ff000) return sign | 0x7c00;               // 65520 and more round to infinity
    if (bits < 0x38800000) {                                    // below 2^-14: a multiple of 2^-24
        float magnitude;
        std::memcpy(&magnitude, &bits, 4);
        return sign | std::uint16_t(nearbyintf(magnitude * 0x1p24f));
    }
    bits += 0xfff + (bits >> 13 & 1);
    return sign | std::uint16_t((bits - 0x38000000) >> 13);
}
