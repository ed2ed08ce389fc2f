#include "client/io/tensor_file.h"

#include <sys/stat.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sage {
namespace {

using ::testing::HasSubstr;

class TensorFileTest : public ::testing::Test {
 protected:
  TensorFileTest() {
    std::string pattern = ::testing::TempDir() + "tensor_file_test.XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~TensorFileTest() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  std::size_t FilesInFolder() const {
    return std::distance(std::filesystem::directory_iterator(folder_), {});
  }

  std::string folder_;
};

TEST_F(TensorFileTest, RoundTripsThroughBothFormats) {
  for (const char* name : {"x.npy", "x.safetensors"}) {
    auto writer = TensorWriter::Create(Path(name), {{"out", ElementType::kFloat32, {3, 5}}});
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (int i = 0; i < 15; ++i) reinterpret_cast<float*>(writer->data(0))[i] = 0.5f * i;
    ASSERT_TRUE(writer->Commit().ok());
    const auto file = TensorFile::Open(Path(name));
    ASSERT_TRUE(file.ok()) << file.status();
    const auto tensor = file->Find("out");
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    EXPECT_EQ(tensor->shape, (std::vector<std::int64_t>{3, 5}));
    for (int i = 0; i < 15; ++i) {
      EXPECT_EQ(reinterpret_cast<const float*>(tensor->data)[i], 0.5f * i);
    }
  }
}

TEST_F(TensorFileTest, LeavesNothingBehindUnlessCommitted) {
  {
    auto writer = TensorWriter::Create(Path("x.npy"), {{"out", ElementType::kFloat16, {4}}});
    ASSERT_TRUE(writer.ok()) << writer.status();
    EXPECT_FALSE(std::filesystem::exists(Path("x.npy")));
  }
  EXPECT_EQ(FilesInFolder(), 0u);
}

TEST_F(TensorFileTest, KeepsAnOldFileUntilTheNewOneIsWhole) {
  std::ofstream(Path("x.npy")) << "old";
  {
    auto writer = TensorWriter::Create(Path("x.npy"), {{"out", ElementType::kFloat16, {4}}});
    ASSERT_TRUE(writer.ok());
  }
  EXPECT_EQ(std::filesystem::file_size(Path("x.npy")), 3u);
  auto writer = TensorWriter::Create(Path("x.npy"), {{"out", ElementType::kFloat16, {4}}});
  ASSERT_TRUE(writer.ok() && writer->Commit().ok());
  EXPECT_TRUE(TensorFile::Open(Path("x.npy")).ok());
  EXPECT_EQ(FilesInFolder(), 1u);
}

TEST_F(TensorFileTest, SaysWhatIsWrongAndNamesTheFile) {
  EXPECT_EQ(TensorFile::Open(Path("missing.npy")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(TensorFile::Open(Path("x.bin")).status().message()),
              HasSubstr(".safetensors"));
  std::ofstream(Path("text.npy")) << "hello";
  EXPECT_THAT(std::string(TensorFile::Open(Path("text.npy")).status().message()),
              HasSubstr("text.npy: not a usable .npy"));
  std::ofstream(Path("none.npy")) << "";
  EXPECT_FALSE(TensorFile::Open(Path("none.npy")).ok());
  std::filesystem::create_directory(Path("folder.npy"));
  EXPECT_THAT(std::string(TensorFile::Open(Path("folder.npy")).status().message()),
              HasSubstr("regular file"));
  ASSERT_EQ(mkfifo(Path("pipe.npy").c_str(), 0600), 0);
  EXPECT_FALSE(TensorFile::Open(Path("pipe.npy")).ok());  // and does not wait for a writer
  EXPECT_FALSE(TensorWriter::Create(Path("pipe.npy"), {{"out", ElementType::kFloat16, {4}}}).ok());
  EXPECT_FALSE(
      TensorWriter::Create(Path("no/such/x.npy"), {{"out", ElementType::kFloat16, {4}}}).ok());
  EXPECT_THAT(std::string(TensorWriter::Create(Path("x.npy"), {{"o", ElementType::kBFloat16, {4}}})
                              .status()
                              .message()),
              HasSubstr("bfloat16"));
}

TEST_F(TensorFileTest, ListsTheTensorsThereAre) {
  auto writer = TensorWriter::Create(
      Path("x.safetensors"), {{"a", ElementType::kFloat16, {4}}, {"b", ElementType::kUInt8, {4}}});
  ASSERT_TRUE(writer.ok() && writer->Commit().ok());
  const auto file = TensorFile::Open(Path("x.safetensors"));
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE(file->Has("b"));
  EXPECT_THAT(std::string(file->Find("q").status().message()), HasSubstr("there are: a, b"));
}

}  // namespace
}  // namespace sage
