// The arithmetic of hw/compute/dot.py: o[t][k] = sum(a[t][i] * w[k][i] for i) of int8 values, in a form that
// compilers turn into vector instructions. See dot.sv.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace moevit {

// `a` is T x I bytes, `w` O x I bytes, `o` T x O sums.
template <size_t T, size_t I, size_t O>
inline void dot_products(const void* a, const void* w, void* o) {
  int8_t narrow_a[T * I], narrow_w[O * I];
  std::memcpy(narrow_a, a, sizeof narrow_a);
  std::memcpy(narrow_w, w, sizeof narrow_w);
  // Products of 16-bit values, added in pairs, are one instruction on most processors.
  int16_t wide_a[T * I], wide_w[O * I];
  for (size_t n = 0; n < T * I; ++n) wide_a[n] = narrow_a[n];
  for (size_t n = 0; n < O * I; ++n) wide_w[n] = narrow_w[n];
  int32_t sums[T * O];
  for (size_t t = 0; t < T; ++t)
    for (size_t k = 0; k < O; ++k) {
      int32_t sum = 0;
      for (size_t i = 0; i < I; ++i) sum += int32_t(wide_a[t * I + i]) * wide_w[k * I + i];
      sums[t * O + k] = sum;
    }
  std::memcpy(o, sums, sizeof sums);
}

}  // namespace moevit
