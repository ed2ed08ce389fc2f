// Whether text is XML that a viewer would take.
#ifndef SAGE_TESTS_SUPPORT_XML_CHECK_H_
#define SAGE_TESTS_SUPPORT_XML_CHECK_H_

#include <cctype>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace sage::testing {

// Looks at what our own writers could get wrong: tags that do not pair up, attributes without
// quotes, bare `<`, `&` or quotes. Knows elements, attributes, text, entities and <!DOCTYPE>.
inline ::testing::AssertionResult IsWellFormedXml(const std::string& xml) {
  std::vector<std::string> open;
  std::size_t i = 0;
  const auto fail = [&](const std::string& why) {
    return ::testing::AssertionFailure()
           << why << " at byte " << i << ": " << xml.substr(i < 30 ? 0 : i - 30, 60);
  };
  const auto is_name = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '-';
  };
  while (i < xml.size()) {
    if (xml[i] == '&') {
      const std::size_t end = xml.find(';', i);
      if (end == std::string::npos || end - i > 6) return fail("a bare &");
      i = end + 1;
    } else if (xml[i] == '>') {
      return fail("a bare >");
    } else if (xml[i] != '<') {
      ++i;
    } else if (xml.compare(i, 9, "<!DOCTYPE") == 0) {
      i = xml.find('>', i) + 1;
    } else {
      ++i;
      const bool closes = xml[i] == '/';
      if (closes) ++i;
      std::string name;
      while (i < xml.size() && is_name(xml[i])) name += xml[i++];
      if (name.empty()) return fail("a bare <");
      while (i < xml.size() && xml[i] != '>' && xml[i] != '/') {  // attributes: NAME="TEXT"
        if (std::isspace(static_cast<unsigned char>(xml[i]))) {
          ++i;
          continue;
        }
        while (i < xml.size() && is_name(xml[i])) ++i;
        if (xml.compare(i, 2, "=\"") != 0) return fail("an attribute without a quoted value");
        const std::size_t end = xml.find_first_of("\"<", i + 2);
        if (end == std::string::npos || xml[end] == '<') return fail("an attribute without end");
        i = end + 1;
      }
      if (i >= xml.size()) return fail("a tag without end");
      if (closes) {
        if (open.empty() || open.back() != name) return fail("a stray </" + name);
        open.pop_back();
      } else if (xml[i] != '/') {
        open.push_back(name);
      }
      i = xml.find('>', i) + 1;
    }
  }
  if (!open.empty()) return fail("no end of " + open.back());
  return ::testing::AssertionSuccess();
}

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_XML_CHECK_H_
