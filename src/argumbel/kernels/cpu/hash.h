// XXH64 of strings: names of rows as ids. Not part of the noise contract, but of the rule by which rows get their ids.
#pragma once
#include <cstdint>
#include <cstring>

namespace argumbel {

inline uint64_t xxh64(const unsigned char* at, uint64_t length, uint64_t seed) {
    constexpr uint64_t kA = 0x9E3779B185EBCA87, kB = 0xC2B2AE3D27D4EB4F, kC = 0x165667B19E3779F9,
                       kD = 0x85EBCA77C2B2AE63, kE = 0x27D4EB2F165667C5;
    const auto turn = [](uint64_t x, int bits) { return x << bits | x >> (64 - bits); };
    const auto round = [&](uint64_t sum, uint64_t word) { return turn(sum + word * kB, 31) * kA; };
    const auto word = [](const unsigned char* from) {
        uint64_t x;
        std::memcpy(&x, from, 8);
        return x;
    };
    const unsigned char* end = at + length;
    uint64_t hash = seed + kE;
    if (length >= 32) {
        uint64_t sums[4] = {seed + kA + kB, seed + kB, seed, seed - kA};
        for (; end - at >= 32; at += 32)
            for (int i = 0; i < 4; ++i) sums[i] = round(sums[i], word(at + 8 * i));
        hash = turn(sums[0], 1) + turn(sums[1], 7) + turn(sums[2], 12) + turn(sums[3], 18);
        for (uint64_t sum : sums) hash = (hash ^ round(0, sum)) * kA + kD;
    }
    hash += length;
    for (; end - at >= 8; at += 8) hash = turn(hash ^ round(0, word(at)), 27) * kA + kD;
    if (end - at >= 4) {
        uint32_t half;
        std::memcpy(&half, at, 4);
        hash = turn(hash ^ half * kA, 23) * kB + kC;
        at += 4;
    }
    for (; at < end; ++at) hash = turn(hash ^ *at * kE, 11) * kA;
    hash = (hash ^ hash >> 33) * kB;
    hash = (hash ^ hash >> 29) * kC;
    return hash ^ hash >> 32;
}

}  // namespace argumbel
