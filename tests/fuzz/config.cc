// Configuration files.
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "config/toml_reader.h"
#include "server/token_file.h"
#include "tests/fuzz/targets.h"

namespace sage::fuzz {
namespace {

// Reads every value in every way that the programs do.
void ReadAll(TomlTable table) {
  std::string text;
  std::int64_t number = 0;
  double real = 0;
  bool flag = false;
  std::vector<std::string> list;
  for (const char* key : {"listen", "window", "tenant", "sha256", "reflection"}) {
    TomlTable again = table;
    again.Texts(key);
    again.Read(key, &text);
    again.Read(key, &number);
    again.Read(key, &real);
    again.Read(key, &flag);
    again.Read(key, &list);
  }
  for (TomlTable& inner : table.Tables("request")) ReadAll(inner);
  for (auto& [name, inner] : table.NamedTables("tenant")) ReadAll(inner);
}

}  // namespace

void Config(Input input) {
  static const int file = memfd_create("config", 0);
  static const std::string path = absl::StrCat("/proc/self/fd/", file);
  Promise(ftruncate(file, 0) == 0 &&
              pwrite(file, input.data(), input.size(), 0) == static_cast<ssize_t>(input.size()),
          "a file in memory can be written");
  auto table = TomlTable::Open(path);
  if (table.ok()) {
    ReadAll(*table);
    static_cast<void>(table->Finish());
  }
  static_cast<void>(server::TokenFile::Open(path));
}

}  // namespace sage::fuzz
