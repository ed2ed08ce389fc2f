// What a device offers to the engine: memory, streams, events, preparation and attention.
//
// The engine is written against this interface alone; the CPU and CUDA backends implement it. All
// work on a Stream is asynchronous and runs in the order issued; work on different streams is
// unordered unless an Event links them. Pointers given to a stream call must stay valid until that
// work has finished. Backends are thread-safe; one Stream is used by one thread at a time.
#ifndef SAGE_KERNELS_BACKEND_H_
#define SAGE_KERNELS_BACKEND_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/attention.h"
#include "kernels/block_mask.h"

namespace sage {

// A [heads, rows, head_dim] tensor, head_dim contiguous; strides in elements. Does not own.
template <typename Pointer>
struct StridedHeads {
  Pointer data = nullptr;
  std::int64_t head_stride = 0;
  std::int64_t row_stride = 0;
};
using ConstHeads = StridedHeads<const void*>;
using MutableHeads = StridedHeads<void*>;

// What makes int8 keys of spec `sage1` (kernels/quantize.h) whole. Does not own.
struct KeyScales {
  const float* scales = nullptr;     // [num_heads, ceil(length_k / 64)], a block each
  std::int64_t head_stride = 0;      // of `scales`, in floats
  const float* smoothing = nullptr;  // [num_heads, head_dim], c
};

// The same for int8 queries.
struct QueryScales {
  const float* scales = nullptr;         // [num_heads_q, q_rows], a row each
  const float* dot_smoothing = nullptr;  // likewise q . c; needed where lse is wanted
  std::int64_t head_stride = 0;          // of both, in floats
};

// Keys and values of some heads of one batch entry, in memory that the backend's kernels can read.
struct KvTask {
  std::int64_t num_heads = 0;  // KV heads of this task
  std::int64_t length_k = 0;   // effective key length; rows past it are not read
  std::int64_t head_dim = 0;
  DType dtype = DType::kFloat16;
  Precision precision = Precision::kQkInt8PvFp16;
  ConstHeads k;
  ConstHeads v;
  // Present: k holds int8, and K is taken as it is instead of being quantised. Not with kFp16.
  std::optional<KeyScales> k_scales = std::nullopt;
  // Blocks of 64 keys that may be attended, for all heads: block n is bit n % 8 of byte n / 8. Rows
  // of others may hold anything: they are not read, but for those of k where it is to be quantised
  // and of v with kQkInt8PvFp8, of which all must be there. Null: every block.
  const std::uint8_t* used_blocks = nullptr;
};

// A query range of some heads of one batch entry: the piece of an attention that runs as one.
struct AttendTask {
  KvTask kv;
  const void* prepared_kv = nullptr;  // written by PrepareKv for the same `kv`

  std::int64_t num_heads_q = 0;  // a multiple of kv.num_heads, with the problem's group size
  std::int64_t q_begin = 0;      // first row within the batch entry; a multiple of kBlockM
  std::int64_t q_rows = 0;       // rows in q, out and lse
  std::int64_t length_q =
      0;  // effective query length of the whole entry; rows at or past it get 0, -inf
  bool is_causal = false;
  float softmax_scale = 1.0f;
  ConstHeads q;  // row 0 is q_begin; dtype kv.dtype, or int8 where there are q_scales
  std::optional<QueryScales> q_scales = std::nullopt;  // present: q holds int8. Not with kFp16.
  BlockMaskView mask;  // head 0 is the task's first head; rows count from the entry's first tile
  MutableHeads out;    // [num_heads_q, q_rows, head_dim] of output_dtype; every element is written
  DType output_dtype = DType::kFloat16;
  float* lse = nullptr;  // [num_heads_q, q_rows], head stride q_rows; nullptr where not wanted
  // Where given, in host memory: once it is set nobody wants the output any more, and the backend
  // may leave what it has not yet written as it is. The launch succeeds all the same.
  const std::atomic<bool>* abandoned = nullptr;
};

// OK, or INVALID_ARGUMENT for int8 operands that a task of this precision does not take or that
// lack a part. For backends; values of scales lie in the device's memory and are not looked at.
absl::Status CheckQuantizedKeys(const KvTask& task);
absl::Status CheckQuantizedQueries(const AttendTask& task);

enum class MemoryKind : std::uint8_t {
  kHost,    // host memory that the device copies from and to at full speed (pinned)
  kDevice,  // memory that kernels read and write
};

// Owns one allocation of a backend, 256-byte aligned. Move-only; must not outlive its backend.
// Freeing is not ordered with streams: free only after work that uses the memory has finished.
class Memory {
 public:
  using Deleter = std::function<void(std::byte*, std::size_t)>;
  Memory() = default;
  Memory(std::byte* data, std::size_t size, Deleter deleter)
      : data_(data), size_(size), deleter_(std::move(deleter)) {}
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept {
    if (this != &other) {
      Reset();
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
      deleter_ = std::move(other.deleter_);
    }
    return *this;
  }
  ~Memory() { Reset(); }

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  explicit operator bool() const { return data_ != nullptr; }
  void Reset() {
    if (data_ != nullptr) deleter_(data_, size_);
    data_ = nullptr;
    size_ = 0;
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  Deleter deleter_;
};

// A point in a stream's work. Recording again moves it.
class Event {
 public:
  virtual ~Event() = default;
  // Seconds of device time from `earlier` to this event. Both were recorded and have been reached.
  virtual absl::StatusOr<double> SecondsSince(const Event& earlier) const = 0;
};

// A queue of device work. Destroying a stream waits for its work.
class Stream {
 public:
  virtual ~Stream() = default;

