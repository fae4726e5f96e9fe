#include "layout.h"

#include <algorithm>

#include "convert.h"
#include "statecell/errors.h"
#include "text.h"

namespace statecell {
namespace {

const char* const kSeqLen = "seq_len";
const char* const kBatch = "batch";
using Axes = std::vector<std::string>;

bool is_symbol(const std::string& axis) { return axis == kSeqLen || axis == kBatch; }

int find(const Axes& axes, const std::string& axis) {
  const auto at = std::find(axes.begin(), axes.end(), axis);
  return at == axes.end() ? -1 : static_cast<int>(at - axes.begin());
}

Axes without(Axes axes, const char* axis) {
  axes.erase(std::remove(axes.begin(), axes.end(), axis), axes.end());
  return axes;
}

// The axis's size, 0 where it is not known.
std::int64_t size_in(const std::string& axis, const Sizes& sizes) {
  if (!is_symbol(axis)) return std::stoll(axis);
  const auto known = sizes.find(axis);
  return known == sizes.end() ? 0 : known->second;
}

Shape shape_of(const Axes& axes, const Sizes& sizes) {
  Shape shape;
  for (const std::string& axis : axes) shape.push_back(size_in(axis, sizes));
  return shape;
}

// The shape of bare numbers, where at most one size is not known.
Shape unflattened(std::int64_t count, const Axes& axes, const Sizes& sizes) {
  Shape shape = shape_of(axes, sizes);
  if (std::count(shape.begin(), shape.end(), 0) > 1) return {count};
  std::int64_t known = 1;
  for (std::int64_t size : shape) known *= std::max<std::int64_t>(size, 1);
  std::replace(shape.begin(), shape.end(), std::int64_t{0}, std::max<std::int64_t>(count / known, 1));
  return shape;
}

// Whether the shape is that of the axes; learns the sizes that it is the first to show.
bool fits(const Shape& shape, const Axes& axes, Sizes& sizes) {
  if (shape.size() != axes.size()) return false;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    if (is_symbol(axes[i])) sizes.emplace(axes[i], shape[i]);
    if (size_in(axes[i], sizes) != shape[i]) return false;
  }
  return true;
}

[[noreturn]] void refuse_shape(const std::string& name, const Tensor& tensor, const Axes& axes, const Sizes& sizes) {
  Axes wanted = axes;
  for (std::string& axis : wanted) {
    if (is_symbol(axis) && sizes.count(axis)) axis += "=" + std::to_string(sizes.at(axis));
  }
  const std::string got = tensor.shaped() ? "shape " + show(tensor.shape()) : std::to_string(tensor.size()) + " numbers";
  throw ShapeMismatch("'" + name + "' has " + got + ", expected " + show(wanted),
                      {.metadata = {{"field", name}, {"got", got}, {"expected", show(wanted)}}});
}

Tensor shaped(const TensorSpec& spec, const Tensor& given, const Axes& axes, Sizes& sizes) {
  if (given.size() == 0) throw EmptyTensor("'" + spec.name + "' is empty", {.metadata = {{"field", spec.name}}});
  Shape shape = given.shaped() ? given.shape() : unflattened(given.size(), axes, sizes);
  if (!fits(shape, axes, sizes) || count_of(shape) != given.size()) refuse_shape(spec.name, given, axes, sizes);
  return convert(spec, given).as(std::move(shape));
}

void check_names(const std::vector<TensorSpec>& specs, const Tensors& tensors) {
  Axes names;
  for (const TensorSpec& spec : specs) names.push_back(spec.name);
  for (const auto& [name, _] : tensors) {
    if (find(names, name) >= 0) continue;
    throw InvalidRequest("there is no '" + name + "', expected " + list(names), {.metadata = {{"field", name}}});
  }
  for (const std::string& name : names) {
    if (!tensors.count(name)) throw InvalidRequest("'" + name + "' is needed and was not given", {.metadata = {{"field", name}}});
  }
}

}  // namespace

