// Does what it is told on stdin through the C++ client, and prints what came out (driver.py has the other end).
#include <cxxabi.h>
#include <statecell/client.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <sstream>

using statecell::Session;
using statecell::Tensor;
using statecell::Tensors;

std::optional<statecell::Client> client;
std::map<std::string, Session> sessions;

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

Tensor value(const std::string& text) {
  const std::size_t colon = text.find(':');
  std::vector<double> numbers;
  for (const std::string& number : split(colon == std::string::npos ? text : text.substr(colon + 1), ',')) {
    numbers.push_back(std::stod(number));
  }
  if (colon == std::string::npos) return numbers;
  statecell::Shape shape;
  for (const std::string& size : split(text.substr(0, colon), 'x')) shape.push_back(std::stoll(size));
  return Tensor(numbers, shape);
}

bool is_named(const std::string& text) { return text.find('=') != std::string::npos; }

Tensors named(const std::string& text) {
  Tensors tensors;
  for (const std::string& item : split(text, ';')) {
    const std::size_t equals = item.find('=');
    tensors.emplace(item.substr(0, equals), value(item.substr(equals + 1)));
  }
  return tensors;
}

std::string show(const Tensors& tensors) {
  std::ostringstream text;
  const char* semicolon = "";
  for (const auto& [name, tensor] : tensors) {
    text << semicolon << name << ':' << statecell::name_of(tensor.dtype()) << ':';
    const char* x = "";
    for (const std::int64_t size : tensor.shape()) {
      text << x << size;
      x = "x";
    }
    text << ':';
    for (const unsigned char byte : tensor.bytes()) text << "0123456789abcdef"[byte >> 4] << "0123456789abcdef"[byte & 15];
    semicolon = ";";
  }
  return text.str();
}

std::string show(const Tensor& tensor) { return show(Tensors{{"", tensor}}); }

// The lines of stdin up to "end", as a range: each is read when it is asked for.
template <class Item>
struct Lines {
  Item (*parse)(const std::string&);
  struct iterator {
    Item (*parse)(const std::string&);
    std::string line;
    void next() {
      if (!std::getline(std::cin, line)) line = "end";
    }
    Item operator*() const { return parse(line); }
    iterator& operator++() {
      next();
      return *this;
    }
    bool operator!=(std::nullptr_t) const { return line != "end"; }
  };
  iterator begin() const {
    iterator first{parse, {}};
    first.next();
    return first;
  }
  std::nullptr_t end() const { return nullptr; }
};

using Words = std::vector<std::string>;
Session& at(const Words& words) { return sessions.at(words.at(1)); }

void put(const std::string& name, Session session) {
  sessions.erase(name);
  sessions.emplace(name, std::move(session));
}

const std::map<std::string, std::function<std::string(const Words&)>> commands = {
    {"connect",
     [](const Words& words) {
       using std::chrono::milliseconds;
       client.emplace(split(words.at(1), ','), statecell::Retry{.timeout = milliseconds(std::stoi(words.at(2))),
                                                               .first_pause = milliseconds(10),
                                                               .longest_pause = milliseconds(50),
                                                               .silence = milliseconds(std::stoi(words.at(3)))});
       return "";
     }},
    {"session",
     [](const Words& words) {
       statecell::SessionOptions options{.batch = std::stoi(words.at(3)), .durable = words.at(4) == "1"};
       if (words.size() > 5) options.state = named(words.at(5));
       put(words.at(1), client->session(words.at(2), options));
       return "";
     }},
    {"attach",
     [](const Words& words) {
       put(words.at(1), client->attach(words.at(2), words.at(3) == "1"));
       return "";
     }},
    {"restore",
     [](const Words& words) {
       std::ifstream file(words.at(3), std::ios::binary);
       const std::string bytes{std::istreambuf_iterator<char>(file), {}};
       put(words.at(1), client->session(words.at(2), {.snapshot = statecell::Snapshot::from_bytes(bytes)}));
       return "";
     }},
    {"save",
     [](const Words& words) {
       std::ofstream(words.at(2), std::ios::binary) << at(words).snapshot().bytes;
       return "";
     }},
    {"step",
     [](const Words& words) {
       return is_named(words.at(2)) ? show(at(words).step(named(words[2]))) : show(at(words).step(value(words[2])));
     }},
    {"run",
     [](const Words& words) { return is_named(words.at(2)) ? show(at(words).run(named(words[2]))) : show(at(words).run(value(words[2]))); }},
    {"stream",
     [](const Words& words) {
       std::cout << "ok" << std::endl;
       if (words.size() > 2) {
         for (const Tensors& y : at(words).stream(Lines<Tensors>{named})) std::cout << "ok " << show(y) << std::endl;
       } else {
         for (const Tensor& y : at(words).stream(Lines<Tensor>{value})) std::cout << "ok " << show(y) << std::endl;
       }
       return "";
     }},
    {"infer", [](const Words& words) { return show(client->infer(words.at(1), named(words.at(2)))); }},
    {"state", [](const Words& words) { return show(at(words).state()); }},
    {"index", [](const Words& words) { return std::to_string(at(words).step_index()); }},
    {"id", [](const Words& words) { return at(words).id(); }},
    {"fork",
     [](const Words& words) {
       const Words names = split(words.at(2), ',');
       std::vector<Session> forks = at(words).fork(static_cast<int>(names.size()));
       for (std::size_t i = 0; i < names.size(); ++i) put(names[i], std::move(forks.at(i)));
       return "";
     }},
    {"reset",
     [](const Words& words) {
       at(words).reset();
       return "";
     }},
    {"close",
     [](const Words& words) {
       at(words).close();
       return "";
     }},
    {"models",
     [](const Words&) {
       std::string names;
       for (const statecell::Model& model : client->models()) names += (names.empty() ? "" : ",") + model.name;
       return names;
     }},
    {"sessions",
     [](const Words& words) {
       std::string ids;
       for (const statecell::SessionInfo& session : client->sessions(words.at(1))) ids += (ids.empty() ? "" : ",") + session.id;
       return ids;
     }},
};

std::string kind_of(const std::exception& error) {
  char* name = abi::__cxa_demangle(typeid(error).name(), nullptr, nullptr, nullptr);
  const std::string kind = std::string(name).substr(sizeof("statecell::") - 1);
  std::free(name);
  return kind;
}

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    const Words words = split(line, ' ');
    try {
      const std::string answer = commands.at(words.at(0))(words);
      std::cout << "ok " << answer << std::endl;
    } catch (const statecell::StatecellError& error) {
      std::cout << "error " << kind_of(error) << ' ' << error.reason() << ' ' << error.what() << std::endl;
    }
  }
  sessions.clear();
}
