#include "client/cli/load/client_environment.h"

#include <sys/prctl.h>

#include <algorithm>
#include <chrono>

namespace sage::cli {
namespace {

using Clock = std::chrono::steady_clock;

std::discrete_distribution<std::size_t> ByWeight(const std::vector<MixedInputs>& mix) {
  std::vector<double> weights;
  weights.reserve(mix.size());
  for (const MixedInputs& mixed : mix) weights.push_back(mixed.weight);
  return {weights.begin(), weights.end()};
}

}  // namespace

ClientEnvironment::ClientEnvironment(std::vector<Client*> clients,
                                     const std::vector<MixedInputs>* mix, std::uint64_t seed,
                                     const std::atomic<bool>* stop)
    : clients_(std::move(clients)),
      mix_(*mix),
      stop_(stop),
      resident_(clients_.size()),
      generator_(seed),
      choice_(ByWeight(*mix)) {
  for (const MixedInputs& mixed : mix_) {
    const AttentionProblem& problem = mixed.inputs.problem;
    out_bytes_ = std::max(
        out_bytes_, static_cast<std::size_t>(problem.q_elements()) * SizeOf(problem.output_dtype));
  }
  // This thread sends: the kernel's usual 50 us of slack would delay every request that is due.
  prctl(PR_SET_TIMERSLACK, 1);
}

absl::Status ClientEnvironment::PutResident() {
  for (std::size_t i = 0; i < clients_.size(); ++i) {
    for (const MixedInputs& mixed : mix_) {
      std::optional<ResidentKv>& kept = resident_[i].emplace_back();
      if (!mixed.resident_kv) continue;
      absl::StatusOr<ResidentKv> put = ResidentKv::Put(clients_[i], mixed.inputs);
      if (!put.ok()) return put.status();
      kept = *std::move(put);
    }
  }
  return absl::OkStatus();
}

std::chrono::nanoseconds ClientEnvironment::Now() const { return Clock::now().time_since_epoch(); }

void ClientEnvironment::Send(Done done) {
  std::unique_ptr<Buffer> out;
  if (spare_buffers_.empty()) {
    out = std::make_unique<Buffer>(out_bytes_);
  } else {
    out = std::move(spare_buffers_.back());
    spare_buffers_.pop_back();
  }
  const std::size_t choice = choice_(generator_);
  AttendRequest request = MakeRequest(mix_[choice].inputs);
  request.out = out->data();
  if (mix_[choice].resident_kv) resident_[next_client_][choice]->Use(&request);
  Client& client = *clients_[next_client_];
  next_client_ = (next_client_ + 1) % clients_.size();
  // Shared, since a std::function is copied.
  auto arrived = std::make_shared<Arrived>();
  arrived->done = std::move(done);
  arrived->out = std::move(out);
  client.AttendAsync(std::move(request), [this, arrived](absl::StatusOr<AttendReport> report) {
    arrived->answer = {std::move(report), Now()};
    const std::lock_guard lock(mutex_);
    arrived_.push_back(std::move(*arrived));
    changed_.notify_one();  // under the lock: the last answer may end this object's life
  });
}

void ClientEnvironment::Wait(std::chrono::nanoseconds until) {
  std::vector<Arrived> arrived;
  {
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, Clock::time_point(until), [this] { return !arrived_.empty(); });
    arrived.swap(arrived_);
  }
  for (Arrived& each : arrived) {
    spare_buffers_.push_back(std::move(each.out));
    each.done(each.answer);
  }
}

}  // namespace sage::cli
