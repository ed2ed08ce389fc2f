#include "server/tensors_service.h"

#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/get_call.h"
#include "server/grpc_status.h"
#include "server/put_call.h"
#include "server/refused_call.h"
#include "server/tensor_codec.h"

namespace sage::server {
namespace {

constexpr int kMaxHandles = 1024;

std::string Field(int index) { return absl::StrCat("handles[", index, "]"); }

// Checks all handles before any of them is touched.
template <typename Handles>
absl::Status CheckHandles(const Handles& handles, const TensorLookup& tensors) {
  if (handles.size() > kMaxHandles) {
    return InvalidField("handles",
                        absl::StrCat("got ", handles.size(), ", allowed at most ", kMaxHandles));
  }
  for (int i = 0; i < handles.size(); ++i) {
    if (absl::Status status = tensors.CheckForm(handles[i], Field(i)); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

grpc::ServerReadReactor<grpc::ByteBuffer>* TensorsService::Put(grpc::CallbackServerContext* context,
                                                               grpc::ByteBuffer* response) {
  absl::StatusOr<Caller> caller = callers_.Admit(*context);
  if (!caller.ok()) {
    return Refuse<grpc::ServerReadReactor<grpc::ByteBuffer>>("Put", *context, caller.status(),
                                                             core_.metrics);
  }
  return StartPutCall(core_, *std::move(caller), *context, *response);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* TensorsService::Get(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  absl::StatusOr<Caller> caller = callers_.Admit(*context);
  if (!caller.ok()) {
    return Refuse<grpc::ServerWriteReactor<grpc::ByteBuffer>>("Get", *context, caller.status(),
                                                              core_.metrics);
  }
  return StartGetCall(core_, *std::move(caller), *context, *request);
}

grpc::ServerUnaryReactor* TensorsService::Stat(grpc::CallbackServerContext* context,
                                               const v1::StatRequest* request,
                                               v1::StatResponse* response) {
  return Control(*context, [&](const TensorLookup& tensors) {
    return Describe(tensors, *request, *response);
  });
}

grpc::ServerUnaryReactor* TensorsService::Renew(grpc::CallbackServerContext* context,
                                                const v1::RenewRequest* request,
                                                v1::RenewResponse* response) {
  return Control(*context,
                 [&](const TensorLookup& tensors) { return Extend(tensors, *request, *response); });
}

grpc::ServerUnaryReactor* TensorsService::Release(grpc::CallbackServerContext* context,
                                                  const v1::ReleaseRequest* request,
                                                  v1::ReleaseResponse* response) {
  return Control(*context,
                 [&](const TensorLookup& tensors) { return Drop(tensors, *request, *response); });
}

template <typename Method>
grpc::ServerUnaryReactor* TensorsService::Control(grpc::CallbackServerContext& context,
                                                  Method method) const {
  const absl::StatusOr<Tenant*> tenant = callers_.TenantOf(context);
  absl::Status status = tenant.status();
  if (tenant.ok()) {
    status = method(TensorLookup{core_.tensors, (*tenant)->name(), core_.server_id});
  }
  grpc::ServerUnaryReactor* const reactor = context.DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

absl::Status TensorsService::Describe(const TensorLookup& tensors, const v1::StatRequest& request,
                                      v1::StatResponse& response) const {
  const absl::StatusOr<TensorStore::Handle> found = tensors.Find(request.handle(), "handle");
  if (!found.ok()) return found.status();
  ToProto(*found->tensor, response.mutable_spec());
  ToProto(found->lease, response.mutable_lease_remaining());
  response.set_stored_bytes(found->tensor->stored_bytes());
  response.set_generation(found->tensor->generation());
  return absl::OkStatus();
}

absl::Status TensorsService::Extend(const TensorLookup& tensors, const v1::RenewRequest& request,
                                    v1::RenewResponse& response) const {
  if (absl::Status status = CheckHandles(request.handles(), tensors); !status.ok()) {
    return status;
  }
  const auto wish = DecodeLease(request.has_lease(), request.lease(), "lease");
  if (!wish.ok()) return wish.status();
  const std::chrono::milliseconds granted = core_.tensors.Granted(*wish);
  std::optional<int> unknown;
  for (int i = 0; i < request.handles_size(); ++i) {
    const v1::TensorHandle& handle = request.handles(i);
    const bool renewed =
        tensors.IsHere(handle) && core_.tensors.Renew(tensors.tenant, handle.id(), granted);
    if (!renewed && !unknown.has_value()) unknown = i;
  }
  if (unknown.has_value()) return TensorLookup::Unknown(Field(*unknown));
  ToProto(granted, response.mutable_lease());
  return absl::OkStatus();
}

absl::Status TensorsService::Drop(const TensorLookup& tensors, const v1::ReleaseRequest& request,
                                  v1::ReleaseResponse& response) const {
  if (absl::Status status = CheckHandles(request.handles(), tensors); !status.ok()) {
    return status;
  }
  std::uint64_t freed = 0;
  for (const v1::TensorHandle& handle : request.handles()) {
    if (tensors.IsHere(handle)) freed += core_.tensors.Release(tensors.tenant, handle.id());
  }
  response.set_freed_bytes(freed);
  return absl::OkStatus();
}

}  // namespace sage::server
