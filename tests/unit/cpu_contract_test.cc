// Rules that a random problem may not catch: each error known from public kernels, non-finite
// inputs, and equal bits whatever a task shares its launch with.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention.h"
#include "kernels/block_mask.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/float16.h"
#include "tests/support/device_problem.h"
#include "tests/support/problem_generator.h"
#include "tests/support/tries.h"

namespace sage {
namespace {

using testing::DataKind;
using testing::DeviceProblem;
using testing::LseLimit;
using testing::MakeData;
using testing::PoisonedOutput;
using testing::ProblemData;
using testing::RandomDenseMask;
using testing::Reference;
using testing::RelativeL2Limit;
using testing::RunProblem;
using testing::Tries;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

class CpuContractTest : public ::testing::TestWithParam<Precision> {
 protected:
  // One batch entry, two query heads that share a KV head; fp32 output and lse.
  static AttentionProblem SmallProblem(std::int64_t seqlen_q, std::int64_t seqlen_k) {
    AttentionProblem problem;
    problem.batch = 1;
    problem.num_heads_q = 2;
    problem.num_heads_kv = 1;
    problem.seqlen_q = seqlen_q;
    problem.seqlen_k = seqlen_k;
    problem.head_dim = 64;
    problem.output_dtype = DType::kFloat32;
    problem.precision = GetParam();
    problem.return_lse = true;
    return problem;
  }

  static float* Out(PoisonedOutput& output) { return reinterpret_cast<float*>(output.out.data()); }
  static const float* Out(const PoisonedOutput& output) {
    return reinterpret_cast<const float*>(output.out.data());
  }

  // Writes element `i` of a tensor of the problem's dtype.
  static void Set(const AttentionProblem& problem, std::vector<std::byte>* tensor, std::int64_t i,
                  float value) {
    const std::uint16_t bits =
        problem.dtype == DType::kFloat16 ? ToFloat16(value).bits : ToBFloat16(value).bits;
    std::memcpy(tensor->data() + 2 * i, &bits, sizeof(bits));
  }
  static void Fill(const AttentionProblem& problem, std::vector<std::byte>* tensor, float value) {
    for (std::size_t i = 0; i < tensor->size() / 2; ++i) {
      Set(problem, tensor, static_cast<std::int64_t>(i), value);
    }
  }

  PoisonedOutput Run(const AttentionProblem& problem, const ProblemData& data,
                     const std::vector<std::uint8_t>& dense = {}, std::int64_t mask_batch = 1,
                     std::int64_t mask_heads = 1) const {
    BlockMask mask;
    if (!dense.empty()) mask = *BlockMask::FromDense(problem, mask_batch, mask_heads, dense);
    return RunProblem(*backend_, problem, data, mask);
  }

  static bool SameBits(const PoisonedOutput& a, const PoisonedOutput& b) {
    return a.out == b.out &&
           std::memcmp(a.lse.data(), b.lse.data(), a.lse.size() * sizeof(float)) == 0;
  }

