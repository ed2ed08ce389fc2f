#include "server/admission.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace sage::server {
namespace {

// A request takes tens of milliseconds to seconds: soon enough to find room, late enough not to
// hammer.
constexpr std::chrono::milliseconds kRetryDelay{100};

absl::Status Later(const absl::Status& status) {
  return absl::IsResourceExhausted(status) ? WithRetryDelay(status, kRetryDelay) : status;
}

}  // namespace

absl::StatusOr<Account::Reservation> Take(Account& account, std::uint64_t amount,
                                          absl::string_view subject) {
  if (amount > account.limit()) {
    return NeverFits(
        subject, absl::StrCat("the request needs ", amount, ", the limit is ", account.limit()));
  }
  if (std::optional<Account::Reservation> reservation = account.Reserve(amount)) {
    return *std::move(reservation);
  }
  return LimitReached(subject, absl::StrCat("the request needs ", amount, ", ", account.reserved(),
                                            " of ", account.limit(), " are in use"));
}

absl::StatusOr<Admission::Ticket> Admission::Admit(std::uint64_t host_bytes, Account& device,
                                                   std::uint64_t device_bytes) {
  absl::StatusOr<Account::Reservation> request = Take(requests_, 1, "server.concurrent_requests");
  if (!request.ok()) return Later(request.status());
  absl::StatusOr<Account::Reservation> host = Take(host_, host_bytes, "server.host_bytes");
  if (!host.ok()) return Later(host.status());
  absl::StatusOr<Account::Reservation> on_device =
      Take(device, device_bytes, "server.device_bytes");
  if (!on_device.ok()) return Later(on_device.status());
  return Ticket{*std::move(request), std::make_shared<Account::Reservation>(*std::move(host)),
                *std::move(on_device)};
}

}  // namespace sage::server
