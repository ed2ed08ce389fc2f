#include "client/cli/toml_reader.h"

#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "toml++/toml.h"

namespace sage::cli {

struct TomlTable::State {
  std::string path;
  std::shared_ptr<const toml::table> file;  // keeps `table`
  const toml::table* table = nullptr;
  std::set<std::string> known;
  absl::Status status;

  // The node of a key, from now on a known one.
  const toml::node* Find(const std::string& key) {
    known.insert(key);
    return table->get(key);
  }

  absl::Status Error(const toml::node& node, const std::string& what) const {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ":", node.source().begin.line, ": ", what));
  }

  template <typename T>
  void Read(const std::string& key, const char* kind, T* value) {
    const toml::node* node = Find(key);
    if (node == nullptr) return;
    if (const std::optional<T> read = node->value<T>()) {
      *value = *read;
    } else {
      status.Update(Error(*node, absl::StrCat(key, ": must be ", kind)));
    }
  }
};

absl::StatusOr<TomlTable> TomlTable::Open(const std::string& path) {
  if (!std::filesystem::exists(path)) {
    return absl::NotFoundError(absl::StrCat(path, ": there is no such file"));
  }
  auto state = std::make_shared<State>();
  state->path = path;
  try {
    state->file = std::make_shared<const toml::table>(toml::parse_file(path));
  } catch (const toml::parse_error& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ":", error.source().begin.line, ": ", std::string(error.description())));
  }
  state->table = state->file.get();
  return TomlTable(std::move(state));
}

TomlTable::TomlTable(std::shared_ptr<State> state) : state_(std::move(state)) {}

void TomlTable::Read(const std::string& key, std::string* value) {
  state_->Read(key, "a string", value);
}

void TomlTable::Read(const std::string& key, std::int64_t* value) {
  state_->Read(key, "a whole number", value);
}

void TomlTable::Read(const std::string& key, std::optional<std::int64_t>* value) {
  std::int64_t read = value->value_or(0);
  if (state_->Find(key) == nullptr) return;
  Read(key, &read);
  *value = read;
}

void TomlTable::Read(const std::string& key, double* value) {
  state_->Read(key, "a number", value);
}

void TomlTable::Read(const std::string& key, bool* value) {
  state_->Read(key, "true or false", value);
}

std::vector<TomlTable> TomlTable::Tables(const std::string& key) {
  std::vector<TomlTable> tables;
  const toml::node* node = state_->Find(key);
  if (node == nullptr) return tables;
  const toml::array* array = node->as_array();
  if (array == nullptr || !array->is_homogeneous<toml::table>()) {
    Refuse(key, absl::StrCat("must be tables, each under [[", key, "]]"));
    return tables;
  }
  for (const toml::node& element : *array) {
    auto state = std::make_shared<State>();
    state->path = state_->path;
    state->file = state_->file;
    state->table = element.as_table();
    tables.push_back(TomlTable(std::move(state)));
  }
  return tables;
}

std::vector<std::pair<std::string, TomlTable>> TomlTable::NamedTables(const std::string& key) {
  std::vector<std::pair<std::string, TomlTable>> tables;
  const toml::node* node = state_->Find(key);
  if (node == nullptr) return tables;
  const toml::table* named = node->as_table();
  if (named == nullptr || !named->is_homogeneous<toml::table>()) {
    Refuse(key, absl::StrCat("must be tables, each under [", key, ".NAME]"));
    return tables;
  }
  for (const auto& [name, element] : *named) {
    auto state = std::make_shared<State>();
    state->path = state_->path;
    state->file = state_->file;
    state->table = element.as_table();
    tables.emplace_back(std::string(name.str()), TomlTable(std::move(state)));
  }
  return tables;
}

void TomlTable::Refuse(const std::string& key, const std::string& why) {
  const toml::node* node = state_->Find(key);
  state_->status.Update(
      state_->Error(node == nullptr ? *state_->table : *node, absl::StrCat(key, ": ", why)));
}

absl::Status TomlTable::Finish() const {
  if (!state_->status.ok()) return state_->status;
  for (const auto& [key, node] : *state_->table) {
    if (state_->known.count(std::string(key.str())) > 0) continue;
    return state_->Error(node, absl::StrCat("unknown key '", std::string(key.str()),
                                            "'; known: ", absl::StrJoin(state_->known, ", ")));
  }
  return absl::OkStatus();
}

}  // namespace sage::cli