  const std::unique_ptr<Backend> backend_ = *CreateCpuBackend({.num_threads = 2});
};

// --- Errors found in public code -----------------------------------------------------------------

// Keys past the end scored 0: with all true scores far below 0, they would take the whole softmax.
TEST_P(CpuContractTest, KeysPastTheEndDoNotCount) {
  AttentionProblem problem = SmallProblem(3, 130);
  ProblemData data = MakeData(problem, DataKind::kNormal, 1);
  for (std::int64_t i = 0; i < problem.q_elements(); ++i) Set(problem, &data.q, i, 4.0F);
  // Keys that differ, so that smoothing does not make them zero, and all score below -1000.
  for (std::int64_t i = 0; i < problem.kv_elements(); ++i) {
    Set(problem, &data.k, i, i / problem.head_dim % 2 == 0 ? -40.0F : -41.0F);
  }
  Fill(problem, &data.v, 1.0F);
  for (const std::int64_t length : {1, 65, 130}) {
    problem.seqlens_k = {length};
    const PoisonedOutput output = Run(problem, data);
    for (std::int64_t i = 0; i < problem.q_elements(); ++i) {
      ASSERT_NEAR(Out(output)[i], 1.0F, 1e-5) << "length " << length;
    }
    for (const float lse : output.lse) ASSERT_LT(lse, -1000.0F);
  }
}

// What lies past the lengths is never used: NaN there changes no bit.
TEST_P(CpuContractTest, MemoryPastTheLengthsIsNotUsed) {
  AttentionProblem problem = SmallProblem(200, 200);
  problem.seqlens_q = {150};
  problem.seqlens_k = {100};
  const ProblemData clean = MakeData(problem, DataKind::kNormal, 2);
  ProblemData dirty = clean;
  for (std::int64_t head = 0; head < 2; ++head) {
    for (std::int64_t i = 150 * 64; i < 200 * 64; ++i) {
      Set(problem, &dirty.q, head * 200 * 64 + i, kNaN);
    }
  }
  for (std::int64_t i = 100 * 64; i < 200 * 64; ++i) {
    Set(problem, &dirty.k, i, kNaN);
    Set(problem, &dirty.v, i, kInfinity);
  }
  EXPECT_TRUE(SameBits(Run(problem, clean), Run(problem, dirty)));
}

// Rows above the diagonal of a longer query saw the future, or the average of all values.
TEST_P(CpuContractTest, RowsBeforeTheFirstKeyAreZeroUnderBottomRightCausality) {
  AttentionProblem problem = SmallProblem(300, 100);
  problem.is_causal = true;
  const ProblemData data = MakeData(problem, DataKind::kNormal, 3);
  const PoisonedOutput output = Run(problem, data);
  for (std::int64_t head = 0; head < 2; ++head) {
    for (std::int64_t row = 0; row < 300; ++row) {
      const float* const out = Out(output) + (head * 300 + row) * 64;
      const float lse = output.lse[head * 300 + row];
      if (row < 200) {  // sees keys j <= row - 200
        EXPECT_TRUE(std::all_of(out, out + 64, [](float x) { return x == 0.0F; })) << row;
        EXPECT_EQ(lse, -kInfinity) << row;
      } else {
        EXPECT_TRUE(std::any_of(out, out + 64, [](float x) { return x != 0.0F; })) << row;
        EXPECT_TRUE(std::isfinite(lse)) << row;
      }
    }
  }
}

// A future value leaked through diagonal blocks, with a mask or without.
TEST_P(CpuContractTest, CausalRowsDoNotDependOnFutureTokens) {
  AttentionProblem problem = SmallProblem(256, 256);
  problem.is_causal = true;
  ProblemData data = MakeData(problem, DataKind::kNormal, 4);
  for (const bool masked : {false, true}) {
    const std::vector<std::uint8_t> dense =
        masked ? RandomDenseMask(problem, 1, 1, 0.7, 5) : std::vector<std::uint8_t>{};
    const PoisonedOutput before = Run(problem, data, dense);
    // The values of tokens 100 to 255, in reverse: the same set, so that e4m3 scales stay.
    ProblemData changed = data;
    const std::ptrdiff_t row_bytes = 64 * 2;
    for (std::ptrdiff_t row = 100; row < 256; ++row) {
      std::copy_n(data.v.begin() + row * row_bytes, row_bytes,
                  changed.v.begin() + (355 - row) * row_bytes);
    }
    const PoisonedOutput after = Run(problem, changed, dense);
    SimilarityAccumulator similarity;
    for (std::int64_t head = 0; head < 2; ++head) {
      const float* const got = Out(after) + head * 256 * 64;
      const float* const want = Out(before) + head * 256 * 64;
      for (std::int64_t i = 0; i < 100 * 64; ++i) similarity.Add(got[i], want[i]);
    }
    // The e4m3 mean is summed in another order: a value in a few thousand rounds the other way.
    const double limit = problem.precision == Precision::kQkInt8PvFp8 ? 0.005 : 0.0;
    EXPECT_LE(similarity.Result().relative_l2, limit);
  }
}

// The first query sees its own key alone, whose score is very low. A later block, whose keys are so
// small that its scale is 10^4 times smaller, must stay unseen all the same.
TEST_P(CpuContractTest, ScalesFarApartLetNoRowSeeTheFuture) {
  AttentionProblem problem = SmallProblem(192, 192);
  problem.is_causal = true;
  ProblemData data = MakeData(problem, DataKind::kNormal, 21);
  Fill(problem, &data.q, 1.0F);
  for (std::int64_t channel = 0; channel < 64; ++channel) {
    for (std::int64_t key = 0; key < 192; ++key) {
      const float small = key % 2 == 0 ? 0.001F : -0.001F;
      const float value = key == 0 ? -40.0F : key == 191 ? 40.0F : small;  // a mean near 0
      Set(problem, &data.k, key * 64 + channel, value);
    }
    for (const std::int64_t head : {0, 1}) {
      Set(problem, &data.q, head * 192 * 64 + channel, 40.0F);
    }
  }
  const PoisonedOutput output = Run(problem, data);
  const auto* const v = reinterpret_cast<const std::uint16_t*>(data.v.data());
  for (const std::int64_t head : {0, 1}) {
    SimilarityAccumulator similarity;
    for (std::int64_t channel = 0; channel < 64; ++channel) {
      similarity.Add(Out(output)[head * 192 * 64 + channel], ToFloat(Float16{v[channel]}));
    }
    EXPECT_LE(similarity.Result().relative_l2, RelativeL2Limit(problem.precision, problem.dtype));
  }
}

// A row that sees no key gives 0 and -inf, whatever its query holds and its neighbours see.
TEST_P(CpuContractTest, RowsOfNaNThatSeeNoKeyAreZero) {
  AttentionProblem problem = SmallProblem(200, 100);
  problem.is_causal = true;
  ProblemData data = MakeData(problem, DataKind::kNormal, 22);
  for (const std::int64_t row : {5, 99, 136, 99 + 200}) {  // rows up to 99 see nothing
    Set(problem, &data.q, row * 64 + 3, kNaN);
  }
  const PoisonedOutput output = Run(problem, data);
  for (const std::int64_t head : {0, 1}) {
    for (std::int64_t row = 0; row < 100; ++row) {
      const float* const out = Out(output) + (head * 200 + row) * 64;
      EXPECT_TRUE(std::all_of(out, out + 64, [](float x) { return x == 0.0F; })) << row;
      EXPECT_EQ(output.lse[head * 200 + row], -kInfinity) << row;
    }
  }
}

// The mask was indexed by KV head, and wrongly for batch > 0.
TEST_P(CpuContractTest, MaskIsIndexedByBatchAndQueryHead) {
  AttentionProblem problem = SmallProblem(128, 128);
  problem.batch = 2;
  problem.num_heads_q = 4;
  problem.num_heads_kv = 2;
  ProblemData data = MakeData(problem, DataKind::kNormal, 6);
  // The value of a key is the number of its block, plus 1.
  for (std::int64_t i = 0; i < problem.kv_elements(); ++i) {
    Set(problem, &data.v, i, i / 64 % 128 < 64 ? 1.0F : 2.0F);
  }
  const std::vector<std::uint8_t> dense = {1, 0, 0, 1, 0, 0, 0, 1, 0, 1, 1, 0, 0, 1, 1, 0};
  const PoisonedOutput output = Run(problem, data, dense, 2, 4);
  for (std::int64_t i = 0; i < problem.q_elements(); ++i) {
    const std::int64_t head = i / (128 * 64);
    const float want = dense[2 * head] != 0 ? 1.0F : (dense[2 * head + 1] != 0 ? 2.0F : 0.0F);
    ASSERT_NEAR(Out(output)[i], want, 1e-5) << "batch x head " << head;
  }
}

// A default mask sized from the wrong dimension.
TEST_P(CpuContractTest, NoMaskIsAMaskOfOnesInBothLayouts) {
  for (const Layout layout : {Layout::kHnd, Layout::kNhd}) {
    AttentionProblem problem = SmallProblem(150, 400);
    problem.layout = layout;
    const ProblemData data = MakeData(problem, DataKind::kNormal, 7);
    const std::vector<std::uint8_t> ones(problem.tiles_q() * problem.blocks_k(), 1);
    EXPECT_TRUE(SameBits(Run(problem, data), Run(problem, data, ones)));
  }
}

// The scale of an all-zero or near-zero group was 0/0.
TEST_P(CpuContractTest, ZeroAndTinyOperandsAverageTheValues) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    for (const float magnitude : {0.0F, 6e-8F, 1e-38F}) {
      AttentionProblem problem = SmallProblem(70, 100);
      problem.dtype = dtype;
      ProblemData data = MakeData(problem, DataKind::kNormal, 8);
      Fill(problem, &data.q, magnitude);
      for (std::int64_t i = 0; i < problem.kv_elements(); ++i) {
        Set(problem, &data.k, i, i % 2 == 0 ? magnitude : -magnitude);
        Set(problem, &data.v, i, 3.0F);
      }
      const PoisonedOutput output = Run(problem, data);
      for (std::int64_t i = 0; i < problem.q_elements(); ++i) {
        ASSERT_NEAR(Out(output)[i], 3.0F, 1e-5);
      }
      for (const float lse : output.lse) ASSERT_NEAR(lse, std::log(100.0F), 1e-5);
    }
  }
}

