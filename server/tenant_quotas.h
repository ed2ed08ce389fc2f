// What each tenant may keep at the server.
#ifndef SAGE_SERVER_TENANT_QUOTAS_H_
#define SAGE_SERVER_TENANT_QUOTAS_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "server/account.h"

namespace sage::server {

// An account of bytes for each tenant, all of one limit. Thread-safe; outlives its reservations.
class TenantQuotas {
 public:
  explicit TenantQuotas(std::uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  Account& Of(const std::string& tenant) {
    const std::lock_guard lock(mutex_);
    return accounts_.try_emplace(tenant, limit_bytes_).first->second;
  }

  // Of all tenants together.
  std::uint64_t reserved() const {
    const std::lock_guard lock(mutex_);
    std::uint64_t sum = 0;
    for (const auto& [tenant, account] : accounts_) sum += account.reserved();
    return sum;
  }

 private:
  const std::uint64_t limit_bytes_;
  mutable std::mutex mutex_;
  std::map<std::string, Account> accounts_;  // guarded by mutex_
};

}  // namespace sage::server

#endif  // SAGE_SERVER_TENANT_QUOTAS_H_
