// How many random problems a test tries.
#ifndef SAGE_TESTS_SUPPORT_TRIES_H_
#define SAGE_TESTS_SUPPORT_TRIES_H_

#include <cstdint>

namespace sage::testing {

// `problems`, or a fifth of them under a sanitizer, where each takes many times as long.
constexpr std::uint64_t Tries(std::uint64_t problems) {
#ifdef SAGE_SANITIZED
  return problems / 5;
#else
  return problems;
#endif
}

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_TRIES_H_
