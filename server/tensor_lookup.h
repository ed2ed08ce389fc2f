// Handles of the wire, as one tenant of one server may use them.
#ifndef SAGE_SERVER_TENSOR_LOOKUP_H_
#define SAGE_SERVER_TENSOR_LOOKUP_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sage/v1/types.pb.h"
#include "server/tensor_store.h"

namespace sage::server {

struct TensorLookup {
  TensorStore& store;
  const std::string& tenant;
  const std::string& server_id;

  // INVALID_ARGUMENT where it is no handle, naming `field`.
  absl::Status CheckForm(const v1::TensorHandle& handle, absl::string_view field) const;
  // Whether the handle, well-formed, is one of this server.
  bool IsHere(const v1::TensorHandle& handle) const;
  // NOT_FOUND, with one text for every reason.
  static absl::Status Unknown(absl::string_view field);

  // The errors of the above.
  absl::StatusOr<TensorStore::Handle> Find(const v1::TensorHandle& handle,
                                           absl::string_view field) const;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_TENSOR_LOOKUP_H_