// BF16 values converted to FP16 overflowed; FP16 accumulators overflowed on long rows.
TEST_P(CpuContractTest, LargeValuesDoNotOverflow) {
  AttentionProblem problem = SmallProblem(1, 1000);
  ProblemData data = MakeData(problem, DataKind::kNormal, 9);
  Fill(problem, &data.v, 60000.0F);
  EXPECT_NEAR(Out(Run(problem, data))[0], ToFloat(ToFloat16(60000.0F)), 1.0F);
  problem.dtype = DType::kBFloat16;
  data = MakeData(problem, DataKind::kNormal, 9);
  Fill(problem, &data.v, 1e30F);
  EXPECT_NEAR(Out(Run(problem, data))[0] / ToFloat(ToBFloat16(1e30F)), 1.0F, 1e-5);
}

// Rows past the end of a tile were normalised 0/0 or written. The canary stands behind the output.
TEST_P(CpuContractTest, NothingIsWrittenPastTheRowsOfATask) {
  AttentionProblem problem = SmallProblem(129, 70);
  problem.num_heads_q = 1;
  const ProblemData data = MakeData(problem, DataKind::kNormal, 10);
  const std::unique_ptr<Stream> stream = *backend_->CreateStream();
  const DeviceProblem device(*backend_, *stream, problem, data, {});
  device.Prepare(*stream);
  std::vector<AttendTask> tasks = device.Tasks();
  constexpr float kCanary = 12345.0F;
  std::vector<float> out(132 * 64, kCanary);
  std::vector<float> lse(132, kCanary);
  tasks[0].out = {out.data(), 0, 64};
  tasks[0].lse = lse.data();
  const Memory workspace =
      *backend_->Allocate(MemoryKind::kDevice, backend_->AttendWorkspaceBytes(tasks));
  ASSERT_TRUE(stream->Attend(tasks, workspace.data()).ok());
  ASSERT_TRUE(stream->Synchronize().ok());
  EXPECT_EQ(std::count(out.begin(), out.begin() + 129 * 64, kCanary), 0);
  EXPECT_EQ(std::count(out.begin() + 129 * 64, out.end(), kCanary), 3 * 64);
  EXPECT_EQ(std::count(lse.begin(), lse.begin() + 129, kCanary), 0);
  EXPECT_EQ(std::count(lse.begin() + 129, lse.end(), kCanary), 3);
}

