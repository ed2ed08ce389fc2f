// Who may start: byte accounts and a cap on requests, asked before any payload is read.
#ifndef SAGE_SERVER_ADMISSION_H_
#define SAGE_SERVER_ADMISSION_H_

#include <chrono>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/account.h"

namespace sage::server {

// Takes `amount` from an account, called `subject` in errors: FAILED_PRECONDITION where its limit
// is smaller than that, RESOURCE_EXHAUSTED where too much of it is in use.
absl::StatusOr<Account::Reservation> Take(Account& account, std::uint64_t amount,
                                          absl::string_view subject);

// Thread-safe; must outlive its tickets.
class Admission {
 public:
  // The right of one request to run; gives everything back when destroyed. Move-only. Host memory
  // is shared with output on its way to the client, which may be read after the request has ended.
  struct Ticket {
    Account::Reservation request;
    std::shared_ptr<Account::Reservation> host;
    Account::Reservation device;
  };

  Admission(std::uint64_t host_bytes, std::uint64_t max_requests)
      : host_(host_bytes), requests_(max_requests) {}

  // FAILED_PRECONDITION where a limit is smaller than what is asked for, RESOURCE_EXHAUSTED with a
  // retry delay where too much of it is in use.
  // `device` is the account of the device that the request is to run on; it outlives the ticket.
  absl::StatusOr<Ticket> Admit(std::uint64_t host_bytes, Account& device,
                               std::uint64_t device_bytes);

  Account& host() { return host_; }
  const Account& host() const { return host_; }
  std::uint64_t active_requests() const { return requests_.reserved(); }

  // Waits until no request is admitted, at most until `deadline`; whether that came about.
  bool AwaitIdle(std::chrono::steady_clock::time_point deadline) const {
    return requests_.AwaitEmpty(deadline);
  }

 private:
  Account host_;
  Account requests_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_ADMISSION_H_
