// What is fuzzed: each function takes any bytes and aborts, or is stopped by a sanitizer, where the
// code that they are fed to breaks a promise.
#ifndef SAGE_TESTS_FUZZ_TARGETS_H_
#define SAGE_TESTS_FUZZ_TARGETS_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string_view>

namespace sage::fuzz {

using Input = std::span<const std::uint8_t>;

void Npy(Input input);          // the reader of .npy files
void Safetensors(Input input);  // the reader of .safetensors files
void Header(Input input);       // frames of data calls, and the headers in them
void Mask(Input input);         // packed masks and patterns
void Chunks(Input input);       // what a job accepts as payload
void Handles(Input input);      // the table of resident tensors, beside a model of it
void Config(Input input);       // TOML files: options and tokens

struct Target {
  std::string_view name;
  void (*run)(Input);
};
inline constexpr Target kTargets[] = {
    {"npy", Npy},       {"safetensors", Safetensors}, {"header", Header}, {"mask", Mask},
    {"chunks", Chunks}, {"handles", Handles},         {"config", Config},
};

// Stops the program where a promise is broken.
inline void Promise(bool kept, const char* what) {
  if (kept) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

}  // namespace sage::fuzz

#endif  // SAGE_TESTS_FUZZ_TARGETS_H_
