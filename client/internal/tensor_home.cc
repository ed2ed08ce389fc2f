#include "client/internal/tensor_home.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/internal/status.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"

namespace sage::internal {
namespace {

constexpr std::size_t kChunkBytes = 1 << 20;
constexpr std::size_t kMaxHandles = 1024;  // of one Release
// For answers to small calls, where nobody waits for them.
constexpr absl::Duration kPatience = absl::Seconds(5);
constexpr absl::Duration kPutPatience = absl::Minutes(5);
// Between attempts to renew while the server does not answer.
constexpr absl::Duration kRenewalPause = absl::Milliseconds(200);

void SetDeadline(grpc::ClientContext& context, absl::Time deadline) {
  if (deadline != absl::InfiniteFuture()) context.set_deadline(absl::ToChronoTime(deadline));
}

// A lease is renewed when half of it is over.
absl::Time RenewalTime(const google::protobuf::Duration& lease) {
  return absl::Now() + (absl::Seconds(lease.seconds()) + absl::Nanoseconds(lease.nanos())) / 2;
}

v1::TensorHandle HandleOf(TensorState& state) {
  const std::lock_guard lock(state.mutex);
  return state.handle;
}

}  // namespace

TensorHome::TensorHome(std::shared_ptr<grpc::Channel> channel, std::string target)
    : target_(std::move(target)),
      stub_(v1::Tensors::NewStub(channel)),
      thread_([this] { Run(); }) {}

TensorHome::~TensorHome() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

absl::Status TensorHome::Put(const std::shared_ptr<TensorState>& state, absl::Time deadline) {
  {
    const std::lock_guard lock(state->put_mutex);
    if (absl::Status status = Send(*state, deadline); !status.ok()) return status;
  }
  {
    const std::lock_guard lock(mutex_);
    kept_.insert(state);
    changed_ = true;
  }
  wake_.notify_one();
  return absl::OkStatus();
}

absl::Status TensorHome::Send(TensorState& state, absl::Time deadline) {
  grpc::ClientContext context;
  SetDeadline(context, deadline);
  {
    const std::lock_guard lock(state.mutex);
    if (state.released) return absl::CancelledError("the tensor was released");
    state.put_call = &context;
  }
  v1::PutResponse response;
  const auto writer = stub_->Put(&context, &response);
  v1::PutRequest request;
  *request.mutable_spec() = state.spec;
  request.set_idempotency_key(state.idempotency_key);
  bool open = writer->Write(request);
  request.clear_spec();
  request.clear_idempotency_key();
  request.mutable_chunk()->set_tensor(state.spec.role());
  const std::size_t payload = state.data == nullptr ? 0 : state.bytes;
  for (std::size_t at = 0; open && at < payload; at += kChunkBytes) {
    request.mutable_chunk()->set_offset(at);
    request.set_data(state.data + at, std::min(kChunkBytes, payload - at));
    open = writer->Write(request);
  }
  writer->WritesDone();
  const grpc::Status status = writer->Finish();
  const std::lock_guard lock(state.mutex);
  state.put_call = nullptr;
  if (!status.ok()) return FromGrpc(status, target_);
  state.handle = response.handle();
  state.renew_at = RenewalTime(response.lease());
  return absl::OkStatus();
}

void TensorHome::Restore(std::shared_ptr<TensorState> state, std::shared_ptr<RestoreWait> wait) {
  {
    const std::lock_guard lock(mutex_);
    wanted_.push_back({std::move(state), std::move(wait)});
    changed_ = true;
  }
  wake_.notify_one();
}

void TensorHome::RestoreAll(const std::vector<Wanted>& wanted) {
  std::map<TensorState*, absl::Status> outcomes;  // several callers may want the same
  for (const auto& [state, wait] : wanted) {
    const auto [outcome, is_new] = outcomes.try_emplace(state.get());
    if (is_new) outcome->second = RestoreNow(*state);
    wait->Tell(outcome->second);
  }
}

absl::Status TensorHome::RestoreNow(TensorState& state) {
  const std::lock_guard lock(state.put_mutex);
  grpc::ClientContext context;
  SetDeadline(context, absl::Now() + kPatience);
  v1::StatRequest request;
  *request.mutable_handle() = HandleOf(state);
  v1::StatResponse response;
  const absl::Status known = FromGrpc(stub_->Stat(&context, request, &response), target_);
  return absl::IsNotFound(known) ? Send(state, absl::Now() + kPutPatience) : known;
}

absl::Status TensorHome::Get(TensorState& state, std::byte* data, absl::Time deadline) {
  grpc::ClientContext context;
  SetDeadline(context, deadline);
  v1::GetRequest request;
  *request.mutable_handle() = HandleOf(state);
  const auto reader = stub_->Get(&context, request);
  v1::GetResponse response;
  std::size_t received = 0;
  while (reader->Read(&response)) {
    const std::string& chunk = response.data();
    if (response.chunk().offset() != received || chunk.size() > state.bytes - received) {
      context.TryCancel();
      reader->Finish();
      return absl::InternalError(absl::StrCat(
          "the server broke the protocol: ", chunk.size(), " bytes at offset ",
          response.chunk().offset(), " where ", received, " of ", state.bytes, " had come"));
    }
    std::memcpy(data + received, chunk.data(), chunk.size());
    received += chunk.size();
    response.Clear();
  }
  if (absl::Status status = FromGrpc(reader->Finish(), target_); !status.ok()) return status;
  if (received == state.bytes) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("the server broke the protocol: it sent ", received,
                                          " of ", state.bytes, " bytes"));
}

