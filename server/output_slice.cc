#include "server/output_slice.h"

namespace sage::server {

grpc::Slice SliceOf(const std::shared_ptr<Output>& output, std::uint64_t offset,
                    std::uint64_t size) {
  auto owner = std::make_unique<std::shared_ptr<Output>>(output);
  void* const data = output->slab.data() + offset;
  return {data, size, [](void* raw) { delete static_cast<std::shared_ptr<Output>*>(raw); },
          owner.release()};
}

}  // namespace sage::server
