// The Tensors service: resident tensors of the calling tenant.
#ifndef SAGE_SERVER_TENSORS_SERVICE_H_
#define SAGE_SERVER_TENSORS_SERVICE_H_

#include <string>
#include <utility>

#include "grpcpp/grpcpp.h"
#include "sage/v1/tensors.grpc.pb.h"
#include "server/attention_service.h"
#include "server/tensor_lookup.h"

namespace sage::server {

class TensorsService final
    : public v1::Tensors::WithRawCallbackMethod_Put<v1::Tensors::WithRawCallbackMethod_Get<
          v1::Tensors::WithCallbackMethod_Stat<v1::Tensors::WithCallbackMethod_Renew<
              v1::Tensors::WithCallbackMethod_Release<v1::Tensors::Service>>>>> {
 public:
  TensorsService(AttentionCore& core, const Callers& callers) : core_(core), callers_(callers) {}

  grpc::ServerReadReactor<grpc::ByteBuffer>* Put(grpc::CallbackServerContext* context,
                                                 grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Get(grpc::CallbackServerContext* context,
                                                  const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Stat(grpc::CallbackServerContext* context,
                                 const v1::StatRequest* request,
                                 v1::StatResponse* response) override;
  grpc::ServerUnaryReactor* Renew(grpc::CallbackServerContext* context,
                                  const v1::RenewRequest* request,
                                  v1::RenewResponse* response) override;
  grpc::ServerUnaryReactor* Release(grpc::CallbackServerContext* context,
                                    const v1::ReleaseRequest* request,
                                    v1::ReleaseResponse* response) override;

 private:
  // Calls a method with the caller's tensors, and ends the call with what it says.
  template <typename Method>
  grpc::ServerUnaryReactor* Control(grpc::CallbackServerContext& context, Method method) const;
  absl::Status Describe(const TensorLookup& tensors, const v1::StatRequest& request,
                        v1::StatResponse& response) const;
  absl::Status Extend(const TensorLookup& tensors, const v1::RenewRequest& request,
                      v1::RenewResponse& response) const;
  absl::Status Drop(const TensorLookup& tensors, const v1::ReleaseRequest& request,
                    v1::ReleaseResponse& response) const;

  AttentionCore& core_;
  const Callers& callers_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_TENSORS_SERVICE_H_
