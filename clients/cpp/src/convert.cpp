#include "convert.h"

#include <cmath>
#include <limits>

#include "statecell/errors.h"

namespace statecell {
namespace {

[[noreturn]] void refuse(const TensorSpec& spec, const Tensor& given) {
  throw DtypeMismatch("'" + spec.name + "' holds " + name_of(given.dtype()) + ", which does not convert exactly to " + spec.dtype,
                      {.metadata = {{"field", spec.name}, {"got", name_of(given.dtype())}, {"expected", spec.dtype}}});
}

// Whether `number` is one of T's. The upper bound is the power of two above the largest T: that one is exact as a double.
template <class T, class From>
bool holds(From number) {
  if constexpr (std::is_floating_point_v<T>) {
    return true;
  } else if constexpr (std::is_floating_point_v<From>) {
    const double above = std::ldexp(1.0, std::numeric_limits<T>::digits);
    return std::trunc(number) == number && number >= static_cast<double>(std::numeric_limits<T>::min()) && number < above;
  } else {
    return static_cast<std::int64_t>(number) >= static_cast<std::int64_t>(std::numeric_limits<T>::min()) &&
           static_cast<std::int64_t>(number) <= static_cast<std::int64_t>(std::numeric_limits<T>::max());
  }
}

template <class To, class From>
Tensor converted(const TensorSpec& spec, const Tensor& given) {
  std::string bytes;
  for (const From number : given.values<From>()) {
    if (!holds<To>(number)) refuse(spec, given);
    const To value = static_cast<To>(number);
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  return Tensor(dtype_of<To>(), given.shape(), std::move(bytes));
}

template <class From>
Tensor from(const TensorSpec& spec, const Tensor& given) {
  if (spec.dtype == "float32") return converted<float, From>(spec, given);
  if (spec.dtype == "float64") return converted<double, From>(spec, given);
  if (spec.dtype == "int64") return converted<std::int64_t, From>(spec, given);
  if (spec.dtype == "int32") return converted<std::int32_t, From>(spec, given);
  if (spec.dtype == "int16") return converted<std::int16_t, From>(spec, given);
  if (spec.dtype == "int8") return converted<std::int8_t, From>(spec, given);
  if (spec.dtype == "uint8") return converted<std::uint8_t, From>(spec, given);
  refuse(spec, given);
}

}  // namespace

Tensor convert(const TensorSpec& spec, const Tensor& given) {
  if (name_of(given.dtype()) == spec.dtype) return given;
  switch (given.dtype()) {
    case DType::float32: return from<float>(spec, given);
    case DType::float64: return from<double>(spec, given);
    case DType::int64: return from<std::int64_t>(spec, given);
    case DType::int32: return from<std::int32_t>(spec, given);
    case DType::int16: return from<std::int16_t>(spec, given);
    case DType::int8: return from<std::int8_t>(spec, given);
    case DType::uint8: return from<std::uint8_t>(spec, given);
    default: refuse(spec, given);
  }
}

}  // namespace statecell
