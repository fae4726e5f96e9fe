#include "statecell/tensor.h"

#include <array>
#include <functional>
#include <numeric>

#include "statecell/errors.h"
#include "text.h"

namespace statecell {
namespace {

struct Kind {
  const char* name;
  std::size_t size;
};
constexpr std::array<Kind, 10> kKinds{{{"unspecified", 1},
                                       {"float32", 4},
                                       {"float64", 8},
                                       {"float16", 2},
                                       {"int64", 8},
                                       {"int32", 4},
                                       {"int16", 2},
                                       {"int8", 1},
                                       {"uint8", 1},
                                       {"bool", 1}}};

const Kind& kind_of(DType dtype) {
  const auto index = static_cast<std::size_t>(dtype);
  if (index == 0 || index >= kKinds.size()) {
    throw DtypeMismatch("a tensor has dtype code " + std::to_string(index) + ", which is not known here");
  }
  return kKinds[index];
}

std::size_t product(Shape::const_iterator first, Shape::const_iterator last) {
  return static_cast<std::size_t>(std::accumulate(first, last, std::int64_t{1}, std::multiplies<>()));
}

}  // namespace

std::size_t size_of(DType dtype) { return kind_of(dtype).size; }
std::string name_of(DType dtype) { return kind_of(dtype).name; }
std::int64_t count_of(const Shape& shape) { return static_cast<std::int64_t>(product(shape.begin(), shape.end())); }

Tensor::Tensor(DType dtype, Shape shape, std::string bytes) : dtype_(dtype), shape_(std::move(shape)), bytes_(std::move(bytes)) {
  check_count();
}

void Tensor::check(DType wanted) const {
  if (dtype_ != wanted) throw DtypeMismatch("the tensor holds " + name_of(dtype_) + ", not " + name_of(wanted));
}

void Tensor::check_count() const {
  if (product(shape_.begin(), shape_.end()) * size_of(dtype_) != bytes_.size()) {
    const std::string bytes = std::to_string(bytes_.size());
    throw ShapeMismatch("a tensor of " + name_of(dtype_) + " " + show(shape_) + " came with " + bytes + " bytes");
  }
}

Tensor Tensor::slice(std::size_t axis, std::int64_t start, std::int64_t stop) const {
  const std::size_t inner = product(shape_.begin() + axis + 1, shape_.end()) * size_of(dtype_);
  const std::size_t outer = product(shape_.begin(), shape_.begin() + axis);
  std::string part;
  for (std::size_t i = 0; i < outer; ++i) {
    part.append(bytes_, (i * shape_[axis] + start) * inner, (stop - start) * inner);
  }
  Shape shape = shape_;
  shape[axis] = stop - start;
  return Tensor(dtype_, std::move(shape), std::move(part));
}

Tensor Tensor::concat(const std::vector<Tensor>& tensors, std::size_t axis) {
  const Tensor& first = tensors.front();
  Shape shape = first.shape_;
  shape[axis] = 0;
  for (const Tensor& tensor : tensors) shape[axis] += tensor.shape_[axis];
  const std::size_t outer = product(shape.begin(), shape.begin() + axis);
  std::string whole;
  for (std::size_t i = 0; i < outer; ++i) {
    for (const Tensor& tensor : tensors) {
      const std::size_t part = tensor.bytes_.size() / outer;
      whole.append(tensor.bytes_, i * part, part);
    }
  }
  return Tensor(first.dtype_, std::move(shape), std::move(whole));
}

}  // namespace statecell
