// Drives the array of slices and its twin side by side, with the sums computed here as the third.
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "Vpair.h"
#include "verilated.h"

double sc_time_stamp() { return 0; }

namespace {

struct Bench {
    VerilatedContext context;
    Vpair top{&context};

    // An edge of the fast clock.
    void half() {
        top.clk_2x = 1;
        top.eval();
        top.clk_2x = 0;
        top.eval();
    }

    // Up to the edge that both clocks have, and past it.
    void cycle() {
        half();
        top.clk = top.clk_2x = 1;
        top.eval();
        top.clk = top.clk_2x = 0;
        top.eval();
    }
};

int64_t field(const void* port, int bits, int n) {
    const uint8_t* bytes = static_cast<const uint8_t*>(port);
    int64_t value = 0;
    for (int b = 0; b < bits; ++b) {
        const int at = bits * n + b;
        value |= int64_t(bytes[at / 8] >> at % 8 & 1) << b;
    }
    return value << (64 - bits) >> (64 - bits);
}

}  // namespace

// One product of a pair, all operands: returns the number of wrong sums.
extern "C" __attribute__((visibility("default"))) int64_t every_pair(int latency) {
    Bench bench;
    int64_t wrong = 0;
    const int64_t all = int64_t(1) << 24;
    for (int64_t n = 0; n < all + latency; ++n) {
        const uint8_t operands[3] = {uint8_t(n), uint8_t(n >> 8), uint8_t(n >> 16)};
        std::memcpy(&bench.top.a, operands, 2);
        std::memcpy(&bench.top.w, operands + 2, 1);
        bench.cycle();
        const int64_t was = n - (latency - 1);
        if (was < 0 || was >= all) continue;
        const int64_t w = int8_t(was >> 16);
        const int64_t want[2] = {int8_t(was) * w, int8_t(was >> 8) * w};
        for (int t = 0; t < 2; ++t)
            wrong += field(&bench.top.o_dsp, 16, t) != want[t] ||
                     field(&bench.top.o_twin, 16, t) != want[t];
    }
    return wrong;
}

// Streams of extreme and random operands, while a reset comes and goes and the fast clock starts in
// either phase: returns the first wrong cycle, or -1.
extern "C" __attribute__((visibility("default"))) int64_t streams(
    int tokens, int inputs, int outputs, int bits, int latency, int64_t cycles, uint64_t seed) {
    Bench bench;
    std::mt19937_64 random(seed);
    for (uint64_t n = 0; n < seed; ++n) bench.half();
    std::vector<std::vector<int64_t>> sums;
    std::vector<int8_t> a(tokens * inputs), w(outputs * inputs);
    for (int64_t n = 0; n < cycles; ++n) {
        bench.top.rst = random() % 8 == 0;
        const int kind = random() % 4;  // random, extreme, all alike, activations against weights
        const int8_t low = random() % 2 ? -128 : 127, weight = random() % 2 ? -127 : 127;
        for (auto& v : a)
            v = kind == 0 ? int8_t(random()) : kind == 1 ? int8_t(random() % 2 ? -128 : 127) : low;
        for (auto& v : w) {
            v = kind == 0 ? int8_t(random()) : int8_t(random() % 2 ? -127 : 127);
            if (kind >= 2) v = weight;
            if (kind == 3) v = random() % 8 ? weight : 0;
            if (v == -128) v = -127;
        }
        std::memcpy(&bench.top.a, a.data(), a.size());
        std::memcpy(&bench.top.w, w.data(), w.size());
        bench.cycle();
        std::vector<int64_t> sum;
        for (int t = 0; t < tokens; ++t)
            for (int o = 0; o < outputs; ++o) {
                int64_t s = 0;
                for (int i = 0; i < inputs; ++i) s += a[t * inputs + i] * w[o * inputs + i];
                sum.push_back(s);
            }
        sums.push_back(sum);
        if (n < latency + 1) continue;  // the first two show which half is which
        const auto& want = sums[n - (latency - 1)];
        for (int k = 0; k < tokens * outputs; ++k)
            if (field(&bench.top.o_dsp, bits, k) != want[k] ||
                field(&bench.top.o_twin, bits, k) != want[k])
                return n;
    }
    return -1;
}
