// Makes the error that its argument names, to prove that a sanitizer build would report one.
#include <cstring>
#include <limits>
#include <memory>
#include <thread>

namespace {

int UseAfterFree() {
  auto owner = std::make_unique<int>(1);
  volatile int* const dangling = owner.get();
  owner.reset();
  return *dangling;
}

int Overflow(int addend) {
  volatile int sum = std::numeric_limits<int>::max();
  sum = sum + addend;
  return sum;
}

int Race() {
  int shared = 0;
  std::thread writer([&shared] { ++shared; });
  ++shared;
  writer.join();
  return shared;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  if (std::strcmp(argv[1], "use-after-free") == 0) return UseAfterFree() == 0 ? 0 : 1;
  if (std::strcmp(argv[1], "overflow") == 0) return Overflow(argc) == 0 ? 0 : 1;
  if (std::strcmp(argv[1], "race") == 0) return Race() == 0 ? 0 : 1;
  return 2;
}
