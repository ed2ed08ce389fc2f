// Whose payload is on its way, and how soon another's can be here and be answered.
//
// What one client sends over one connection comes in behind each other: that is a line. Its
// requests are told to send in turn, a few at a time, so that those that were admitted first are
// here first, instead of all of them too late together, and so that the next header, which travels
// behind what is on the connection, is answered soon. How fast a line moves, payload and answers
// together, is measured while something is on its way in it. A slow client slows its own line only;
// what lines share, this process and its network, shows in each of them.
#ifndef SAGE_SERVER_INGEST_H_
#define SAGE_SERVER_INGEST_H_

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace sage::server {

// Bytes a second, as seen lately. Externally synchronised.
class TransferRate {
 public:
  // `bytes` took `seconds`, in which nothing else went.
  void Observe(double bytes, double seconds);
  // 0 until anything was seen.
  double bytes_per_second() const { return seconds_ > 0 ? bytes_ / seconds_ : 0; }

 private:
  double bytes_ = 0;  // both fade with what is seen after them
  double seconds_ = 0;
};

// Thread-safe; outlives its turns. No lock is held while it calls anybody.
class Ingest {
 private:
  struct Line;

 public:
  using Clock = std::chrono::steady_clock;

  // Which line a request belongs to, and how many requests of it may send side by side. Without a
  // name: to none.
  struct LineId {
    std::string name = {};
    std::size_t width = 1;
  };

  // Bytes that travel for a request, in and out.
  struct Load {
    std::uint64_t payload = 0;
    std::uint64_t answer = 0;

    std::uint64_t bytes() const { return payload + answer; }
  };

  // The place of one request in its line, left on destruction. Move-only. One of no line, or
  // without payload, never waits.
  class Turn {
   public:
    Turn() = default;
    Turn(Turn&& other) noexcept { *this = std::move(other); }
    Turn& operator=(Turn&& other) noexcept;
    ~Turn();

    // Whether the client may be told to send. Where not, `come` is called once, on a thread of the
    // Ingest, when it may or after GiveUp(); the turn stays where it is until then.
    bool Await(std::function<void()> come);
    // Nothing more is going to travel.
    void GiveUp();
    // So much payload has come; `open`: the client is free to send on, and does not wait for
    // answers.
    void Received(std::uint64_t bytes, bool open, Clock::time_point now = Clock::now());
    // So much of the answer is ready to leave; has left.
    void Computed(std::uint64_t bytes, Clock::time_point now = Clock::now());
    void Sent(std::uint64_t bytes, Clock::time_point now = Clock::now());

   private:
    friend class Ingest;
    struct Request {
      Load left;
      std::uint64_t ready = 0;  // of the answer
      int priority = 0;
      Line* line = nullptr;        // null once it has left
      bool waiting = true;         // its turn has not come
      bool busy = false;           // may send, and does not wait for answers
      bool silent = false;         // but has not sent for long: others need not wait for it
      Clock::time_point active;    // when something came of it, or it was told to send
      std::function<void()> come;  // to be called, where somebody waits for it
    };
    Turn(Ingest* ingest, std::unique_ptr<Request> request)
        : ingest_(ingest), request_(std::move(request)) {}

    Ingest* ingest_ = nullptr;
    std::unique_ptr<Request> request_;  // null: never waits
  };

  explicit Ingest(std::chrono::milliseconds patience = kPatience);
  ~Ingest();

  // At the end of its line, but before requests of smaller priority.
  Turn Join(const LineId& line, Load load, int priority, Clock::time_point now = Clock::now());

  // Seconds, by estimate, that a request which joined now would wait for what travels for others,
  // and that its own takes. Both are 0 as long as nothing is known of the line, or too little for a
  // request that would take seconds by itself.
  struct Arrival {
    double before = 0;
    double own = 0;
  };
  Arrival Estimate(const LineId& line, Load load, int priority,
                   Clock::time_point now = Clock::now()) const;

  std::size_t waiting() const;       // requests whose turn has not come
  double estimated_seconds() const;  // until nothing travels for any that has joined

  // A request is told to send when no more than this is still to come in its line, so that the way
  // there and back is not lost: what a fast connection carries in a millisecond, one chunk of
  // clients.
  static constexpr std::uint64_t kAheadBytes = 1 << 20;
  // Of a request that may send and of which nothing has come for so long another need not wait for
  // it. Longer than the way to a client and back; on slow lines, twice what chunks of its senders
  // are apart, up to kLongestPatience.
  static constexpr std::chrono::milliseconds kPatience{300};
  static constexpr std::chrono::seconds kLongestPatience{2};
  // What is known of a line in which nothing happens is forgotten.
  static constexpr std::chrono::seconds kMemory{10};

 private:
  using Request = Turn::Request;
  struct Line {
    // Whether it has been without any request for so long that nothing is known of it any more.
    bool Forgotten(Clock::time_point now) const;
    // Whether something is on its way.
    bool Busy() const;
    // How long one of its senders may be without a chunk.
    Clock::duration Patience(Clock::duration shortest) const;

    std::size_t width = 1;
    std::vector<Request*> waiting;  // in their order
    std::vector<Request*> sending;
    std::vector<Request*> received;  // all payload is here
    TransferRate rate;
    std::uint64_t largest_chunk = 0;
    std::optional<Clock::time_point> busy_since;  // with nothing seen to go since then
    Clock::time_point active;                     // when anything was last known to happen
  };

  // All of the following with mutex_ held.
  Line& LineOf(const LineId& id, Clock::time_point now);
  // The next request of the line that may send now; null where none may.
  static Request* Next(const Line& line);
  void Begin(Request& request, Clock::time_point now);
  // After any change: lets those begin who may, and notes whether the line is busy.
  void Advance(Line& line, Clock::time_point now);
  // So many bytes have gone.
  static void Observe(Line& line, std::uint64_t bytes, Clock::time_point now);
  void Leave(Request& request, Clock::time_point now);
  // Passes over requests that have not sent for long; when the next one will not have.
  std::optional<Clock::time_point> PassOverSilent(Clock::time_point now);
  void Run();

  const std::chrono::milliseconds patience_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_.
  std::map<std::string, Line> lines_;
  std::deque<std::function<void()>> calls_;  // to be made
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_INGEST_H_