Tensors Layout::step(const Tensors& inputs) const {
  check_names(spec_.inputs, inputs);
  Tensors tensors;
  for (const TensorSpec& spec : spec_.inputs) {
    Sizes sizes{{kBatch, batch_}, {kSeqLen, 1}};
    const Tensor& given = inputs.at(spec.name);
    const Axes row = without(spec.shape, kSeqLen);
    const bool bare = batch_ == 1 && given.shaped() && given.shape().size() < row.size();
    const Tensor tensor = shaped(spec, given, bare ? without(row, kBatch) : row, sizes);
    tensors.emplace(spec.name, tensor.as(shape_of(spec.shape, sizes)));
  }
  return tensors;
}

Tensors Layout::run(const Tensors& inputs) const { return conform(spec_.inputs, inputs, {{kBatch, batch_}}); }

std::vector<Tensors> Layout::cut(const Tensors& inputs, std::int64_t steps) const {
  const auto timed = [](const TensorSpec& spec) { return find(spec.shape, kSeqLen) >= 0; };
  const bool comes_apart = std::all_of(spec_.inputs.begin(), spec_.inputs.end(), timed) &&
                           std::all_of(spec_.outputs.begin(), spec_.outputs.end(), timed) && !spec_.inputs.empty();
  if (!comes_apart) return {inputs};
  const TensorSpec& first = spec_.inputs.front();
  const std::int64_t length = inputs.at(first.name).shape()[find(first.shape, kSeqLen)];
  if (length <= steps) return {inputs};
  std::vector<Tensors> pieces;
  for (std::int64_t start = 0; start < length; start += steps) {
    Tensors piece;
    for (const TensorSpec& spec : spec_.inputs) {
      piece.emplace(spec.name, inputs.at(spec.name).slice(find(spec.shape, kSeqLen), start, std::min(start + steps, length)));
    }
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

Tensors Layout::join(const std::vector<Tensors>& pieces) const {
  if (pieces.size() == 1) return pieces.front();
  Tensors joined;
  for (const TensorSpec& spec : spec_.outputs) {
    std::vector<Tensor> parts;
    for (const Tensors& piece : pieces) parts.push_back(piece.at(spec.name));
    joined.emplace(spec.name, Tensor::concat(parts, find(spec.shape, kSeqLen)));
  }
  return joined;
}

Tensors Layout::answer(const Tensors& outputs) const {
  Tensors answers;
  for (const TensorSpec& spec : spec_.outputs) {
    const Tensor& output = outputs.at(spec.name);
    Shape shape;
    for (std::size_t i = 0; i < spec.shape.size(); ++i) {
      if (spec.shape[i] != kSeqLen && (spec.shape[i] != kBatch || batch_ > 1)) shape.push_back(output.shape()[i]);
    }
    answers.emplace(spec.name, output.as(std::move(shape)));
  }
  return answers;
}

const std::string& Layout::only_input() const {
  if (spec_.inputs.size() == 1 && spec_.outputs.size() == 1) return spec_.inputs.front().name;
  Axes names;
  for (const auto* specs : {&spec_.inputs, &spec_.outputs}) {
    for (const TensorSpec& spec : *specs) names.push_back(spec.name);
  }
  throw InvalidRequest("model '" + spec_.name + "' has the inputs and outputs " + list(names) + "; give the inputs by their names");
}

Tensors conform(const std::vector<TensorSpec>& specs, const Tensors& tensors, Sizes sizes) {
  check_names(specs, tensors);
  Tensors conforming;
  for (const TensorSpec& spec : specs) conforming.emplace(spec.name, shaped(spec, tensors.at(spec.name), spec.shape, sizes));
  return conforming;
}

std::vector<TensorSpec> states_of(const ModelSpec& spec) {
  std::vector<TensorSpec> specs;
  for (const StateSpec& state : spec.states) specs.push_back(state.input);
  return specs;
}

}  // namespace statecell
