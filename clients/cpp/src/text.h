// Shapes and names in messages.
#pragma once

#include <sstream>
#include <string>

namespace statecell {

// "1, 2, 3"
template <class Items>
std::string list(const Items& items) {
  std::ostringstream text;
  const char* comma = "";
  for (const auto& item : items) {
    text << comma << item;
    comma = ", ";
  }
  return text.str();
}

// "[1, 2, 3]"
template <class Items>
std::string show(const Items& items) {
  return "[" + list(items) + "]";
}

}  // namespace statecell
