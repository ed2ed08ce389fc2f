// Tenants: what each of them may keep at the server and have running.
#ifndef SAGE_SERVER_TENANTS_H_
#define SAGE_SERVER_TENANTS_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "server/account.h"

namespace sage::server {

struct TenantLimits {
  static constexpr std::uint64_t kNone = std::uint64_t{1} << 62;

  std::uint64_t tensor_bytes = kNone;  // of resident tensors
  std::uint64_t tensors = kNone;       // resident ones
  std::uint64_t streams = kNone;       // calls of Attend, AttendStream, Put and Get at a time
};

// Thread-safe; outlives its reservations.
class Tenant {
 public:
  Tenant(std::string name, const TenantLimits& limits)
      : name_(std::move(name)),
        tensor_bytes_(limits.tensor_bytes),
        tensors_(limits.tensors),
        streams_(limits.streams) {}

  const std::string& name() const { return name_; }
  Account& tensor_bytes() { return tensor_bytes_; }
  const Account& tensor_bytes() const { return tensor_bytes_; }
  Account& tensors() { return tensors_; }
  std::uint64_t max_streams() const { return streams_.limit(); }

  // A place for one more call. RESOURCE_EXHAUSTED, with a retry delay, where there is none.
  absl::StatusOr<Account::Reservation> OpenStream();

 private:
  const std::string name_;
  Account tensor_bytes_;
  Account tensors_;
  Account streams_;
};

// A call in progress: whose it is, and its place among those of the tenant. Move-only.
struct Caller {
  Tenant& tenant;
  Account::Reservation stream;  // given back before the client sees the end
};

// Thread-safe; tenants stay where they are.
class Tenants {
 public:
  // `limits` are those of a tenant that has none of its `own`.
  explicit Tenants(const TenantLimits& limits, std::map<std::string, TenantLimits> own = {})
      : limits_(limits), own_limits_(std::move(own)) {}

  Tenant& Of(const std::string& name);
  std::uint64_t tensor_bytes() const;  // kept by all tenants together

 private:
  const TenantLimits limits_;
  const std::map<std::string, TenantLimits> own_limits_;
  mutable std::mutex mutex_;
  std::map<std::string, Tenant> tenants_;  // guarded by mutex_
};

}  // namespace sage::server

#endif  // SAGE_SERVER_TENANTS_H_
