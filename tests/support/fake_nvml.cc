// Stands in for NVIDIA's management library: two GPUs, the second of which tells no power and, once
// asked often, no temperature.
#include <cstdint>
#include <cstdio>

extern "C" {

int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }

int nvmlDeviceGetCount_v2(unsigned int* count) {
  *count = 2;
  return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void** gpu) {
  *gpu = reinterpret_cast<void*>(std::uintptr_t{index} + 1);
  return 0;
}

int nvmlDeviceGetUUID(void* gpu, char* uuid, unsigned int size) {
  std::snprintf(uuid, size, "GPU-%d", static_cast<int>(reinterpret_cast<std::uintptr_t>(gpu)));
  return 0;
}

int nvmlDeviceGetUtilizationRates(void*, unsigned int* percent) {
  percent[0] = 37;
  percent[1] = 11;
  return 0;
}

int nvmlDeviceGetMemoryInfo(void*, unsigned long long* bytes) {
  bytes[0] = 80ULL << 30;
  bytes[1] = 79ULL << 30;
  bytes[2] = 1ULL << 30;
  return 0;
}

int nvmlDeviceGetTemperature(void* gpu, int, unsigned int* celsius) {
  static int asked = 0;
  *celsius = 41;
  return reinterpret_cast<std::uintptr_t>(gpu) == 2 && ++asked > 1 ? 999 : 0;
}

int nvmlDeviceGetPowerUsage(void* gpu, unsigned int* milliwatts) {
  *milliwatts = 123456;
  return reinterpret_cast<std::uintptr_t>(gpu) == 2 ? 3 : 0;
}
}
