#include "server/stall_watch.h"

#include <atomic>
#include <chrono>
#include <semaphore>
#include <thread>

#include "gtest/gtest.h"

namespace sage::server {
namespace {

// Takes its time whenever it is asked.
class SlowCall final : public Stallable {
 public:
  void CheckStall(std::chrono::steady_clock::time_point /*now*/) override {
    ++asked;
    begun.release();
    go_on.acquire();
    over = true;
  }
  std::atomic<int> asked = 0;
  std::atomic<bool> over = false;
  std::counting_semaphore<> begun{0}, go_on{0};
};

class QuickCall final : public Stallable {
 public:
  void CheckStall(std::chrono::steady_clock::time_point /*now*/) override { asked.release(); }
  std::counting_semaphore<> asked{0};
};

TEST(StallWatchTest, ACallThatIsBeingAskedHoldsUpNobodyButItsOwnRemoval) {
  StallWatch watch(std::chrono::milliseconds(1));
  SlowCall slow;
  watch.Add(&slow);
  slow.begun.acquire();
  QuickCall quick;
  watch.Add(&quick);  // these return although `slow` does not
  watch.Remove(&quick);
  std::thread remover([&] {
    watch.Remove(&slow);
    EXPECT_TRUE(slow.over);
  });
  slow.go_on.release(1 << 20);  // however often it is asked before it is removed
  remover.join();
  const int asked = slow.asked;
  watch.Add(&quick);
  quick.asked.acquire();
  quick.asked.acquire();
  watch.Remove(&quick);
  EXPECT_EQ(slow.asked, asked) << "asked after its removal";
}

// What gRPC may do where a check ends a call.
TEST(StallWatchTest, ACallMayBeRemovedByItsOwnCheck) {
  class Leaving final : public Stallable {
   public:
    explicit Leaving(StallWatch& watch) : watch_(watch) {}
    void CheckStall(std::chrono::steady_clock::time_point /*now*/) override {
      watch_.Remove(this);
      left.release();
    }
    std::binary_semaphore left{0};

   private:
    StallWatch& watch_;
  };
  StallWatch watch(std::chrono::milliseconds(1));
  Leaving call(watch);
  watch.Add(&call);
  call.left.acquire();
  QuickCall next;
  watch.Add(&next);
  next.asked.acquire();
  watch.Remove(&next);
}

}  // namespace
}  // namespace sage::server
