// TOML files of a known form, read strictly.
#ifndef SAGE_CONFIG_TOML_READER_H_
#define SAGE_CONFIG_TOML_READER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sage {

// A table of a file. Reading leaves a value alone where the key is absent; the first thing that is
// wrong is kept for Finish(). Copies refer to the same file, which they keep.
class TomlTable {
 public:
  // The whole file. NOT_FOUND where there is none, INVALID_ARGUMENT, with file and line, where it
  // is not TOML.
  static absl::StatusOr<TomlTable> Open(const std::string& path);

  void Read(const std::string& key, std::string* value);
  void Read(const std::string& key, std::int64_t* value);
  void Read(const std::string& key, std::optional<std::int64_t>* value);
  void Read(const std::string& key, double* value);  // takes whole numbers too
  void Read(const std::string& key, bool* value);
  void Read(const std::string& key, std::vector<std::string>* values);
  // A value as it would stand on a command line: the text of a string, a number or a truth value,
  // or of each element of an array of those. Nothing where the key is absent.
  std::vector<std::string> Texts(const std::string& key);
  // The tables of `[[key]]`, and the named ones of `[key.NAME]` by name.
  std::vector<TomlTable> Tables(const std::string& key);
  std::vector<std::pair<std::string, TomlTable>> NamedTables(const std::string& key);

  bool Has(const std::string& key) const;
  // Says that something is wrong with a key's value, for Finish().
  void Refuse(const std::string& key, const std::string& why);

  // INVALID_ARGUMENT, with file and line, where a value was of the wrong type or refused, or a key
  // was not read.
  absl::Status Finish() const;

 private:
  struct State;
  explicit TomlTable(std::shared_ptr<State> state);

  std::shared_ptr<State> state_;
};

}  // namespace sage

#endif  // SAGE_CONFIG_TOML_READER_H_
