// What the driver tells of the GPUs, by NVIDIA's management library, which comes with it and is
// loaded where it is there.
#ifndef SAGE_SERVER_GPU_TELEMETRY_H_
#define SAGE_SERVER_GPU_TELEMETRY_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/metrics.h"

namespace sage::server {

// Thread-safe.
class GpuTelemetry {
 public:
  // Null where the library cannot be loaded or is too old.
  static std::unique_ptr<GpuTelemetry> Open(const std::string& library = "libnvidia-ml.so.1");
  ~GpuTelemetry();

  // Utilisation, memory, temperature and power of every GPU that the driver shows, labelled by its
  // UUID; without those that a GPU does not have. NaN where one cannot be read any more. Readable
  // while this lives.
  std::vector<Gauge> Gauges() const;

 private:
  struct Library;
  explicit GpuTelemetry(std::unique_ptr<Library> library);

  const std::unique_ptr<Library> library_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_GPU_TELEMETRY_H_
