// One request as several streams that share its id, a connection each.
#ifndef SAGE_CLIENT_INTERNAL_STRIPED_CALL_H_
#define SAGE_CLIENT_INTERNAL_STRIPED_CALL_H_

#include <functional>
#include <vector>

#include "client/client.h"
#include "client/internal/stripes.h"

namespace sage::internal {

// Starts one stripe; its callback is called once, maybe before this returns.
using StripeStarter = std::function<AttendCall(Stripe, Client::AttendCallback)>;

// Starts all stripes, which were made of `request`, at least two. `done` is called once all have
// ended, with the sum of their reports, or with the first failure, upon which the others are
// cancelled. The request's hooks are called for it as a whole.
AttendCall StartStripedCall(const AttendRequest& request, std::vector<Stripe> stripes,
                            const StripeStarter& start, Client::AttendCallback done);

}  // namespace sage::internal

#endif  // SAGE_CLIENT_INTERNAL_STRIPED_CALL_H_
