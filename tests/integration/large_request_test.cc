// A request of 1 GiB through the real program: nobody holds the tensors whole.
//
// Heads repeat with a period, so that this client holds a few of them, holds those against the
// oracle, and every other head's answer, bit for bit, against the first one with the same data.
#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "sage/v1/attention.grpc.pb.h"
#include "tests/support/child_process.h"
#include "tests/support/problem_generator.h"

namespace sage::testing {
namespace {

constexpr std::int64_t kHeads = 640;
constexpr std::int64_t kPeriod = 7;  // divides neither 640 nor any likely number of heads a unit
constexpr double kDensity = 0.1;
constexpr std::size_t kElementBytes = 2;
constexpr std::uint64_t kPeakLimitBytes = std::uint64_t{384} << 20;
constexpr std::uint64_t kSeed = 20;

AttentionProblem FewHeads() {
  AttentionProblem problem;
  problem.batch = 1;
  problem.num_heads_q = problem.num_heads_kv = kPeriod;
  problem.seqlen_q = problem.seqlen_k = 2048;
  problem.head_dim = 128;
  return problem;
}

// Largest resident size that a process has had, from a line like "VmHWM:    1234 kB".
std::uint64_t PeakBytes(const std::string& process) {
  std::ifstream status("/proc/" + process + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stoull(line.substr(6)) << 10;
  }
  ADD_FAILURE() << "no VmHWM of process " << process;
  return 0;
}

class LargeRequest : public ::testing::Test {
 protected:
  LargeRequest()
      : data_(MakeData(problem_, DataKind::kNormal, kSeed)),
        mask_(RandomDenseMask(problem_, 1, kPeriod, kDensity, kSeed)),
        output_(problem_),
        tile_seen_(kPeriod * problem_.tiles_q()) {}

  v1::AttendHeader Header() const {
    v1::AttendHeader header;
    v1::AttentionShape& shape = *header.mutable_shape();
    shape.set_batch(1);
    shape.set_num_heads_q(kHeads);
    shape.set_num_heads_kv(kHeads);
    shape.set_seqlen_q(problem_.seqlen_q);
    shape.set_seqlen_k(problem_.seqlen_k);
    shape.set_head_dim(problem_.head_dim);
    header.set_dtype(v1::DATA_TYPE_FLOAT16);
    header.set_layout(v1::LAYOUT_HND);
    v1::PackedBlockMask& packed = *header.mutable_mask()->mutable_packed();
    packed.set_batch(1);
    packed.set_num_heads(kHeads);
    const std::int64_t rows = problem_.tiles_q();
    const std::int64_t blocks = problem_.blocks_k();
    const std::int64_t row_bytes = (blocks + 7) / 8;
    std::string bits(kHeads * rows * row_bytes, '\0');
    for (std::int64_t row = 0; row < kHeads * rows; ++row) {
      const std::int64_t source = row % (kPeriod * rows);
      for (std::int64_t n = 0; n < blocks; ++n) {
        if (mask_[source * blocks + n] != 0) {
          bits[row * row_bytes + n / 8] |= static_cast<char>(1 << (n % 8));
        }
      }
    }
    packed.set_bits(std::move(bits));
    return header;
  }

  // Rows [begin, begin + count) of head `head` of a tensor in HND.
  std::string Rows(const std::vector<std::byte>& tensor, std::int64_t head, std::int64_t begin,
                   std::int64_t count) const {
    const std::size_t row_bytes = problem_.head_dim * kElementBytes;
    const std::size_t at = ((head % kPeriod) * problem_.seqlen_q + begin) * row_bytes;
    return {reinterpret_cast<const char*>(tensor.data()) + at, count * row_bytes};
  }

  // Sends one head's rows as one message; they are `offset` bytes into the unit's piece.
  static bool Send(
      grpc::ClientReaderWriter<v1::AttendStreamRequest, v1::AttendStreamResponse>& stream,
      v1::TensorRole role, std::uint32_t unit, std::uint64_t offset, std::string data) {
    v1::AttendStreamRequest message;
    message.mutable_chunk()->set_tensor(role);
    message.mutable_chunk()->set_unit(unit);
    message.mutable_chunk()->set_offset(offset);
    message.set_data(std::move(data));
    return stream.Write(message);
  }

  // Takes the whole output of a unit: the first answer for rows is kept, all others must equal it.
  void Take(const v1::Unit& unit, const std::string& piece) {
    const std::size_t row_bytes = problem_.head_dim * kElementBytes;
    std::size_t at = 0;
    for (std::int64_t h = 0; h < unit.kv_head_count(); ++h) {
      const std::int64_t head = (unit.kv_head_begin() + h) % kPeriod;
      for (std::int64_t row = 0; row < unit.q_count(); row += kBlockM) {
        const std::int64_t first = unit.q_begin() + row;
        const std::size_t bytes = std::min(kBlockM, unit.q_count() - row) * row_bytes;
        std::byte* const kept = output_.out.data() + (head * problem_.seqlen_q + first) * row_bytes;
        const std::size_t tile = head * problem_.tiles_q() + first / kBlockM;
        if (!tile_seen_[tile]) std::memcpy(kept, piece.data() + at, bytes);
        if (std::memcmp(kept, piece.data() + at, bytes) != 0) ++different_tiles_;
        tile_seen_[tile] = true;
        at += bytes;
        ++tiles_;
      }
    }
  }