// lse lacked what smoothing took from the scores, so that merging partial results broke.
TEST_P(CpuContractTest, HalvesOfTheKeysMergeByLse) {
  AttentionProblem problem = SmallProblem(65, 128);
  problem.num_heads_q = 1;
  const ProblemData data = MakeData(problem, DataKind::kKeyOffset, 11);
  const ReferenceResult reference = Reference(problem, data);
  AttentionProblem half = problem;
  half.seqlen_k = 64;
  ProblemData first = data;
  ProblemData second = data;
  const std::ptrdiff_t bytes = 64 * 64 * 2;
  second.k.assign(data.k.begin() + bytes, data.k.end());
  second.v.assign(data.v.begin() + bytes, data.v.end());
  const PoisonedOutput a = Run(half, first);
  const PoisonedOutput b = Run(half, second);
  SimilarityAccumulator similarity;
  for (std::int64_t row = 0; row < 65; ++row) {
    const double lse = std::log(std::exp(a.lse[row] - b.lse[row]) + 1) + b.lse[row];
    EXPECT_NEAR(lse, reference.lse[row], LseLimit(problem.precision));
    const double weight = std::exp(a.lse[row] - lse);
    for (std::int64_t i = row * 64; i < row * 64 + 64; ++i) {
      similarity.Add(weight * Out(a)[i] + (1 - weight) * Out(b)[i], reference.out[i]);
    }
  }
  EXPECT_LE(similarity.Result().relative_l2, RelativeL2Limit(problem.precision, problem.dtype));
}

