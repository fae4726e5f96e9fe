/** How a model's inputs and outputs lie: shapes put on flat numbers, checked before anything is sent. */
import { EmptyTensor, InvalidRequest, ShapeMismatch } from './errors.js';
import type { Model } from './generated/statecell/v1/Model.js';
import type { ModelSpec } from './generated/statecell/v1/ModelSpec.js';
import { convert, type DType, sizeOf, Tensor, type Values } from './tensor.js';

/** Inputs by their names. */
export type Named = { readonly [name: string]: Values };
export type Tensors = { [name: string]: Tensor };
type Axes = readonly string[];
type Sizes = { batch?: number; seq_len?: number };

export const SEQ_LEN = 'seq_len';
export const BATCH = 'batch';

export function isNamed(inputs: Values | Named): inputs is Named {
  return typeof inputs === 'object' && !(inputs instanceof Tensor) && !Array.isArray(inputs) && !ArrayBuffer.isView(inputs);
}

export function specOf({ name, spec }: Model): ModelSpec {
  if (!spec) throw new TypeError(`model '${name}' came without its spec`);
  return spec;
}

/** A session's layout: the model's, with `batch` rows. */
export class Layout {
  constructor(
    readonly spec: ModelSpec,
    readonly batch: number,
  ) {}

  /** One time step, given without a time axis and, where the session has one row, with or without a batch axis. */
  step(inputs: Values | Named): Tensors {
    const values = bind(this.spec, inputs);
    checkNames(this.spec.inputs, values);
    const tensors: Tensors = {};
    for (const { name, dtype, shape } of this.spec.inputs) {
      const sizes = { batch: this.batch, seq_len: 1 };
      const row = shape.filter((axis) => axis !== SEQ_LEN);
      const given = values[name] as Values;
      const bare = this.batch === 1 && given instanceof Tensor && given.shape.length < row.length;
      const axes = bare ? row.filter((axis) => axis !== BATCH) : row;
      tensors[name] = shaped(name, given, dtype, axes, sizes).as(shape.map((axis) => sizeIn(axis, sizes)));
    }
    return tensors;
  }

  /** Any number of time steps in the model's own layout. */
  run(inputs: Values | Named): Tensors {
    return conform(this.spec.inputs, bind(this.spec, inputs), { batch: this.batch });
  }

  /** Inputs in pieces of at most `steps` time steps; whole where they do not come apart. */
  cut(inputs: Tensors, steps: number): Tensors[] {
    const axes = this.spec.inputs.map(({ name, shape }) => [name, shape.indexOf(SEQ_LEN)] as const);
    const comesApart = [...this.spec.inputs, ...this.spec.outputs].every(({ shape }) => shape.includes(SEQ_LEN));
    const length = Math.max(...axes.map(([name, axis]) => inputs[name]?.shape[axis] ?? 1));
    if (!comesApart || length <= steps) return [inputs];
    return Array.from({ length: Math.ceil(length / steps) }, (_, i) => {
      const [start, stop] = [i * steps, Math.min((i + 1) * steps, length)];
      return Object.fromEntries(axes.map(([name, axis]) => [name, (inputs[name] as Tensor).slice(axis, start, stop)]));
    });
  }

  /** The outputs of consecutive pieces as those of one. */
  join(pieces: readonly Tensors[]): Tensors {
    const joined = ({ name, shape }: { name: string; shape: Axes }) =>
      Tensor.concat(pieces.map((piece) => piece[name] as Tensor), Math.max(shape.indexOf(SEQ_LEN), 0));
    return Object.fromEntries(this.spec.outputs.map((output) => [output.name, joined(output)]));
  }

  /** One time step's outputs without the time axis and, where the session has one row, without the batch axis. */
  answer(outputs: Tensors): Tensors {
    const kept = (axis: string) => axis !== SEQ_LEN && (axis !== BATCH || this.batch > 1);
    return Object.fromEntries(
      this.spec.outputs.map(({ name, shape }) => {
        const output = outputs[name] as Tensor;
        return [name, output.as(output.shape.filter((_, i) => kept(shape[i] as string)))];
      }),
    );
  }

