#include "kernels/cpu/cpu_stream.h"

#include <cstring>
#include <future>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/launch.h"

namespace sage {
namespace {

absl::Status CheckKvTask(const KvTask& task) {
  if (task.num_heads < 1 || task.length_k < 0) {
    return absl::InvalidArgumentError(absl::StrCat("KV task of ", task.num_heads, " heads and ",
                                                   task.length_k,
                                                   " keys: need heads >= 1 and "
                                                   "keys >= 0"));
  }
  if (task.head_dim < 8 || task.head_dim > kMaxHeadDim || task.head_dim % 8 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "head_dim ", task.head_dim, ": need a multiple of 8 in [8, ", kMaxHeadDim, "]"));
  }
  if (task.dtype == DType::kFloat32) {
    return absl::InvalidArgumentError("dtype fp32 of q, k and v: need fp16 or bf16");
  }
  return CheckQuantizedKeys(task);
}

absl::Status CheckAttendTask(const AttendTask& task) {
  if (absl::Status status = CheckKvTask(task.kv); !status.ok()) return status;
  if (task.num_heads_q < 1 || task.num_heads_q % task.kv.num_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("task of ", task.num_heads_q,
                                                   " query heads: need a multiple of its ",
                                                   task.kv.num_heads, " KV heads"));
  }
  if (task.q_begin < 0 || task.q_begin % kBlockM != 0 || task.q_rows < 0) {
    return absl::InvalidArgumentError(absl::StrCat("rows from ", task.q_begin, ", ", task.q_rows,
                                                   " of them: need a start that is a multiple of ",
                                                   kBlockM));
  }
  return CheckQuantizedQueries(task);
}

}  // namespace

std::uint64_t EventState::Announce() {
  const std::lock_guard lock(mutex_);
  pending_.insert(++announced_);
  return announced_;
}

std::uint64_t EventState::announced() const {
  const std::lock_guard lock(mutex_);
  return announced_;
}

void EventState::Reach(std::uint64_t number) {
  {
    const std::lock_guard lock(mutex_);
    pending_.erase(number);
    if (number == announced_) reached_at_ = std::chrono::steady_clock::now();
  }
  changed_.notify_all();
}

void EventState::AwaitReached(std::uint64_t number) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return pending_.count(number) == 0; });
}

absl::StatusOr<std::chrono::steady_clock::time_point> EventState::ReachedAt() const {
  const std::lock_guard lock(mutex_);
  if (announced_ == 0) return absl::FailedPreconditionError("the event was never recorded");
  if (pending_.count(announced_) != 0) {
    return absl::FailedPreconditionError("the event has not been reached");
  }
  return reached_at_;
}

absl::StatusOr<double> CpuEvent::SecondsSince(const Event& earlier) const {
  const auto end = state_->ReachedAt();
  if (!end.ok()) return end.status();
  const auto begin = static_cast<const CpuEvent&>(earlier).state_->ReachedAt();
  if (!begin.ok()) return begin.status();
  return std::chrono::duration<double>(*end - *begin).count();
}

absl::Status CpuStream::CopyToDevice(void* device, const void* host, std::size_t bytes) {
  queue_.Add([=] {
    if (bytes != 0) std::memcpy(device, host, bytes);
    return absl::OkStatus();
  });
  return absl::OkStatus();
}

absl::Status CpuStream::CopyToHost(void* host, const void* device, std::size_t bytes) {
  return CopyToDevice(host, device, bytes);
}

absl::Status CpuStream::PrepareKv(const KvTask& task, void* prepared) {
  if (absl::Status status = CheckKvTask(task); !status.ok()) return status;
  queue_.Add([this, task, prepared] {
    LaunchPrepareKv(task, static_cast<std::byte*>(prepared), pool_);
    return absl::OkStatus();
  });
  return absl::OkStatus();
}

absl::Status CpuStream::Attend(std::span<const AttendTask> tasks, void* workspace) {
  for (const AttendTask& task : tasks) {
    if (absl::Status status = CheckAttendTask(task); !status.ok()) return status;
  }
  queue_.Add([this, tasks = std::vector<AttendTask>(tasks.begin(), tasks.end()), workspace] {
    return LaunchAttend(tasks, static_cast<std::byte*>(workspace), pool_);
  });
  return absl::OkStatus();
}

absl::Status CpuStream::Record(Event& event) {
  const std::shared_ptr<EventState>& state = static_cast<CpuEvent&>(event).state();
  queue_.AddSignal([state, number = state->Announce()] { state->Reach(number); });
  return absl::OkStatus();
}

absl::Status CpuStream::Wait(const Event& event) {
  const std::shared_ptr<EventState>& state = static_cast<const CpuEvent&>(event).state();
  queue_.AddSignal([state, number = state->announced()] { state->AwaitReached(number); });
  return absl::OkStatus();
}

absl::Status CpuStream::Then(std::function<void(absl::Status)> callback) {
  queue_.AddCallback(std::move(callback));
  return absl::OkStatus();
}

absl::Status CpuStream::Synchronize() {
  const auto done = std::make_shared<std::promise<absl::Status>>();
  queue_.AddCallback([done](absl::Status status) { done->set_value(std::move(status)); });
  return done->get_future().get();
}

}  // namespace sage
