// What work costs on a device, measured by a short run.
#ifndef SAGE_SERVER_CALIBRATION_H_
#define SAGE_SERVER_CALIBRATION_H_

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "server/cost_model.h"

namespace sage::server {

// Runs each kernel of `backend`, which nobody else uses meanwhile, on about `operations`
// operations, and copies a few MiB where it copies at all; the fastest of some runs counts. Takes
// milliseconds, and device memory of as many MiB. Fails as the backend does.
absl::StatusOr<CostModel::Rates> MeasureRates(Backend& backend, double operations);

}  // namespace sage::server

#endif  // SAGE_SERVER_CALIBRATION_H_
