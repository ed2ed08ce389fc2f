// A device of one thread for all inputs of a target.
#ifndef SAGE_TESTS_FUZZ_DEVICE_H_
#define SAGE_TESTS_FUZZ_DEVICE_H_

#include <memory>

#include "kernels/cpu/cpu_backend.h"
#include "server/device.h"

namespace sage::fuzz {

inline server::Device& SharedDevice() {
  static const std::unique_ptr<server::Device> device =
      *server::Device::Create(*CreateCpuBackend({.num_threads = 1}), 64 << 20, {});
  return *device;
}

}  // namespace sage::fuzz

#endif  // SAGE_TESTS_FUZZ_DEVICE_H_