// 32-bit products of strides overflowed. The pages in between are never touched.
TEST_P(CpuContractTest, StridesPastTwoToThe31Elements) {
  AttentionProblem problem = SmallProblem(64, 64);
  problem.num_heads_kv = 2;
  const ProblemData data = MakeData(problem, DataKind::kNormal, 12);
  const PoisonedOutput want = Run(problem, data);

  constexpr std::int64_t kStride = (std::int64_t{1} << 31) + 64;
  constexpr std::size_t kBytes = (kStride + 64 * 64) * sizeof(float);
  const auto map = [] {
    void* const memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? nullptr : static_cast<std::byte*>(memory);
  };
  std::byte* const tensors[] = {map(), map(), map(), map()};  // q, k, v, out
  if (std::count(std::begin(tensors), std::end(tensors), nullptr) != 0) {
    GTEST_SKIP() << "this machine gives no " << kBytes << " bytes of address space";
  }
  const std::vector<std::byte>* const sources[] = {&data.q, &data.k, &data.v};
  for (int t = 0; t < 3; ++t) {
    const std::size_t head_bytes = sources[t]->size() / 2;
    std::memcpy(tensors[t], sources[t]->data(), head_bytes);
    std::memcpy(tensors[t] + kStride * 2, sources[t]->data() + head_bytes, head_bytes);
  }
  AttendTask task;
  task.kv = {.num_heads = 2,
             .length_k = 64,
             .head_dim = 64,
             .dtype = problem.dtype,
             .precision = problem.precision,
             .k = {tensors[1], kStride, 64},
             .v = {tensors[2], kStride, 64}};
  const Memory prepared =
      *backend_->Allocate(MemoryKind::kDevice, backend_->PreparedKvBytes(task.kv));
  task.prepared_kv = prepared.data();
  task.num_heads_q = 2;
  task.q_rows = task.length_q = 64;
  task.softmax_scale = problem.scale();
  task.q = {tensors[0], kStride, 64};
  task.out = {tensors[3], kStride, 64};
  task.output_dtype = DType::kFloat32;
  const Memory workspace =
      *backend_->Allocate(MemoryKind::kDevice, backend_->AttendWorkspaceBytes({&task, 1}));
  const std::unique_ptr<Stream> stream = *backend_->CreateStream();
  ASSERT_TRUE(stream->PrepareKv(task.kv, prepared.data()).ok());
  ASSERT_TRUE(stream->Attend({&task, 1}, workspace.data()).ok());
  ASSERT_TRUE(stream->Synchronize().ok());
  const std::size_t head_bytes = want.out.size() / 2;
  EXPECT_EQ(std::memcmp(tensors[3], want.out.data(), head_bytes), 0);
  EXPECT_EQ(std::memcmp(tensors[3] + kStride * 4, want.out.data() + head_bytes, head_bytes), 0);
  for (std::byte* const tensor : tensors) munmap(tensor, kBytes);
}

