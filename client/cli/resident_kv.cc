#include "client/cli/resident_kv.h"

namespace sage::cli {

absl::StatusOr<ResidentKv> ResidentKv::Put(Client* client, const ProblemInputs& inputs) {
  PutOptions options;
  options.placement_group = "sagectl";
  absl::StatusOr<RemoteTensor> k = client->Put(TensorRole::kK, inputs.problem, inputs.k, options);
  if (!k.ok()) return k.status();
  absl::StatusOr<RemoteTensor> v = client->Put(TensorRole::kV, inputs.problem, inputs.v, options);
  if (!v.ok()) return v.status();
  return ResidentKv(*std::move(k), *std::move(v));
}

void ResidentKv::Use(AttendRequest* request) const {
  request->k = nullptr;
  request->v = nullptr;
  request->resident.k = &k_;
  request->resident.v = &v_;
}

}  // namespace sage::cli
