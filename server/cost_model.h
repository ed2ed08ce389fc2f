// How long a device takes for its work, as admission and the queue estimate it.
//
//   seconds = sum over resources of rate * amount
//
// Rates are measured when the server starts and corrected by what launches really took: each rate
// in proportion to the square of its part in the estimate, so that small launches correct the cost
// of a launch and large ones that of an operation (the projection of Kaczmarz, damped).
#ifndef SAGE_SERVER_COST_MODEL_H_
#define SAGE_SERVER_COST_MODEL_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <mutex>

#include "kernels/attention.h"

namespace sage::server {

// Amounts of what takes time on a device.
class DeviceWork {
 public:
  static constexpr std::size_t kPrecisions = 3;
  // Launches; bytes copied between host and device; elements of k prepared, by precision;
  // operations (4 pairs head_dim, of pairs of a row and a key that are computed) by precision and
  // by the kernel's head_dim, 64 or 128.
  static constexpr std::size_t kLaunches = 0;
  static constexpr std::size_t kBytesCopied = 1;
  static constexpr std::size_t kElementsPrepared = 2;
  static constexpr std::size_t kOperations = kElementsPrepared + kPrecisions;
  static constexpr std::size_t kResources = kOperations + 2 * kPrecisions;

  static std::size_t ElementsPrepared(Precision precision) {
    return kElementsPrepared + static_cast<std::size_t>(precision);
  }
  static std::size_t Operations(Precision precision, std::int64_t head_dim) {
    return kOperations + 2 * static_cast<std::size_t>(precision) + (head_dim > 64 ? 1 : 0);
  }

  double& operator[](std::size_t resource) { return amounts_[resource]; }
  double operator[](std::size_t resource) const { return amounts_[resource]; }
  DeviceWork& operator+=(const DeviceWork& other) {
    for (std::size_t i = 0; i < kResources; ++i) amounts_[i] += other.amounts_[i];
    return *this;
  }

 private:
  std::array<double, kResources> amounts_ = {};
};

// Thread-safe.
class CostModel {
 public:
  using Clock = std::chrono::steady_clock;
  using Rates = std::array<double, DeviceWork::kResources>;  // seconds of one of each

  // Until this is called, nothing takes any time.
  void Calibrate(const Rates& rates);

  double Seconds(const DeviceWork& work) const;

  // The device took `seconds` for `work`. One launch changes a rate by a fraction only, and what
  // was seen counts for kMemory: after that, the rates as calibrated, or the best seen since, hold
  // again, so that a machine that was slow for a while is not thought slow for ever.
  void Observe(const DeviceWork& work, double seconds, Clock::time_point now = Clock::now());

  static constexpr std::chrono::seconds kMemory{10};

 private:
  const Rates& RatesAt(Clock::time_point now) const {  // with mutex_ held
    return now < forgotten_ ? seen_ : best_;
  }

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  Rates best_ = {};
  Rates seen_ = {};
  Clock::time_point forgotten_;  // when seen_ ceases to count
};

}  // namespace sage::server

#endif  // SAGE_SERVER_COST_MODEL_H_
