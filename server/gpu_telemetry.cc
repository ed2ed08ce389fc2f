#include "server/gpu_telemetry.h"

#include <dlfcn.h>

#include <array>
#include <cmath>
#include <functional>
#include <limits>

namespace sage::server {
namespace {

constexpr int kGpuTemperature = 0;  // of the sensors of nvml.h

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

}  // namespace

struct GpuTelemetry::Library {
  // As nvml.h declares them; kept stable by their vendor.
  using Result = int;  // 0: success
  using GpuHandle = void*;
  struct Utilization {
    unsigned int gpu, memory;  // percent
  };
  struct MemoryInfo {
    unsigned long long total, free, used;
  };

  void* loaded = nullptr;
  Result (*init)() = nullptr;
  Result (*shutdown)() = nullptr;
  Result (*count)(unsigned int*) = nullptr;
  Result (*handle)(unsigned int, GpuHandle*) = nullptr;
  Result (*uuid)(GpuHandle, char*, unsigned int) = nullptr;
  Result (*utilization)(GpuHandle, Utilization*) = nullptr;
  Result (*memory)(GpuHandle, MemoryInfo*) = nullptr;
  Result (*temperature)(GpuHandle, int, unsigned int*) = nullptr;
  Result (*power)(GpuHandle, unsigned int*) = nullptr;  // mW

  ~Library() {
    if (loaded != nullptr) dlclose(loaded);
  }

  template <typename Function>
  bool Find(const char* name, Function* function) {
    *function = reinterpret_cast<Function>(dlsym(loaded, name));
    return *function != nullptr;
  }

  bool FindAll() {
    return Find("nvmlInit_v2", &init) && Find("nvmlShutdown", &shutdown) &&
           Find("nvmlDeviceGetCount_v2", &count) &&
           Find("nvmlDeviceGetHandleByIndex_v2", &handle) && Find("nvmlDeviceGetUUID", &uuid) &&
           Find("nvmlDeviceGetUtilizationRates", &utilization) &&
           Find("nvmlDeviceGetMemoryInfo", &memory) &&
           Find("nvmlDeviceGetTemperature", &temperature) &&
           Find("nvmlDeviceGetPowerUsage", &power);
  }

  double UtilizationOf(GpuHandle gpu) const {
    Utilization percent{};
    return utilization(gpu, &percent) == 0 ? percent.gpu / 100.0 : kUnknown;
  }
  double MemoryOf(GpuHandle gpu) const {
    MemoryInfo bytes{};
    return memory(gpu, &bytes) == 0 ? static_cast<double>(bytes.used) : kUnknown;
  }
  double TemperatureOf(GpuHandle gpu) const {
    unsigned int celsius = 0;
    return temperature(gpu, kGpuTemperature, &celsius) == 0 ? celsius : kUnknown;
  }
  double PowerOf(GpuHandle gpu) const {
    unsigned int milliwatts = 0;
    return power(gpu, &milliwatts) == 0 ? milliwatts / 1e3 : kUnknown;
  }
};

GpuTelemetry::GpuTelemetry(std::unique_ptr<Library> library) : library_(std::move(library)) {}

GpuTelemetry::~GpuTelemetry() { library_->shutdown(); }

std::unique_ptr<GpuTelemetry> GpuTelemetry::Open(const std::string& library) {
  auto opened = std::make_unique<Library>();
  opened->loaded = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (opened->loaded == nullptr || !opened->FindAll() || opened->init() != 0) return nullptr;
  return std::unique_ptr<GpuTelemetry>(new GpuTelemetry(std::move(opened)));
}

std::vector<Gauge> GpuTelemetry::Gauges() const {
  struct Figure {
    const char* name;
    const char* help;
    double (Library::*read)(Library::GpuHandle) const;
  };
  constexpr std::array<Figure, 4> kFigures = {{
      {"gpu_utilization_ratio", "Part of the last moments in which a kernel ran, of all processes.",
       &Library::UtilizationOf},
      {"gpu_memory_used_bytes", "Memory of the GPU in use, by all processes.", &Library::MemoryOf},
      {"gpu_temperature_celsius", "Temperature of the GPU.", &Library::TemperatureOf},
      {"gpu_power_watts", "Power that the GPU draws.", &Library::PowerOf},
  }};
  unsigned int count = 0;
  if (library_->count(&count) != 0) return {};
  std::vector<Gauge> gauges;
  for (const Figure& figure : kFigures) {
    for (unsigned int i = 0; i < count; ++i) {
      Library::GpuHandle gpu = nullptr;
      std::array<char, 96> uuid{};
      if (library_->handle(i, &gpu) != 0 || library_->uuid(gpu, uuid.data(), uuid.size()) != 0) {
        continue;
      }
      const auto read = [library = library_.get(), figure, gpu] {
        return std::invoke(figure.read, library, gpu);
      };
      if (std::isnan(read())) continue;
      gauges.push_back({figure.name, figure.help, read, "gpu", uuid.data()});
    }
  }
  return gauges;
}

}  // namespace sage::server