void TensorHome::Release(std::shared_ptr<TensorState> state) {
  {
    const std::lock_guard lock(state->mutex);
    state->released = true;
    if (state->put_call != nullptr) state->put_call->TryCancel();
  }
  { const std::lock_guard put_is_over(state->put_mutex); }
  {
    const std::lock_guard lock(mutex_);
    kept_.erase(state);
    released_.push_back(std::move(state));
    changed_ = true;
  }
  wake_.notify_one();
}

void TensorHome::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_ = false;
    if (!released_.empty()) {
      const std::vector<std::shared_ptr<TensorState>> released = std::exchange(released_, {});
      lock.unlock();
      SendReleases(released);
      lock.lock();
      continue;
    }
    if (stopping_) return;
    if (!wanted_.empty()) {
      const std::vector<Wanted> wanted = std::exchange(wanted_, {});
      lock.unlock();
      RestoreAll(wanted);
      lock.lock();
      continue;
    }
    const absl::Time now = absl::Now();
    absl::Time next = absl::InfiniteFuture();
    std::vector<std::shared_ptr<TensorState>> due;
    for (const std::shared_ptr<TensorState>& state : kept_) {
      const std::lock_guard state_lock(state->mutex);
      if (state->renew_at <= now) due.push_back(state);
      next = std::min(next, state->renew_at);
    }
    if (!due.empty()) {
      lock.unlock();
      for (const std::shared_ptr<TensorState>& state : due) {
        if (HasMoreUrgent()) break;
        Renew(*state);
      }
      due.clear();
      lock.lock();
      continue;
    }
    const auto changed = [this] { return changed_ || stopping_; };
    if (next == absl::InfiniteFuture()) {
      wake_.wait(lock, changed);
    } else {
      wake_.wait_for(lock, absl::ToChronoNanoseconds(next - now), changed);
    }
  }
}

bool TensorHome::HasMoreUrgent() {
  const std::lock_guard lock(mutex_);
  return changed_ || stopping_;
}

void TensorHome::Renew(TensorState& state) {
  grpc::ClientContext context;
  SetDeadline(context, absl::Now() + kPatience);
  v1::RenewRequest request;
  *request.add_handles() = HandleOf(state);
  if (state.spec.has_lease()) *request.mutable_lease() = state.spec.lease();
  v1::RenewResponse response;
  absl::Status status = FromGrpc(stub_->Renew(&context, request, &response), target_);
  if (status.ok()) {
    const std::lock_guard lock(state.mutex);
    state.renew_at = RenewalTime(response.lease());
    return;
  }
  if (absl::IsNotFound(status)) {
    if (state.spec.role() == v1::TENSOR_ROLE_OUTPUT) {
      // What was written is lost: whoever asks for it is to be told so.
      const std::lock_guard lock(state.mutex);
      state.renew_at = absl::InfiniteFuture();
      return;
    }
    status = RestoreNow(state);
    if (status.ok()) return;
  }
  const std::lock_guard lock(state.mutex);
  state.renew_at = absl::Now() + kRenewalPause;
}

void TensorHome::SendReleases(const std::vector<std::shared_ptr<TensorState>>& states) {
  for (std::size_t begin = 0; begin < states.size(); begin += kMaxHandles) {
    v1::ReleaseRequest request;
    for (std::size_t i = begin; i < std::min(states.size(), begin + kMaxHandles); ++i) {
      *request.add_handles() = HandleOf(*states[i]);
    }
    grpc::ClientContext context;
    SetDeadline(context, absl::Now() + kPatience);
    v1::ReleaseResponse response;
    // Where this fails, the leases end by themselves.
    stub_->Release(&context, request, &response);
  }
}

}  // namespace sage::internal
