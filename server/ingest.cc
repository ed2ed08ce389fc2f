#include "server/ingest.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace sage::server {
namespace {

// What was seen fades by e in so many seconds of transfer: some dozens of chunks of a fast line. No
// pause counts for more: in a longer one the client had nothing to send, as far as is known.
constexpr double kFadeSeconds = 0.25;
// What was seen in so short a time says nothing of what would take longer than this: a line that
// seems so slow may just have been waiting for its clients, and a request is rather let try.
constexpr double kLongestForetold = 16 * kFadeSeconds;

double Seconds(Ingest::Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

void TransferRate::Observe(double bytes, double seconds) {
  seconds = std::clamp(seconds, 1e-9, kFadeSeconds);  // a clock may not have moved
  const double fresh = -std::expm1(-seconds / kFadeSeconds);
  bytes_ += fresh * (bytes * kFadeSeconds / seconds - bytes_);
  seconds_ += fresh * (kFadeSeconds - seconds_);
}

Ingest::Turn& Ingest::Turn::operator=(Turn&& other) noexcept {
  std::swap(ingest_, other.ingest_);
  std::swap(request_, other.request_);
  return *this;
}

Ingest::Turn::~Turn() {
  if (request_ == nullptr) return;
  const std::lock_guard lock(ingest_->mutex_);
  ingest_->Leave(*request_, Clock::now());
}

bool Ingest::Turn::Await(std::function<void()> come) {
  if (request_ == nullptr) return true;
  const std::lock_guard lock(ingest_->mutex_);
  if (!request_->waiting) return true;
  request_->come = std::move(come);
  return false;
}

void Ingest::Turn::GiveUp() {
  if (request_ == nullptr) return;
  const std::lock_guard lock(ingest_->mutex_);
  if (request_->waiting && request_->come != nullptr) {
    ingest_->calls_.push_back(std::move(request_->come));
    ingest_->wake_.notify_one();
  }
  ingest_->Leave(*request_, Clock::now());
}

void Ingest::Turn::Received(std::uint64_t bytes, bool open, Clock::time_point now) {
  if (request_ == nullptr) return;
  const std::lock_guard lock(ingest_->mutex_);
  if (request_->line == nullptr) return;
  Line& line = *request_->line;
  Observe(line, bytes, now);
  line.largest_chunk = std::max(line.largest_chunk, bytes);
  request_->active = now;
  request_->silent = false;
  request_->left.payload -= std::min(bytes, request_->left.payload);
  request_->busy = open && !request_->waiting;
  if (request_->left.payload == 0 && std::erase(line.sending, request_.get()) > 0) {
    line.received.push_back(request_.get());
  }
  ingest_->Advance(line, now);
}

void Ingest::Turn::Computed(std::uint64_t bytes, Clock::time_point now) {
  if (request_ == nullptr) return;
  const std::lock_guard lock(ingest_->mutex_);
  if (request_->line == nullptr) return;
  request_->ready += bytes;
  ingest_->Advance(*request_->line, now);
}

void Ingest::Turn::Sent(std::uint64_t bytes, Clock::time_point now) {
  if (request_ == nullptr) return;
  const std::lock_guard lock(ingest_->mutex_);
  if (request_->line == nullptr) return;
  Line& line = *request_->line;
  Observe(line, bytes, now);
  request_->ready -= std::min(bytes, request_->ready);
  request_->left.answer -= std::min(bytes, request_->left.answer);
  ingest_->Advance(line, now);
}

Ingest::Ingest(std::chrono::milliseconds patience)
    : patience_(patience), thread_([this] { Run(); }) {}

Ingest::~Ingest() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

Ingest::Turn Ingest::Join(const LineId& line, Load load, int priority, Clock::time_point now) {
  if (line.name.empty()) return {};
  auto request = std::make_unique<Request>();
  request->left = load;
  request->priority = priority;
  const std::lock_guard lock(mutex_);
  request->line = &LineOf(line, now);
  std::vector<Request*>& waiting = request->line->waiting;
  const auto first_after = std::find_if(waiting.begin(), waiting.end(), [&](const Request* other) {
    return other->priority < priority;
  });
  waiting.insert(first_after, request.get());
  if (load.payload == 0) Begin(*request, now);
  Advance(*request->line, now);
  if (request->waiting) wake_.notify_one();  // its line may fall silent
  return {this, std::move(request)};
}

Ingest::Arrival Ingest::Estimate(const LineId& line, Load load, int priority,
                                 Clock::time_point now) const {
  const std::lock_guard lock(mutex_);
  const auto found = lines_.find(line.name);
  if (found == lines_.end() || found->second.Forgotten(now)) return {};
  const double rate = found->second.rate.bytes_per_second();
  if (rate == 0) return {};
  const double own = static_cast<double>(load.bytes()) / rate;
  if (own > kLongestForetold) return {};
  // Beside a longer one it has as much on its way as that one has, and is through then.
  std::uint64_t before = 0;
  for (const Request* request : found->second.received) {
    before += std::min(request->left.answer, load.bytes());
  }
  for (const Request* request : found->second.sending) {
    if (request->busy) before += std::min(request->left.bytes(), load.bytes());
  }
  for (const Request* request : found->second.waiting) {
    if (request->priority >= priority) before += std::min(request->left.bytes(), load.bytes());
  }
  return {.before = static_cast<double>(before) / rate, .own = own};
}

std::size_t Ingest::waiting() const {
  const std::lock_guard lock(mutex_);
  std::size_t sum = 0;
  for (const auto& [name, line] : lines_) sum += line.waiting.size();
  return sum;
}

double Ingest::estimated_seconds() const {
  const std::lock_guard lock(mutex_);
  double most = 0;
  for (const auto& [name, line] : lines_) {
    const double rate = line.rate.bytes_per_second();
    if (rate == 0) continue;
    std::uint64_t left = 0;
    for (const auto* requests : {&line.waiting, &line.sending, &line.received}) {
      for (const Request* request : *requests) left += request->left.bytes();
    }
    most = std::max(most, static_cast<double>(left) / rate);
  }
  return most;
}

bool Ingest::Line::Forgotten(Clock::time_point now) const {
  return waiting.empty() && sending.empty() && received.empty() && now - active > kMemory;
}

bool Ingest::Line::Busy() const {
  const auto goes = [](const Request* request) {
    return request->ready > 0 || (request->busy && request->left.payload > 0);
  };
  return std::any_of(sending.begin(), sending.end(), goes) ||
         std::any_of(received.begin(), received.end(), goes);
}

Ingest::Line& Ingest::LineOf(const LineId& id, Clock::time_point now) {
  const auto found = lines_.find(id.name);
  if (found != lines_.end() && !found->second.Forgotten(now)) return found->second;
  std::erase_if(lines_, [&](const auto& line) { return line.second.Forgotten(now); });
  Line& line = lines_[id.name];
  line.width = id.width;
  return line;
}

Ingest::Request* Ingest::Next(const Line& line) {
  std::size_t busy = 0;
  std::uint64_t left = 0;
  std::uint64_t longest = 0;
  for (const Request* request : line.sending) {
    if (!request->busy || request->silent) continue;
    ++busy;
    left += request->left.payload;
    longest = std::max(longest, request->left.payload);
  }
  if (line.waiting.empty()) return nullptr;
  if (busy < line.width || left <= kAheadBytes) return line.waiting.front();
  // One that is short does not wait for one that is long.
  if (busy > line.width) return nullptr;
  const auto shorter =
      std::find_if(line.waiting.begin(), line.waiting.end(),
                   [&](const Request* other) { return other->left.payload < longest; });
  return shorter == line.waiting.end() ? nullptr : *shorter;
}

void Ingest::Begin(Request& request, Clock::time_point now) {
  Line& line = *request.line;
  std::erase(line.waiting, &request);
  request.waiting = false;
  line.active = now;
  request.active = now;
  request.busy = request.left.payload > 0;
  (request.busy ? line.sending : line.received).push_back(&request);
  if (request.come == nullptr) return;
  calls_.push_back(std::move(request.come));
  wake_.notify_one();
}

void Ingest::Advance(Line& line, Clock::time_point now) {
  while (Request* const next = Next(line)) Begin(*next, now);
  if (!line.Busy()) {
    line.busy_since.reset();
  } else if (!line.busy_since.has_value()) {
    line.busy_since = now;
  }
}

void Ingest::Observe(Line& line, std::uint64_t bytes, Clock::time_point now) {
  line.active = now;
  if (!line.busy_since.has_value()) return;
  line.rate.Observe(static_cast<double>(bytes), Seconds(now - *line.busy_since));
  line.busy_since = now;
}

void Ingest::Leave(Request& request, Clock::time_point now) {
  Line* const line = std::exchange(request.line, nullptr);
  if (line == nullptr) return;
  std::erase(line->waiting, &request);
  std::erase(line->sending, &request);
  std::erase(line->received, &request);
  request.waiting = false;
  line->active = now;
  Advance(*line, now);
}

Ingest::Clock::duration Ingest::Line::Patience(Clock::duration shortest) const {
  const double bytes_per_second = rate.bytes_per_second();
  if (bytes_per_second == 0) return shortest;
  const double apart = static_cast<double>(sending.size() * largest_chunk) / bytes_per_second;
  const auto twice = std::chrono::duration<double>(
      std::min(2 * apart, Seconds(Clock::duration(kLongestPatience))));
  return std::max(shortest, std::chrono::duration_cast<Clock::duration>(twice));
}

std::optional<Ingest::Clock::time_point> Ingest::PassOverSilent(Clock::time_point now) {
  std::optional<Clock::time_point> next;
  for (auto& [name, line] : lines_) {
    if (line.waiting.empty()) continue;
    const Clock::duration patience = line.Patience(patience_);
    for (Request* const request : line.sending) {
      request->silent |= request->busy && now - request->active >= patience;
    }
    Advance(line, now);
    if (line.waiting.empty()) continue;
    for (const Request* const request : line.sending) {
      if (!request->busy || request->silent) continue;
      const Clock::time_point silent = request->active + patience;
      if (!next.has_value() || silent < *next) next = silent;
    }
  }
  return next;
}

void Ingest::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (!calls_.empty()) {
      const std::function<void()> call = std::move(calls_.front());
      calls_.pop_front();
      lock.unlock();
      call();
      lock.lock();
      continue;
    }
    const std::optional<Clock::time_point> next = PassOverSilent(Clock::now());
    if (!calls_.empty()) continue;
    if (next.has_value()) {
      wake_.wait_until(lock, *next);
    } else {
      wake_.wait(lock);
    }
  }
}

}  // namespace sage::server
