#include "config/toml_reader.h"

#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "toml++/toml.h"

namespace sage {

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
  // Which the parser would read as a file without any key.
  if (std::filesystem::is_directory(path)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is a directory, not a file"));
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

void TomlTable::Read(const std::string& key, std::vector<std::string>* values) {
  const toml::node* node = state_->Find(key);
  if (node == nullptr) return;
  const toml::array* array = node->as_array();
  if (array == nullptr || (!array->empty() && !array->is_homogeneous<std::string>())) {
    Refuse(key, "must be strings, in brackets");
    return;
  }
  values->clear();
  for (const toml::node& element : *array) values->push_back(element.as_string()->get());
}

std::vector<std::string> TomlTable::Texts(const std::string& key) {
  std::vector<std::string> texts;
  const toml::node* node = state_->Find(key);
  if (node == nullptr) return texts;
  const auto add = [&](const toml::node& value) {
    if (const auto text = value.value_exact<std::string>()) {
      texts.push_back(*text);
    } else if (const auto whole = value.value_exact<std::int64_t>()) {
      texts.push_back(absl::StrCat(*whole));
    } else if (const auto number = value.value_exact<double>()) {
      texts.push_back(absl::StrCat(*number));
    } else if (const auto truth = value.value_exact<bool>()) {
      texts.emplace_back(*truth ? "true" : "false");
    } else {
      Refuse(key, "must be a string, a number, true or false, or an array of those");
    }
  };
  if (const toml::array* array = node->as_array()) {
    for (const toml::node& element : *array) add(element);
  } else {
    add(*node);
  }
  return texts;
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

bool TomlTable::Has(const std::string& key) const { return state_->table->contains(key); }

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

}  // namespace sage
