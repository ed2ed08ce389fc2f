// What every backend promises of operands that come as `sage1` int8.
#ifndef SAGE_TESTS_UNIT_PREQUANTIZED_CHECK_H_
#define SAGE_TESTS_UNIT_PREQUANTIZED_CHECK_H_

#include <cstdint>

#include "kernels/backend.h"

namespace sage::testing {

// A problem drawn from `seed`, of odd lengths, paddings, layouts and groups, with zero, tiny and
// non-finite groups: q, k or both as int8 give the output and lse that 16-bit operands give, bit
// for bit, in one task and in several.
void CheckPrequantizedBits(Backend& backend, Precision precision, std::uint64_t seed);

// Tasks with int8 operands that cannot be served are refused, with INVALID_ARGUMENT.
void CheckPrequantizedRefusals(Backend& backend);

}  // namespace sage::testing

#endif  // SAGE_TESTS_UNIT_PREQUANTIZED_CHECK_H_
