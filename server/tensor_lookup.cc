#include "server/tensor_lookup.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace sage::server {
namespace {

constexpr std::size_t kHandleBytes = 16;

}  // namespace

absl::Status TensorLookup::CheckForm(const v1::TensorHandle& handle,
                                     absl::string_view field) const {
  if (handle.id().size() == kHandleBytes) return absl::OkStatus();
  return InvalidField(absl::StrCat(field, ".id"),
                      absl::StrCat("got ", handle.id().size(), " bytes, allowed ", kHandleBytes));
}

bool TensorLookup::IsHere(const v1::TensorHandle& handle) const {
  return handle.server_id().empty() || handle.server_id() == server_id;
}

absl::Status TensorLookup::Unknown(absl::string_view field) {
  return absl::NotFoundError(absl::StrCat(field, ": no such tensor"));
}

absl::StatusOr<TensorStore::Handle> TensorLookup::Find(const v1::TensorHandle& handle,
                                                       absl::string_view field) const {
  if (absl::Status status = CheckForm(handle, field); !status.ok()) return status;
  std::optional<TensorStore::Handle> found;
  if (IsHere(handle)) found = store.Find(tenant, handle.id());
  if (!found.has_value()) return Unknown(field);
  return *std::move(found);
}

}  // namespace sage::server