  const AttentionProblem problem_ = FewHeads();
  const ProblemData data_;
  const std::vector<std::uint8_t> mask_;
  PoisonedOutput output_;
  std::vector<bool> tile_seen_;
  std::int64_t tiles_ = 0;
  std::int64_t different_tiles_ = 0;
};

TEST_F(LargeRequest, StreamsThroughInBoundedMemory) {
  const ScratchFolder folder;
  ChildProcess server(SAGE_SERVER_PROGRAM, {"--backend", "cpu", "--listen", "127.0.0.1:0",
                                            "--port-file", folder.File("port")});
  std::string port;
  ASSERT_TRUE(server.Await([&] {
    std::ifstream file(folder.File("port"));
    return static_cast<bool>(std::getline(file, port));
  })) << server.err();
  const auto stub = v1::Attention::NewStub(
      grpc::CreateChannel("127.0.0.1:" + port, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  const auto stream = stub->AttendStream(&context);

  v1::AttendStreamRequest opening;
  *opening.mutable_header() = Header();
  ASSERT_TRUE(stream->Write(opening));
  v1::AttendStreamResponse response;
  ASSERT_TRUE(stream->Read(&response)) << stream->Finish().error_message();
  const v1::Accepted accepted = response.accepted();
  const auto units = static_cast<std::uint32_t>(accepted.units_size());

  std::mutex mutex;
  std::condition_variable answered;
  std::uint64_t ahead_bytes = 0;  // sent, of units not yet answered
  bool ended = false;
  const auto payload_bytes = [&](std::uint32_t index) {
    const v1::Unit& unit = accepted.units(static_cast<int>(index));
    const std::int64_t kv_rows = unit.kv_unit() == index ? 2 * problem_.seqlen_k : 0;
    return static_cast<std::uint64_t>(unit.kv_head_count() * (unit.q_count() + kv_rows) *
                                      problem_.head_dim) *
           kElementBytes;
  };
  std::thread sender([&] {
    for (std::uint32_t index = 0; index < units; ++index) {
      {
        std::unique_lock lock(mutex);
        answered.wait(lock, [&] {
          return ended || ahead_bytes + payload_bytes(index) <= accepted.window_bytes();
        });
        if (ended) return;
        ahead_bytes += payload_bytes(index);
      }
      const v1::Unit& unit = accepted.units(static_cast<int>(index));
      const auto send_all = [&](v1::TensorRole role, const std::vector<std::byte>& tensor,
                                std::int64_t begin, std::int64_t count) {
        std::uint64_t offset = 0;
        for (std::int64_t h = 0; h < unit.kv_head_count(); ++h) {
          std::string rows = Rows(tensor, unit.kv_head_begin() + h, begin, count);
          const std::uint64_t bytes = rows.size();
          if (!Send(*stream, role, index, offset, std::move(rows))) return false;
          offset += bytes;
        }
        return true;
      };
      if (!send_all(v1::TENSOR_ROLE_Q, data_.q, unit.q_begin(), unit.q_count())) return;
      if (unit.kv_unit() != index) continue;
      if (!send_all(v1::TENSOR_ROLE_K, data_.k, 0, problem_.seqlen_k)) return;
      if (!send_all(v1::TENSOR_ROLE_V, data_.v, 0, problem_.seqlen_k)) return;
    }
    stream->WritesDone();
  });

  std::vector<std::string> pieces(units);  // of units that have begun to come
  v1::AttendTrailer trailer;
  while (stream->Read(&response)) {
    if (response.has_trailer()) {
      trailer = response.trailer();
      continue;
    }
    const std::uint32_t index = response.chunk().unit();
    if (index >= units || response.chunk().offset() != pieces[index].size()) {
      ADD_FAILURE() << "chunk out of place: " << response.chunk().ShortDebugString();
      break;
    }
    pieces[index] += response.data();
    const v1::Unit& unit = accepted.units(static_cast<int>(index));
    const std::uint64_t whole =
        unit.kv_head_count() * unit.q_count() * problem_.head_dim * kElementBytes;
    if (pieces[index].size() != whole) continue;
    Take(unit, pieces[index]);
    std::string().swap(pieces[index]);
    const std::lock_guard lock(mutex);
    ahead_bytes -= payload_bytes(index);
    answered.notify_one();
  }
  {
    const std::lock_guard lock(mutex);
    ended = true;
    answered.notify_one();
  }
  if (HasFailure()) context.TryCancel();
  sender.join();
  const grpc::Status status = stream->Finish();
  ASSERT_TRUE(status.ok()) << status.error_message();

  EXPECT_EQ(trailer.bytes_in(), 3 * kHeads * problem_.seqlen_q * problem_.head_dim * kElementBytes);
  EXPECT_EQ(tiles_, kHeads * problem_.tiles_q());
  EXPECT_EQ(different_tiles_, 0);
  const Comparison comparison =
      Compare(problem_, output_, Reference(problem_, data_, mask_, 1, kPeriod));
  EXPECT_LE(comparison.out.relative_l2, RelativeL2Limit(problem_.precision, problem_.dtype));

  const std::uint64_t server_peak = PeakBytes(std::to_string(server.pid()));
  const std::uint64_t client_peak = PeakBytes("self");
  EXPECT_LT(server_peak, kPeakLimitBytes);
  EXPECT_LT(client_peak, kPeakLimitBytes);
  RecordProperty("server_peak_mib", static_cast<int>(server_peak >> 20));
  RecordProperty("client_peak_mib", static_cast<int>(client_peak >> 20));
  RecordProperty("total_ms", static_cast<int>(trailer.timings().total() * 1e3));
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 0) << server.err();
}

}  // namespace
}  // namespace sage::testing
