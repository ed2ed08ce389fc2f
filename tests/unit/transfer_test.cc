#include "server/transfer.h"

#include <cstring>
#include <memory>
#include <semaphore>
#include <utility>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/support/forwarding_backend.h"

namespace sage::server {
namespace {

thread_local bool in_callback = false;

// Marks the time that a thread spends in a callback of the backend.
class MarkingStream final : public testing::ForwardingStream {
 public:
  using ForwardingStream::ForwardingStream;
  absl::Status Then(std::function<void(absl::Status)> callback) override {
    return ForwardingStream::Then([callback = std::move(callback)](absl::Status status) {
      in_callback = true;
      callback(std::move(status));
      in_callback = false;
    });
  }
};

class MarkingBackend final : public testing::ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

 private:
  std::unique_ptr<Stream> Wrap(std::unique_ptr<Stream> stream) override {
    return std::make_unique<MarkingStream>(std::move(stream));
  }
};

// A device's callbacks must free nothing of the device; ends of calls do.
TEST(TransferTest, TellsOfItsCopiesInOrderAndOnAThreadOfItsOwn) {
  MarkingBackend backend(*CreateCpuBackend({.num_threads = 1}));
  auto transfer = *Transfer::Create(backend);
  constexpr int kCopies = 20;
  std::byte from[kCopies];
  std::byte to[kCopies] = {};
  std::memset(from, 7, sizeof(from));
  int told = 0;
  bool freed_in_callback = false;
  std::binary_semaphore all{0};
  for (int i = 0; i < kCopies; ++i) {
    auto owned = std::make_shared<Memory>(*backend.Allocate(MemoryKind::kDevice, 64));
    ASSERT_TRUE(transfer
                    ->ToDevice(to + i, from + i, 1,
                               [&, i, owned = std::move(owned)](const absl::Status& status) {
                                 EXPECT_TRUE(status.ok());
                                 EXPECT_EQ(told++, i);
                                 EXPECT_EQ(to[i], from[i]);
                                 freed_in_callback |= in_callback;
                                 if (told == kCopies) all.release();
                               })
                    .ok());
  }
  all.acquire();
  EXPECT_FALSE(freed_in_callback);
}

TEST(TransferTest, ItsEndWaitsForWhatRuns) {
  auto backend = *CreateCpuBackend({.num_threads = 1});
  std::byte memory[2] = {};
  int told = 0;
  {
    auto transfer = *Transfer::Create(*backend);
    for (int i = 0; i < 10; ++i) {
      ASSERT_TRUE(
          transfer->ToHost(memory, memory + 1, 1, [&](const absl::Status&) { ++told; }).ok());
    }
  }
  EXPECT_EQ(told, 10);
}

}  // namespace
}  // namespace sage::server
