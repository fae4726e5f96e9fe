/** Tensors: numbers with a dtype and a shape, here and on the wire. */
import { endianness } from 'node:os';
import { DtypeMismatch, ShapeMismatch } from './errors.js';
import { DataType } from './generated/statecell/v1/DataType.js';
import type { Tensor as WireTensor } from './generated/statecell/v1/Tensor.js';

const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  /** The bits of each number: JavaScript has no such array everywhere. */
  float16: Uint16Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int16: Int16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  /** 0 or 1. */
  bool: Uint8Array,
} as const;

/** NumPy's names. */
export type DType = keyof typeof ARRAYS;
export type TypedArray = InstanceType<(typeof ARRAYS)[DType]>;
/** A number, numbers in row-major order, or a Tensor where the shape is to be checked. */
export type Values = number | bigint | readonly number[] | readonly bigint[] | TypedArray | Tensor;

if (endianness() !== 'LE') throw new Error('statecell needs a little-endian machine: tensors travel as little-endian bytes');

/** `new Tensor(new Float32Array(6), [2, 3])`. The dtype is the array's own, unless given ("bool", "float16"). */
export class Tensor {
  readonly dtype: DType;

  constructor(
    readonly data: TypedArray,
    readonly shape: readonly number[] = [data.length],
    dtype?: DType,
  ) {
    this.dtype = dtype ?? dtypeOf(data);
    if (!(data instanceof ARRAYS[this.dtype])) {
      throw new DtypeMismatch(`a tensor of ${this.dtype} came as ${data.constructor.name}, expected ${ARRAYS[this.dtype].name}`);
    }
    if (sizeOf(shape) !== data.length) {
      throw new ShapeMismatch(`a tensor of shape [${shape}] came with ${data.length} numbers, expected ${sizeOf(shape)}`);
    }
  }

  /** The same numbers under another shape. */
  as(shape: readonly number[]): Tensor {
    return new Tensor(this.data, shape, this.dtype);
  }

  /** The part from `start` to before `stop` along an axis. */
  slice(axis: number, start: number, stop: number): Tensor {
    const length = this.shape[axis] as number;
    const inner = sizeOf(this.shape.slice(axis + 1));
    const shape = this.shape.with(axis, stop - start);
    const data = new ARRAYS[this.dtype](sizeOf(shape));
    for (let outer = 0, to = 0; to < data.length; outer++, to += (stop - start) * inner) {
      const from = outer * length * inner;
      data.set(this.data.subarray(from + start * inner, from + stop * inner) as never, to);
    }
    return new Tensor(data, shape, this.dtype);
  }

  /** Tensors of one dtype, one after the other along an axis. */
  static concat(tensors: readonly Tensor[], axis: number): Tensor {
    const first = tensors[0] as Tensor;
    if (tensors.length === 1) return first;
    const shape = first.shape.with(axis, tensors.reduce((sum, tensor) => sum + (tensor.shape[axis] as number), 0));
    const data = new ARRAYS[first.dtype](sizeOf(shape));
    for (let to = 0, outer = 0; to < data.length; outer++) {
      for (const tensor of tensors) {
        const part = sizeOf(tensor.shape.slice(axis));
        data.set(tensor.data.subarray(outer * part, (outer + 1) * part) as never, to);
        to += part;
      }
    }
    return new Tensor(data, shape, first.dtype);
  }
}

export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

function dtypeOf(data: TypedArray): DType {
  return (Object.keys(ARRAYS) as DType[]).find((dtype) => data instanceof ARRAYS[dtype]) as DType;
}

/** The numbers as an array of `dtype`. Throws DtypeMismatch where one of them cannot be held; floats are rounded. */
export function convert(name: string, values: Values, dtype: DType): TypedArray {
  const given = values instanceof Tensor ? values.data : values;
  const from = values instanceof Tensor ? values.dtype : ArrayBuffer.isView(given) ? dtypeOf(given) : undefined;
  if (from === dtype || given instanceof ARRAYS[dtype]) return given as TypedArray;
  if (dtype === 'float16' || from === 'float16') throw mismatch(name, from ?? 'number', dtype);
  const numbers = typeof given === 'object' ? given : [given];
  const data = new ARRAYS[dtype](numbers.length);
  for (let i = 0; i < data.length; i++) {
    const number = numbers[i] as number | bigint;
    if (dtype === 'int64') {
      if (typeof number === 'number' && !Number.isSafeInteger(number)) throw mismatch(name, `${number}`, dtype);
      data[i] = BigInt(number);
    } else {
      data[i] = Number(number);
      const exact = dtype.startsWith('float') || (data[i] === Number(number) && (dtype !== 'bool' || Number(number) <= 1));
      if (!exact) throw mismatch(name, `${number}`, dtype);
    }
  }
  return data;
}

function mismatch(name: string, got: string, expected: string): DtypeMismatch {
  return new DtypeMismatch(`'${name}' has ${got}, which ${expected} cannot hold`, { metadata: { field: name, got, expected } });
}

const CODES: Record<DType, DataType> = {
  float32: DataType.DATA_TYPE_FLOAT32,
  float64: DataType.DATA_TYPE_FLOAT64,
  float16: DataType.DATA_TYPE_FLOAT16,
  int64: DataType.DATA_TYPE_INT64,
  int32: DataType.DATA_TYPE_INT32,
  int16: DataType.DATA_TYPE_INT16,
  int8: DataType.DATA_TYPE_INT8,
  uint8: DataType.DATA_TYPE_UINT8,
  bool: DataType.DATA_TYPE_BOOL,
};

export function pack(name: string, tensor: Tensor): WireTensor {
  const { buffer, byteOffset, byteLength } = tensor.data;
  const data = Buffer.from(buffer, byteOffset, byteLength);
  return { name, dtype: CODES[tensor.dtype], shape: [...tensor.shape], data };
}

export function unpack(tensor: WireTensor): Tensor {
  const dtype = (Object.keys(CODES) as DType[]).find((each) => CODES[each] === tensor.dtype);
  if (dtype === undefined) throw new DtypeMismatch(`'${tensor.name}' came with dtype ${tensor.dtype}, which is not known here`);
  const bytes = new Uint8Array(tensor.data); // a copy: typed arrays must be aligned, messages are not
  return new Tensor(new ARRAYS[dtype](bytes.buffer), tensor.shape, dtype);
}