// --- Non-finite inputs ---------------------------------------------------------------------------

// Runs a causal problem of 300 tokens whose second tile does not list block 1, and checks: rows in
// `affected` are not finite, all others are as near to the oracle as ever.
class CpuNonFiniteTest : public CpuContractTest {
 protected:
  void Check(const std::function<void(const AttentionProblem&, ProblemData*)>& poison,
             const std::function<bool(std::int64_t head, std::int64_t row)>& affected) const {
    for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
      AttentionProblem problem = SmallProblem(300, 300);
      problem.dtype = dtype;
      problem.is_causal = true;
      ProblemData data = MakeData(problem, DataKind::kNormal, 13);
      poison(problem, &data);
      std::vector<std::uint8_t> dense(problem.tiles_q() * problem.blocks_k(), 1);
      dense[problem.blocks_k() + 1] = 0;
      const PoisonedOutput output = Run(problem, data, dense);
      const ReferenceResult reference = Reference(problem, data, dense);
      SimilarityAccumulator similarity;
      for (std::int64_t row = 0; row < 2 * 300; ++row) {
        const float* const out = Out(output) + row * 64;
        const bool finite = std::all_of(out, out + 64, [](float x) { return std::isfinite(x); });
        ASSERT_EQ(finite, !affected(row / 300, row % 300)) << "head x row " << row;
        if (!finite) continue;
        EXPECT_NEAR(output.lse[row], reference.lse[row], LseLimit(problem.precision));
        for (std::int64_t d = 0; d < 64; ++d) {
          similarity.Add(out[d], reference.out[row * 64 + d]);
        }
      }
      EXPECT_LE(similarity.Result().relative_l2, RelativeL2Limit(problem.precision, dtype));
    }
  }
};

TEST_P(CpuNonFiniteTest, QueryAffectsItsRowOnly) {
  for (const float value : {kNaN, kInfinity}) {
    Check([&](const AttentionProblem& problem,
              ProblemData* data) { Set(problem, &data->q, (300 + 130) * 64 + 5, value); },
          [](std::int64_t head, std::int64_t row) { return head == 1 && row == 130; });
  }
}

TEST_P(CpuNonFiniteTest, KeyAffectsRowsThatSeeItsBlock) {
  // int8 keys share a scale per block; otherwise the key alone counts.
  const std::int64_t first = GetParam() == Precision::kFp16 ? 70 : 64;
  Check([](const AttentionProblem& problem,
           ProblemData* data) { Set(problem, &data->k, 70 * 64 + 5, kNaN); },
        [&](std::int64_t, std::int64_t row) { return row >= first && row / 128 != 1; });
}

TEST_P(CpuNonFiniteTest, ValueAffectsRowsThatSeeItsKey) {
  for (const float value : {kNaN, -kInfinity}) {
    Check([&](const AttentionProblem& problem,
              ProblemData* data) { Set(problem, &data->v, 70 * 64 + 5, value); },
          [](std::int64_t, std::int64_t row) { return row >= 70 && row / 128 != 1; });
  }
}

// A row that sees no key stays 0, whatever it holds.
TEST_P(CpuNonFiniteTest, EmptyRowsStayZero) {
  AttentionProblem problem = SmallProblem(200, 64);
  ProblemData data = MakeData(problem, DataKind::kNormal, 14);
  Fill(problem, &data.q, kNaN);
  Fill(problem, &data.k, kInfinity);
  Fill(problem, &data.v, kNaN);
  const PoisonedOutput output = Run(problem, data, {0, 0});
  for (std::int64_t i = 0; i < problem.q_elements(); ++i) ASSERT_EQ(Out(output)[i], 0.0F);
  for (const float lse : output.lse) ASSERT_EQ(lse, -kInfinity);
}

