// What Client offers for tensors that stay at the server.
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/time/clock.h"
#include "client/client.h"
#include "client/internal/channels.h"
#include "client/internal/restore_wait.h"
#include "client/internal/tensor_home.h"
#include "client/internal/wire_header.h"
#include "client/remote_tensor.h"
#include "proto/wire/enums.h"
#include "proto/wire/random_id.h"

namespace sage {
namespace {

void SetOptions(const PutOptions& options, v1::TensorSpec* spec) {
  spec->set_placement_group(options.placement_group);
  if (options.lease <= absl::ZeroDuration()) return;
  const std::int64_t nanos = absl::ToInt64Nanoseconds(options.lease);
  spec->mutable_lease()->set_seconds(nanos / 1'000'000'000);
  spec->mutable_lease()->set_nanos(static_cast<std::int32_t>(nanos % 1'000'000'000));
}

v1::TensorSpec SpecOf(v1::TensorRole role, const AttentionProblem& problem, DType dtype) {
  const bool kv = role == v1::TENSOR_ROLE_K || role == v1::TENSOR_ROLE_V;
  v1::TensorSpec spec;
  spec.set_role(role);
  spec.set_dtype(ToProto(dtype));
  spec.set_layout(problem.layout == Layout::kHnd ? v1::LAYOUT_HND : v1::LAYOUT_NHD);
  spec.set_batch(problem.batch);
  spec.set_num_heads(kv ? problem.num_heads_kv : problem.num_heads_q);
  spec.set_seqlen(kv ? problem.seqlen_k : problem.seqlen_q);
  spec.set_head_dim(problem.head_dim);
  return spec;
}

std::size_t BytesOf(const v1::TensorSpec& spec, DType dtype) {
  return spec.batch() * spec.num_heads() * spec.seqlen() * spec.head_dim() * SizeOf(dtype);
}

}  // namespace

absl::StatusOr<RemoteTensor> Client::Put(TensorRole role, const AttentionProblem& problem,
                                         const void* data, const PutOptions& options) {
  if (absl::Status status = ValidateProblem(problem); !status.ok()) return status;
  if (data == nullptr) return absl::InvalidArgumentError("data: a null pointer");
  const v1::TensorRole wire_role = role == TensorRole::kQ   ? v1::TENSOR_ROLE_Q
                                   : role == TensorRole::kK ? v1::TENSOR_ROLE_K
                                                            : v1::TENSOR_ROLE_V;
  auto state = std::make_shared<internal::TensorState>();
  state->spec = SpecOf(wire_role, problem, problem.dtype);
  if (role == TensorRole::kK) state->spec.add_precisions(ToProto(problem.precision));
  state->data = static_cast<const std::byte*>(data);
  state->bytes = BytesOf(state->spec, problem.dtype);
  return Keep(std::move(state), options);
}

absl::StatusOr<RemoteTensor> Client::PutMask(const AttentionProblem& problem,
                                             const RequestMask& mask, const PutOptions& options) {
  if (absl::Status status = ValidateProblem(problem); !status.ok()) return status;
  if (absl::Status status = internal::CheckMask(problem, mask); !status.ok()) return status;
  AttendRequest request;
  request.problem = problem;
  request.mask = mask;
  const v1::AttendHeader header = internal::MakeHeader(request);
  if (!header.has_mask()) return absl::InvalidArgumentError("mask: none, which needs no tensor");
  auto state = std::make_shared<internal::TensorState>();
  state->spec.set_role(v1::TENSOR_ROLE_MASK);
  *state->spec.mutable_mask() = header.mask();
  *state->spec.mutable_mask_shape() = header.shape();
  const v1::PackedBlockMask& packed = header.mask().packed();
  state->bytes = header.mask().has_packed() ? packed.bits().size()
                                            : problem.tiles_q() * CeilDiv(problem.blocks_k(), 8);
  return Keep(std::move(state), options);
}

absl::StatusOr<RemoteTensor> Client::PutOutput(const AttentionProblem& problem,
                                               const PutOptions& options) {
  if (absl::Status status = ValidateProblem(problem); !status.ok()) return status;
  auto state = std::make_shared<internal::TensorState>();
  state->spec = SpecOf(v1::TENSOR_ROLE_OUTPUT, problem, problem.output_dtype);
  state->bytes = BytesOf(state->spec, problem.output_dtype);
  return Keep(std::move(state), options);
}

absl::StatusOr<RemoteTensor> Client::Keep(std::shared_ptr<internal::TensorState> state,
                                          const PutOptions& options) {
  if (absl::Status one = internal::CheckOneServer(options_.target); !one.ok()) return one;
  SetOptions(options, &state->spec);
  // Tells the put from all others: one that is repeated stores nothing.
  state->idempotency_key = RandomId();
  if (absl::Status status = home_->Put(state, absl::Now() + options.timeout); !status.ok()) {
    return status;
  }
  return RemoteTensor(home_, std::move(state));
}

std::shared_ptr<internal::RestoreWait> Client::RestoreTensors(
    const ResidentTensors& tensors, absl::Time deadline,
    std::function<void(absl::Status)> restored) {
  // The caller's objects may go once the wait is over.
  std::vector<
      std::pair<std::shared_ptr<internal::TensorHome>, std::shared_ptr<internal::TensorState>>>
      used;
  for (const RemoteTensor* tensor : {tensors.q, tensors.k, tensors.v, tensors.mask, tensors.out}) {
    if (tensor != nullptr) used.emplace_back(tensor->home_, tensor->state_);
  }
  auto wait = internal::RestoreWait::Start(used.size(), deadline, std::move(restored));
  for (const auto& [home, state] : used) home->Restore(state, wait);
  return wait;
}

RemoteTensor::RemoteTensor(std::shared_ptr<internal::TensorHome> home,
                           std::shared_ptr<internal::TensorState> state)
    : home_(std::move(home)), state_(std::move(state)) {}

RemoteTensor& RemoteTensor::operator=(RemoteTensor&& other) noexcept {
  std::swap(home_, other.home_);
  std::swap(state_, other.state_);
  return *this;
}

RemoteTensor::~RemoteTensor() {
  if (state_ != nullptr) home_->Release(std::move(state_));
}

std::size_t RemoteTensor::bytes() const { return state_->bytes; }

absl::Status RemoteTensor::Get(void* data, absl::Duration timeout) const {
  return home_->Get(*state_, static_cast<std::byte*>(data), absl::Now() + timeout);
}

absl::Status RemoteTensor::Restore(absl::Duration timeout) const {
  // Shared, since the library may still be leaving set_value() when the answer is here.
  const auto result = std::make_shared<std::promise<absl::Status>>();
  home_->Restore(
      state_, internal::RestoreWait::Start(1, absl::Now() + timeout, [result](absl::Status status) {
        result->set_value(std::move(status));
      }));
  return result->get_future().get();
}

v1::TensorHandle RemoteTensor::handle() const {
  const std::lock_guard lock(state_->mutex);
  return state_->handle;
}

}  // namespace sage
