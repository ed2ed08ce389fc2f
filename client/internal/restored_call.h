// A call on resident tensors, sent once more where the server had lost some.
#ifndef SAGE_CLIENT_INTERNAL_RESTORED_CALL_H_
#define SAGE_CLIENT_INTERNAL_RESTORED_CALL_H_

#include <functional>
#include <memory>

#include "client/client.h"
#include "client/internal/restore_wait.h"

namespace sage::internal {

// Starts the call; its callback is called once, maybe before this returns.
using CallStarter = std::function<AttendCall(Client::AttendCallback)>;

// Has the call's tensors put again; see RestoreWait::Start().
using RestoreStarter = std::function<std::shared_ptr<RestoreWait>(RestoreWait::Done)>;

// `done` is called once, with what the call ends with, unless that is NOT_FOUND: then with what
// becomes of it after the tensors are put again, or with why they are not.
AttendCall StartRestoredCall(CallStarter call, RestoreStarter restore, Client::AttendCallback done);

}  // namespace sage::internal

#endif  // SAGE_CLIENT_INTERNAL_RESTORED_CALL_H_