// --- Equal bits ----------------------------------------------------------------------------------

class CpuDeterminismTest : public CpuContractTest {
 protected:
  static AttentionProblem Problem(std::uint64_t seed) {
    AttentionProblem problem = SmallProblem(129 + 100 * static_cast<std::int64_t>(seed % 4), 333);
    problem.batch = 1 + static_cast<std::int64_t>(seed % 2);
    problem.num_heads_q = 4;
    problem.head_dim = seed % 3 == 0 ? 128 : 72;
    problem.is_causal = seed % 2 == 0;
    problem.dtype = seed % 5 == 0 ? DType::kBFloat16 : DType::kFloat16;
    if (seed % 3 == 1) problem.precision = Precision::kFp16;
    return problem;
  }
};

TEST_P(CpuDeterminismTest, OneTaskHasTheSameBitsAloneAndAmongTwentyOthers) {
  const std::unique_ptr<Stream> stream = *backend_->CreateStream();
  std::vector<std::unique_ptr<DeviceProblem>> devices;
  std::vector<AttendTask> tasks;
  std::vector<PoisonedOutput> alone;
  for (std::uint64_t seed = 0; seed < 21; ++seed) {
    const AttentionProblem problem = Problem(seed);
    const ProblemData data = MakeData(problem, DataKind::kNormal, seed);
    const BlockMask mask =
        *BlockMask::FromDense(problem, 1, 4, RandomDenseMask(problem, 1, 4, 0.6, seed));
    alone.push_back(RunProblem(*backend_, problem, data, mask));
    devices.push_back(std::make_unique<DeviceProblem>(*backend_, *stream, problem, data, mask));
    devices.back()->Prepare(*stream);
    for (const AttendTask& task : devices.back()->Tasks()) tasks.push_back(task);
  }
  const Memory workspace =
      *backend_->Allocate(MemoryKind::kDevice, backend_->AttendWorkspaceBytes(tasks));
  ASSERT_TRUE(stream->Attend(tasks, workspace.data()).ok());
  for (std::size_t i = 0; i < devices.size(); ++i) {
    EXPECT_TRUE(SameBits(devices[i]->Download(*stream), alone[i])) << "problem " << i;
  }
}

TEST_P(CpuDeterminismTest, BitsDoNotDependOnTheCutOrTheThreads) {
  for (std::uint64_t seed = 0; seed < Tries(6); ++seed) {
    const AttentionProblem problem = Problem(seed);
    const ProblemData data = MakeData(problem, DataKind::kNormal, seed);
    const BlockMask mask =
        *BlockMask::FromDense(problem, 1, 1, RandomDenseMask(problem, 1, 1, 0.6, seed));
    const PoisonedOutput want = RunProblem(*backend_, problem, data, mask);
    for (const int threads : {1, 2, 5}) {
      const std::unique_ptr<Backend> backend = *CreateCpuBackend({.num_threads = threads});
      for (const std::int64_t tiles : {0, 1, 2}) {
        EXPECT_TRUE(SameBits(RunProblem(*backend, problem, data, mask, tiles), want))
            << "seed " << seed << ", " << threads << " threads, " << tiles << " tiles a task";
      }
    }
  }
}

std::string PrecisionName(const ::testing::TestParamInfo<Precision>& info) {
  return std::string(Name(info.param));
}
constexpr auto kAllPrecisions = {Precision::kQkInt8PvFp16, Precision::kQkInt8PvFp8,
                                 Precision::kFp16};
INSTANTIATE_TEST_SUITE_P(All, CpuContractTest, ::testing::ValuesIn(kAllPrecisions), PrecisionName);
INSTANTIATE_TEST_SUITE_P(All, CpuNonFiniteTest, ::testing::ValuesIn(kAllPrecisions), PrecisionName);
INSTANTIATE_TEST_SUITE_P(All, CpuDeterminismTest, ::testing::ValuesIn(kAllPrecisions),
                         PrecisionName);

}  // namespace
}  // namespace sage
