// Files of tensors: whatever is read lies within the file.
#include <cstddef>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <utility>

#include "client/io/npy.h"
#include "client/io/safetensors.h"
#include "tests/fuzz/targets.h"

namespace sage::fuzz {
namespace {

// A mapped file begins on a page, so that alignment within the file is alignment in memory.
class MappedCopy {
 public:
  explicit MappedCopy(Input input)
      : size_(input.size()), bytes_(new (std::align_val_t{64}) std::byte[size_ + 1]) {
    std::copy_n(reinterpret_cast<const std::byte*>(input.data()), size_, bytes_.get());
  }
  std::span<const std::byte> file() const { return {bytes_.get(), size_}; }

 private:
  struct Delete {
    void operator()(std::byte* bytes) const { ::operator delete[](bytes, std::align_val_t{64}); }
  };
  std::size_t size_;
  std::unique_ptr<std::byte[], Delete> bytes_;
};

void CheckWithin(const TensorView& tensor, std::span<const std::byte> file) {
  std::size_t bytes = SizeOf(tensor.type);
  for (const std::int64_t length : tensor.shape) {
    Promise(length >= 0, "a length is not negative");
    bytes *= static_cast<std::size_t>(length);
  }
  if (bytes == 0) return;
  const auto* const data = static_cast<const std::byte*>(tensor.data);
  Promise(data >= file.data() && data + bytes <= file.data() + file.size(),
          "a tensor lies within its file");
}

}  // namespace

void Npy(Input input) {
  const MappedCopy copy(input);
  const auto tensor = ParseNpy(copy.file());
  if (tensor.ok()) CheckWithin(*tensor, copy.file());
}

void Safetensors(Input input) {
  const MappedCopy copy(input);
  const auto tensors = ParseSafetensors(copy.file());
  if (!tensors.ok()) return;
  for (const auto& [name, tensor] : *tensors) CheckWithin(tensor, copy.file());
}

}  // namespace sage::fuzz
