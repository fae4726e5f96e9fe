// Tensors: numbers with a dtype and a shape.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace statecell {

// Named as NumPy names them; the numbers are the wire's.
enum class DType { float32 = 1, float64, float16, int64, int32, int16, int8, uint8, boolean };

std::size_t size_of(DType dtype);
std::string name_of(DType dtype);

using Shape = std::vector<std::int64_t>;
std::int64_t count_of(const Shape& shape);

// The dtype of a C++ number; a `long` is what its size says. The wire has no larger unsigned numbers than uint8.
template <class T>
constexpr DType dtype_of() {
  static_assert(std::is_arithmetic_v<T>, "a tensor holds numbers");
  if constexpr (std::is_same_v<T, bool>) {
    return DType::boolean;
  } else if constexpr (std::is_floating_point_v<T>) {
    static_assert(sizeof(T) <= 8, "a tensor holds float or double");
    return sizeof(T) == 4 ? DType::float32 : DType::float64;
  } else {
    static_assert(std::is_signed_v<T> || sizeof(T) == 1, "a tensor holds signed integers, or std::uint8_t");
    if (std::is_unsigned_v<T>) return DType::uint8;
    return sizeof(T) == 8 ? DType::int64 : sizeof(T) == 4 ? DType::int32 : sizeof(T) == 2 ? DType::int16 : DType::int8;
  }
}

// `Tensor x({0.1f, 0.2f})`, `Tensor x(numbers, {5, 1, 10})`. Without a shape the numbers, in row-major order, take the one that
// the model expects. A dtype that differs from the model's converts where every number can be held; floats are rounded.
class Tensor {
 public:
  // Raw little-endian bytes. Throws ShapeMismatch where they are not as many as shape and dtype say.
  Tensor(DType dtype, Shape shape, std::string bytes);

  template <class T>
  Tensor(const std::vector<T>& values, std::optional<Shape> shape = std::nullopt)
      : Tensor(dtype_of<T>(), std::move(shape), values.begin(), values.size()) {}

  template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>>
  Tensor(std::initializer_list<T> values) : Tensor(dtype_of<T>(), std::nullopt, values.begin(), values.size()) {}

  template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>>
  Tensor(T value) : Tensor(dtype_of<T>(), std::nullopt, &value, 1) {}

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  // Whether it came with a shape.
  bool shaped() const { return shaped_; }
  std::int64_t size() const { return static_cast<std::int64_t>(bytes_.size() / size_of(dtype_)); }
  const std::string& bytes() const { return bytes_; }

  // The numbers, row-major: `y.values<float>()`. Throws DtypeMismatch where they are of another type.
  template <class T>
  std::vector<T> values() const {
    check(dtype_of<T>());
    std::vector<T> values;
    values.reserve(size());
    for (std::size_t at = 0; at < bytes_.size(); at += sizeof(T)) {
      T value;
      std::memcpy(&value, bytes_.data() + at, sizeof(T));
      values.push_back(value);
    }
    return values;
  }

  // The same numbers under another shape.
  Tensor as(Shape shape) const { return Tensor(dtype_, std::move(shape), bytes_); }
  // The part from `start` to before `stop` along an axis.
  Tensor slice(std::size_t axis, std::int64_t start, std::int64_t stop) const;
  // Tensors of one dtype, one after the other along an axis.
  static Tensor concat(const std::vector<Tensor>& tensors, std::size_t axis);

  bool operator==(const Tensor& other) const {
    return dtype_ == other.dtype_ && shape_ == other.shape_ && bytes_ == other.bytes_;
  }

 private:
  template <class Iterator>
  Tensor(DType dtype, std::optional<Shape> shape, Iterator first, std::size_t count) : dtype_(dtype), shaped_(shape.has_value()) {
    shape_ = shape ? *std::move(shape) : Shape{static_cast<std::int64_t>(count)};
    bytes_.reserve(count * size_of(dtype));
    for (std::size_t i = 0; i < count; ++i, ++first) {
      const typename std::iterator_traits<Iterator>::value_type value = *first;
      bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    }
    check_count();
  }
  void check(DType wanted) const;
  void check_count() const;

  DType dtype_;
  bool shaped_ = true;
  Shape shape_;
  std::string bytes_;
};

// Tensors by name: `session.step(Tensors{{"u", u}, {"v", v}}).at("y")`.
struct Tensors : std::map<std::string, Tensor> {
  Tensors() = default;
  Tensors(std::initializer_list<value_type> items) : std::map<std::string, Tensor>(items) {}
};

}  // namespace statecell
