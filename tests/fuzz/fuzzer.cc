// libFuzzer's program for all targets: sage-fuzz TARGET [LIBFUZZER ARGUMENTS...].
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "tests/fuzz/targets.h"

namespace {

const sage::fuzz::Target* target = nullptr;

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  for (const sage::fuzz::Target& known : sage::fuzz::kTargets) {
    if (*argc > 1 && known.name == (*argv)[1]) target = &known;
  }
  if (target == nullptr) {
    std::fputs("usage: sage-fuzz TARGET [LIBFUZZER ARGUMENTS...]; targets:", stderr);
    for (const auto& known : sage::fuzz::kTargets) std::fprintf(stderr, " %s", known.name.data());
    std::fputc('\n', stderr);
    std::exit(2);
  }
  (*argv)[1] = (*argv)[0];
  ++*argv;
  --*argc;
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  target->run({data, size});
  return 0;
}
