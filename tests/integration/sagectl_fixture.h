// What tests of the sagectl program have in common.
#ifndef SAGE_TESTS_INTEGRATION_SAGECTL_FIXTURE_H_
#define SAGE_TESTS_INTEGRATION_SAGECTL_FIXTURE_H_

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "client/io/tensor_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/child_process.h"
#include "tests/support/faulty_server_fixture.h"
#include "tests/support/problem_generator.h"

namespace sage::testing {

struct Outcome {
  int exit_code = -1;
  std::string out;
  std::string err;
};

inline ElementType ElementOf(DType dtype) {
  return dtype == DType::kFloat16    ? ElementType::kFloat16
         : dtype == DType::kBFloat16 ? ElementType::kBFloat16
                                     : ElementType::kFloat32;
}

class SagectlTest : public FaultyServerFixture {
 protected:
  std::string Path(const std::string& name) const { return folder_.File(name); }

  // Runs sagectl, which finds the server through the environment.
  Outcome Run(const std::vector<std::string>& arguments) const {
    return RunWith({"SAGE_SERVER=" + server_target_}, arguments);
  }

  // Runs it with these variables of the environment alone, and a locale.
  static Outcome RunWith(std::vector<std::string> environment,
                         const std::vector<std::string>& arguments,
                         const std::string& program = SAGECTL_PROGRAM) {
    environment.emplace_back("LC_ALL=C.UTF-8");
    ChildProcess child(program, arguments, std::move(environment));
    const int exit_code = child.Wait().value_or(-1);
    return {exit_code, child.out(), child.err()};
  }

  void UseServer(const std::string& target) { server_target_ = target; }

  struct BadUsage {
    std::vector<std::string> arguments;
    std::string message;
  };

  // Each is refused as bad usage, with a text that contains its message.
  void ExpectRefused(const std::vector<BadUsage>& cases) const {
    for (const BadUsage& test : cases) {
      const Outcome outcome = Run(test.arguments);
      EXPECT_EQ(outcome.exit_code, 2) << test.message << ": " << outcome.err;
      EXPECT_THAT(outcome.err, ::testing::HasSubstr(test.message));
    }
  }

  void Write(const std::string& name, const NamedTensor& tensor, const void* data) const {
    auto writer = TensorWriter::Create(Path(name), {tensor});
    ASSERT_TRUE(writer.ok()) << writer.status();
    std::memcpy(writer->data(0), data, TensorBytes(tensor.type, tensor.shape).value());
    ASSERT_TRUE(writer->Commit().ok());
  }

  // Writes the tensors of a problem as q, k, v with this extension.
  void WriteInputs(const AttentionProblem& problem, const ProblemData& data,
                   const std::string& extension) const {
    const auto shape = [&](std::int64_t heads, std::int64_t rows) {
      return problem.layout == Layout::kHnd
                 ? std::vector<std::int64_t>{problem.batch, heads, rows, problem.head_dim}
                 : std::vector<std::int64_t>{problem.batch, rows, heads, problem.head_dim};
    };
    const ElementType type = ElementOf(problem.dtype);
    Write("q" + extension, {"q", type, shape(problem.num_heads_q, problem.seqlen_q)},
          data.q.data());
    Write("k" + extension, {"k", type, shape(problem.num_heads_kv, problem.seqlen_k)},
          data.k.data());
    Write("v" + extension, {"v", type, shape(problem.num_heads_kv, problem.seqlen_k)},
          data.v.data());
  }

  std::vector<std::string> InputArguments(const std::string& extension) const {
    return {"--q", Path("q" + extension), "--k", Path("k" + extension),
            "--v", Path("v" + extension)};
  }

  const ScratchFolder folder_;
  std::string server_target_;
};

class SagectlWithServerTest : public SagectlTest {
 protected:
  void SetUp() override {
    StartServer();
    UseServer(target());
  }
};

inline AttentionProblem SmallProblem() {
  AttentionProblem problem;
  problem.batch = 2;
  problem.num_heads_q = 4;
  problem.num_heads_kv = 2;
  problem.seqlen_q = 129;
  problem.seqlen_k = 200;
  problem.head_dim = 64;
  problem.return_lse = true;
  return problem;
}

}  // namespace sage::testing

#endif  // SAGE_TESTS_INTEGRATION_SAGECTL_FIXTURE_H_
