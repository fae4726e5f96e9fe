/**
 * Step recurrent models on a statecell server as if they were local.
 *
 *     const client = new Client('localhost:50051');
 *     const session = await client.session('charlm');
 *     const logits = await session.step(65);
 */
export { Client, type Model, type ModelSpec, type SessionInfo, type SessionOptions } from './client.js';
export {
  DeadlineExceeded,
  Draining,
  DtypeMismatch,
  EmptyTensor,
  InputRefused,
  InternalError,
  InvalidRequest,
  ModelInUse,
  ModelNotFound,
  ModelRefused,
  NonFiniteInput,
  NotStreamable,
  QueueFull,
  ServerUnreachable,
  SessionContended,
  SessionEvicted,
  SessionExists,
  SessionExpired,
  SessionGone,
  SessionLost,
  SessionNotFound,
  ShapeMismatch,
  SnapshotMismatch,
  StateBudgetExceeded,
  StatecellError,
  StepInFlight,
  StepOutOfOrder,
  StepUnsettled,
  StoreFull,
  StoreUnavailable,
} from './errors.js';
export type { Named, Tensors } from './layout.js';
export type { Retry } from './retry.js';
export { Session } from './session.js';
export { Snapshot } from './snapshot.js';
export { type DType, Tensor, type TypedArray, type Values } from './tensor.js';