  virtual absl::Status CopyToDevice(void* device, const void* host, std::size_t bytes) = 0;
  virtual absl::Status CopyToHost(void* host, const void* device, std::size_t bytes) = 0;

  // Quantises K (`sage1`; int8 keys are only packed) and, for qk_int8_pv_fp8, V into `prepared`, of
  // PreparedKvBytes(task) bytes.
  virtual absl::Status PrepareKv(const KvTask& task, void* prepared) = 0;

  // Runs all tasks, which may come from different requests, as one launch where the device can.
  // Tasks may differ in everything; each gets the bits it would get alone. `workspace` is device
  // memory of AttendWorkspaceBytes(tasks) bytes; the tasks themselves are copied before the call
  // returns.
  virtual absl::Status Attend(std::span<const AttendTask> tasks, void* workspace) = 0;

  virtual absl::Status Record(Event& event) = 0;
  virtual absl::Status Wait(const Event& event) = 0;  // what follows here waits for `event`

  // Calls `callback` once, on a thread of the backend, when all earlier work has finished; its
  // status is the first failure of that work since the last callback. The callback must not block
  // and must not call into this backend.
  virtual absl::Status Then(std::function<void(absl::Status)> callback) = 0;

  virtual absl::Status Synchronize() = 0;
};

struct BackendInfo {
  std::string name;                      // "cpu" or "cuda"
  std::string device_name;               // for people
  std::string kernel_path;               // which kernels run, for instance "avx512_vnni" or "sm90a"
  std::int64_t device_memory_bytes = 0;  // total that the backend may allocate
  // Whether kernels read kHost memory directly, so that the engine need not copy.
  bool unified_memory = false;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual const BackendInfo& info() const = 0;

  // OK, or UNIMPLEMENTED naming the precision, dtype or head_dim that this device has no kernel
  // for.
  virtual absl::Status CheckSupported(const AttentionProblem& problem) const = 0;

  // RESOURCE_EXHAUSTED where memory is short. Contents are undefined.
  virtual absl::StatusOr<Memory> Allocate(MemoryKind kind, std::size_t bytes) = 0;

  // Sizes depend on shapes, precision and dtype only, never on pointers.
  virtual std::size_t PreparedKvBytes(const KvTask& task) const = 0;
  virtual std::size_t AttendWorkspaceBytes(std::span<const AttendTask> tasks) const = 0;

  virtual absl::StatusOr<std::unique_ptr<Stream>> CreateStream() = 0;
  virtual absl::StatusOr<std::unique_ptr<Event>> CreateEvent() = 0;

  // OK, or the sticky error that makes the device unusable for the rest of the process.
  virtual absl::Status Health() const = 0;
};

}  // namespace sage

#endif  // SAGE_KERNELS_BACKEND_H_
