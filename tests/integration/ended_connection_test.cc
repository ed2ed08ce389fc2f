// A call that meets the end of its connection: it goes over the next one if nobody has read it.
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>

#include "absl/strings/str_cat.h"
#include "client/client.h"
#include "gtest/gtest.h"
#include "tests/support/problem_generator.h"
#include "tests/support/server_fixture.h"

namespace sage::testing {
namespace {

// HTTP/2 (RFC 9113): frames are 3 bytes of length, type, flags, 4 bytes of stream, payload.
constexpr std::size_t kPrefaceBytes = 24;
constexpr std::size_t kFrameHeaderBytes = 9;
constexpr char kHeaders = 1;
constexpr std::string_view kEmptySettings("\0\0\0\4\0\0\0\0\0", 9);

// Says that the connection ends, streams up to `last_stream` being dealt with.
std::string GoAway(char last_stream) {
  std::string frame("\0\0\10\7\0\0\0\0\0\0\0\0\0\0\0\0\0", 17);
  frame[kFrameHeaderBytes + 3] = last_stream;
  return frame;
}

bool HasHeaders(const std::string& received) {
  std::size_t at = kPrefaceBytes;
  while (received.size() >= at + kFrameHeaderBytes) {
    if (received[at + 3] == kHeaders) return true;
    std::size_t size = 0;
    for (std::size_t i = 0; i < 3; ++i)
      size = size << 8 | static_cast<std::uint8_t>(received[at + i]);
    at += kFrameHeaderBytes + size;
  }
  return false;
}

sockaddr_in Loopback(int port) {
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  name.sin_port = htons(static_cast<std::uint16_t>(port));
  return name;
}

// Reads what there is, and writes all of it to `to`. False at the end.
bool Pass(int from, int to) {
  std::array<char, 65536> piece;
  const ssize_t size = read(from, piece.data(), piece.size());
  for (ssize_t done = 0; done < size;) {
    const ssize_t written = send(to, piece.data() + done, size - done, MSG_NOSIGNAL);
    if (written <= 0) return false;
    done += written;
  }
  return size > 0;
}

// Listens before a server. The first connection it ends as soon as a call comes, of which it says
// that it is, or is not, dealt with; the second it joins to the server.
class EndingDoor {
 public:
  EndingDoor(int server_port, bool deals_with_call)
      : server_port_(server_port), deals_with_call_(deals_with_call) {
    listener_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in name = Loopback(0);
    socklen_t size = sizeof(name);
    if (bind(listener_, reinterpret_cast<const sockaddr*>(&name), size) != 0 ||
        listen(listener_, 1) != 0 ||
        getsockname(listener_, reinterpret_cast<sockaddr*>(&name), &size) != 0) {
      std::abort();
    }
    target_ = absl::StrCat("127.0.0.1:", ntohs(name.sin_port));
    thread_ = std::thread([this] {
      const int ended = End();
      if (deals_with_call_) shutdown(ended, SHUT_RDWR);
      Join();
      close(ended);
    });
  }
  ~EndingDoor() {
    shutdown(listener_, SHUT_RDWR);  // accept() returns
    thread_.join();
    close(listener_);
  }

  const std::string& target() const { return target_; }

 private:
  int End() const {
    const int fd = accept(listener_, nullptr, nullptr);
    std::string received;
    std::array<char, 4096> piece;
    ssize_t size = send(fd, kEmptySettings.data(), kEmptySettings.size(), MSG_NOSIGNAL);
    while (size > 0 && !HasHeaders(received)) {
      size = read(fd, piece.data(), piece.size());
      if (size > 0) received.append(piece.data(), size);
    }
    const std::string end = GoAway(deals_with_call_ ? 1 : 0);
    send(fd, end.data(), end.size(), MSG_NOSIGNAL);
    return fd;
  }

  void Join() const {
    const int fd = accept(listener_, nullptr, nullptr);
    if (fd < 0) return;
    const int server = socket(AF_INET, SOCK_STREAM, 0);
    const sockaddr_in name = Loopback(server_port_);
    if (connect(server, reinterpret_cast<const sockaddr*>(&name), sizeof(name)) != 0) std::abort();
    std::array<pollfd, 2> ends = {{{fd, POLLIN, 0}, {server, POLLIN, 0}}};
    bool open = true;
    while (open && poll(ends.data(), ends.size(), -1) > 0) {
      if (ends[0].revents != 0) open = Pass(fd, server);
      if (open && ends[1].revents != 0) open = Pass(server, fd);
    }
    close(server);
    close(fd);
  }

  const int server_port_;
  const bool deals_with_call_;
  int listener_;
  std::string target_;
  std::thread thread_;
};

class EndedConnection : public ServerFixture, public ::testing::WithParamInterface<bool> {
 protected:
  void SetUp() override { StartServer(); }

  // A request with a mask through `door`, as a message or as a stream.
  absl::Status Attend(const EndingDoor& door) const {
    AttentionProblem problem;
    problem.batch = 1;
    problem.num_heads_q = problem.num_heads_kv = 2;
    problem.seqlen_q = problem.seqlen_k = 300;
    problem.head_dim = 64;
    const ProblemData data = MakeData(problem, DataKind::kNormal, 7);
    const std::vector<std::uint8_t> dense = RandomDenseMask(problem, 1, 2, 0.7, 8);
    const absl::StatusOr<BlockMask> mask = BlockMask::FromDense(problem, 1, 2, dense);
    if (!mask.ok()) return mask.status();
    PoisonedOutput output(problem);
    AttendRequest request;
    request.problem = problem;
    request.mask = &*mask;
    request.q = data.q.data();
    request.k = data.k.data();
    request.v = data.v.data();
    request.out = output.out.data();
    const bool is_message = GetParam();
    const auto client =
        Client::Connect({.target = door.target(),
                         .inline_limit_bytes = is_message ? std::size_t{5} << 19 : 0,
                         .connections = 1});
    if (!client.ok()) return client.status();
    const absl::Status status = (*client)->Attend(request).status();
    if (!status.ok()) return status;
    const Comparison comparison = Compare(problem, output, Reference(problem, data, dense, 1, 2));
    EXPECT_LE(comparison.out.relative_l2, RelativeL2Limit(problem.precision, problem.dtype));
    return status;
  }
};

TEST_P(EndedConnection, CallThatNobodyHasReadGoesOverTheNext) {
  const EndingDoor door(server().port(), /*deals_with_call=*/false);
  const absl::Status status = Attend(door);
  EXPECT_TRUE(status.ok()) << status;
}

TEST_P(EndedConnection, CallThatAServerMayHaveBegunIsNotRepeated) {
  const EndingDoor door(server().port(), /*deals_with_call=*/true);
  EXPECT_EQ(Attend(door).code(), absl::StatusCode::kUnavailable);
}

INSTANTIATE_TEST_SUITE_P(All, EndedConnection, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Message" : "Stream"; });

}  // namespace
}  // namespace sage::testing
