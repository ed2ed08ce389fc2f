// Runs a test body once with every instruction set that the CPU kernels were built for and that
// this machine has.
#ifndef SAGE_TESTS_UNIT_CPU_EACH_TARGET_H_
#define SAGE_TESTS_UNIT_CPU_EACH_TARGET_H_

#include <cstdint>

#include "gtest/gtest.h"
#include "hwy/targets.h"
#include "kernels/cpu/attend_tile.h"

namespace sage {

template <typename Body>
void ForEachCpuTarget(const Body& body) {
  const std::int64_t supported = hwy::SupportedTargets();
  for (std::int64_t rest = supported; rest != 0; rest &= rest - 1) {
    // This target and those below it, one of which is chosen if it was not built.
    hwy::GetChosenTarget().Update(rest);
    SCOPED_TRACE(KernelPath());
    body();
  }
  hwy::GetChosenTarget().Update(supported);
}

}  // namespace sage

#endif  // SAGE_TESTS_UNIT_CPU_EACH_TARGET_H_