  /** By name where the inputs came by name, otherwise the only one. */
  give(inputs: Values | Named, outputs: Tensors): Tensor | Tensors {
    return isNamed(inputs) ? outputs : (Object.values(outputs)[0] as Tensor);
  }
}

/** The inputs by name. Throws InvalidRequest. */
function bind(spec: ModelSpec, inputs: Values | Named): Named {
  const [first] = spec.inputs;
  if (isNamed(inputs)) return inputs;
  if (first === undefined || spec.inputs.length > 1 || spec.outputs.length > 1) {
    const names = [...spec.inputs, ...spec.outputs].map(({ name }) => name).join(', ');
    throw new InvalidRequest(`model '${spec.name}' has the inputs and outputs ${names}; give the inputs by their names`);
  }
  return { [first.name]: inputs };
}

/** The values as tensors of the specs' dtypes and shapes; `sizes` binds "batch" and "seq_len" and learns those unbound. */
export function conform(
  specs: readonly { name: string; dtype: string; shape: Axes }[],
  values: Named,
  sizes: Sizes,
): Tensors {
  checkNames(specs, values);
  return Object.fromEntries(
    specs.map(({ name, dtype, shape }) => [name, shaped(name, values[name] as Values, dtype, shape, sizes)]),
  );
}

/** Throws InvalidRequest where a name is missing or unknown. */
function checkNames(specs: readonly { name: string }[], values: Named): void {
  const names = specs.map(({ name }) => name);
  for (const field of Object.keys(values)) {
    if (names.includes(field)) continue;
    throw new InvalidRequest(`there is no '${field}', expected ${names.join(', ')}`, { metadata: { field } });
  }
  for (const field of names) {
    if (!(field in values)) throw new InvalidRequest(`'${field}' is needed and was not given`, { metadata: { field } });
  }
}

/** One value as a tensor. Throws DtypeMismatch, ShapeMismatch, EmptyTensor. */
function shaped(name: string, values: Values, dtype: string, axes: Axes, sizes: Sizes): Tensor {
  const data = convert(name, values, dtype as DType);
  if (data.length === 0) throw new EmptyTensor(`'${name}' is empty`, { metadata: { field: name } });
  const shape = values instanceof Tensor ? values.shape : unflattened(data.length, axes, sizes);
  const fits = shape.length === axes.length && axes.every((axis, i) => learn(axis, shape[i] as number, sizes) === shape[i]);
  if (fits && sizeOf(shape) === data.length) return new Tensor(data, shape, dtype as DType);
  const expected = `[${axes.map((axis) => (axis in sizes ? `${axis}=${sizeIn(axis, sizes)}` : axis)).join(', ')}]`;
  const got = values instanceof Tensor ? `shape [${shape.join(', ')}]` : `${data.length} numbers`;
  const metadata = { field: name, got: `[${shape.join(', ')}]`, expected };
  throw new ShapeMismatch(`'${name}' has ${got}, expected ${expected}`, { metadata });
}

/** The shape of `count` flat numbers, where at most one size is not known. */
function unflattened(count: number, axes: Axes, sizes: Sizes): number[] {
  const known = axes.map((axis) => sizeIn(axis, sizes));
  if (known.filter(Number.isNaN).length > 1) return [count];
  const rest = Math.max(1, Math.floor(count / sizeOf(known.filter((size) => !Number.isNaN(size)))));
  return known.map((size) => (Number.isNaN(size) ? rest : size));
}

function learn(axis: string, size: number, sizes: Sizes): number {
  if (axis === SEQ_LEN || axis === BATCH) sizes[axis] ??= size;
  return sizeIn(axis, sizes);
}

/** NaN where it is not known. */
function sizeIn(axis: string, sizes: Sizes): number {
  return axis === SEQ_LEN || axis === BATCH ? (sizes[axis] ?? Number.NaN) : Number(axis);
}
