/** What a call can fail with: one class a reason, each says whose fault it is and what to do. */
import { Metadata, type ServiceError, status } from '@grpc/grpc-js';
import type { Duration } from './generated/google/protobuf/Duration.js';
import type { StepError } from './generated/statecell/v1/StepError.js';
import { errorInfo, retryInfo, richStatus } from './wire.js';

export interface ErrorDetails {
  reason?: string;
  code?: status;
  metadata?: Record<string, string>;
  retryMs?: number | undefined;
  settled?: boolean;
}

/**
 * Base of all that a call can fail with.
 *
 * `reason` is stable and the same in every client ("SHAPE_MISMATCH"); `metadata` names what came and what was expected; `code`
 * is gRPC's; `retryMs` is set where the same call may succeed later. Where `settled`, the call surely changed nothing;
 * otherwise its reply may have been lost on the way.
 */
export class StatecellError extends Error {
  readonly reason: string;
  readonly code: status;
  readonly metadata: Record<string, string>;
  readonly retryMs: number | undefined;
  settled: boolean;

  constructor(message: string, details: ErrorDetails = {}) {
    super(message);
    this.name = new.target.name;
    this.reason = details.reason ?? reasonOf(new.target);
    this.code = details.code ?? status.INVALID_ARGUMENT;
    this.metadata = details.metadata ?? {};
    this.retryMs = details.retryMs;
    this.settled = details.settled ?? true;
  }

  /** Whether the same call may succeed when it is sent again. */
  get mayPass(): boolean {
    return this.code === status.UNAVAILABLE || this.retryMs !== undefined;
  }
}

/** The caller's fault: the server has no such model or version. `client.models()` tells what it has. */
export class ModelNotFound extends StatecellError {}

/** The operator's fault: the model's files are not what a server can load. */
export class ModelRefused extends StatecellError {}

/** The caller's fault: a model cannot be unloaded while it has sessions. */
export class ModelInUse extends StatecellError {}

/** There is no such session any more. Create it again, from a snapshot if you have one. */
export class SessionGone extends StatecellError {}

/** The caller's fault: the session was never there, or was deleted. */
export class SessionNotFound extends SessionGone {}

/** Nobody's fault: the session was idle for longer than the server keeps one. */
export class SessionExpired extends SessionGone {}

/** Nobody's fault: the server needed the session's memory. A durable session is never evicted. */
export class SessionEvicted extends SessionGone {}

/** The server's fault: it was restarted. A durable session outlives that. */
export class SessionLost extends SessionGone {}

/** The caller's fault: somebody else steps the same session; `metadata` names the expected step_index. */
export class StepOutOfOrder extends StatecellError {}

/**
 * The outcome of the step before is not known: its reply was given up. Repeat that step with the same input, and it is applied
 * once; or read `session.state()` and go on from there.
 */
export class StepUnsettled extends StatecellError {}

/** The caller's fault: the step before was not awaited. One step of a session at a time. */
export class StepInFlight extends StatecellError {}

/** The caller's fault: an input or a field is missing, unknown, or contradicts another. */
export class InvalidRequest extends StatecellError {}

/** The caller's fault: a tensor's shape is not what the model's spec says. */
export class ShapeMismatch extends StatecellError {}

/** The caller's fault: a tensor's dtype is not what the model's spec says, and its numbers do not convert exactly. */
export class DtypeMismatch extends StatecellError {}

/** The caller's fault: a tensor has an axis of size 0. */
export class EmptyTensor extends StatecellError {}

/** The caller's fault: NaN or infinity in an input. */
export class NonFiniteInput extends StatecellError {}

/** The caller's fault as a rule: the model cannot be run on this input, such as a token beyond its vocabulary. */
export class InputRefused extends StatecellError {}

/** The model's nature: it has no sessions, because a run in pieces differs from the whole run. Use `client.infer`. */
export class NotStreamable extends StatecellError {}

/** The snapshot is damaged, or belongs to another model or another build of this one. */
export class SnapshotMismatch extends StatecellError {}

/** The caller's fault: the server asks for a token, and got none of its own. */
export class Unauthenticated extends StatecellError {}

/** The caller's fault: the call needs a role that the token does not have. */
export class PermissionDenied extends StatecellError {}

/** Nobody's fault: more steps wait than the server will queue, and did so until the client gave up. */
export class QueueFull extends StatecellError {}

/** Nobody's fault: the server's memory for states is taken. Close sessions, or give the server more. */
export class StateBudgetExceeded extends StatecellError {}

/** The store's fault: it did not answer, and did so until the client gave up. The same step may be sent again. */
export class StoreUnavailable extends StatecellError {}

/** The operator's fault: the store has no room for the state of a durable session. */
export class StoreFull extends StatecellError {}

/** Two servers are stepping the session, and this one lost the race until the client gave up. */
export class SessionContended extends StatecellError {}

/** The caller's fault: there is a live session of that id. */
export class SessionExists extends StatecellError {}

/** Nobody's fault: the server is about to stop. Name more than one address and another one serves. */
export class Draining extends StatecellError {}

/** No server answers at the address: it is not running, the address is wrong, or the network is down. */
export class ServerUnreachable extends StatecellError {}

/** The server's fault: a run failed for a reason that is not in its input. The server's log has it. */
export class InternalError extends StatecellError {}

/** The call took longer than `retry.timeoutMs`. Give it more, or ask for less at once. */
export class DeadlineExceeded extends StatecellError {}

const BY_REASON: Record<string, typeof StatecellError> = {
  MODEL_NOT_FOUND: ModelNotFound,
  MODEL_REFUSED: ModelRefused,
  MODEL_IN_USE: ModelInUse,
  SESSION_NOT_FOUND: SessionNotFound,
  SESSION_EXPIRED: SessionExpired,
  SESSION_EVICTED: SessionEvicted,
  SESSION_LOST: SessionLost,
  STEP_OUT_OF_ORDER: StepOutOfOrder,
  STEP_UNSETTLED: StepUnsettled,
  STEP_IN_FLIGHT: StepInFlight,
  INVALID_REQUEST: InvalidRequest,
  SHAPE_MISMATCH: ShapeMismatch,
  DTYPE_MISMATCH: DtypeMismatch,
  EMPTY_TENSOR: EmptyTensor,
  NON_FINITE_INPUT: NonFiniteInput,
  INPUT_REFUSED: InputRefused,
  NOT_STREAMABLE: NotStreamable,
  SNAPSHOT_MISMATCH: SnapshotMismatch,
  UNAUTHENTICATED: Unauthenticated,
  PERMISSION_DENIED: PermissionDenied,
  QUEUE_FULL: QueueFull,
  STATE_BUDGET_EXCEEDED: StateBudgetExceeded,
  STORE_UNAVAILABLE: StoreUnavailable,
  STORE_FULL: StoreFull,
  SESSION_CONTENDED: SessionContended,
  SESSION_EXISTS: SessionExists,
  DRAINING: Draining,
  UNAVAILABLE: ServerUnreachable,
  INTERNAL: InternalError,
  DEADLINE_EXCEEDED: DeadlineExceeded,
};

function reasonOf(kind: unknown): string {
  return Object.keys(BY_REASON).find((reason) => BY_REASON[reason] === kind) ?? 'UNKNOWN';
}

/** The error for a call that ended with an error status, from the google.rpc details where there are any. */
export function fromServiceError(error: ServiceError, address: string): StatecellError {
  const { code, details: message } = error;
  const info = detail(error, 'google.rpc.ErrorInfo');
  if (info) {
    const { reason, metadata } = errorInfo.deserialize(info);
    const retry = detail(error, 'google.rpc.RetryInfo');
    return build(code, reason, message, metadata, retry && retryInfo.deserialize(retry).retryDelay);
  }
  if (code === status.UNAVAILABLE) {
    const advice = 'start one there or correct the address';
    return new ServerUnreachable(`no statecell server answers at ${address} (${message}); ${advice}`, { code, settled: false });
  }
  const reason = status[code];
  const stranger = `what answers at ${address} is not a statecell server of this release (${message})`;
  const text = code === status.UNIMPLEMENTED ? stranger : message || reason;
  return new (BY_REASON[reason] ?? StatecellError)(text, { reason, code, settled: false });
}

/** The error for one session's failed step in a stream's reply. */
export function fromStepError(error: StepError): StatecellError {
  return build(error.code, error.reason, error.message, error.metadata, error.retryDelay);
}

function build(
  code: status,
  reason: string,
  message: string,
  metadata: Record<string, string>,
  delay: Duration | null | undefined,
): StatecellError {
  const retryMs = delay ? delay.seconds * 1e3 + delay.nanos / 1e6 : undefined;
  const settled = metadata.applied !== 'unknown'; // the server itself may not know whether its store has the step
  return new (BY_REASON[reason] ?? StatecellError)(message || reason, { reason, code, metadata, retryMs, settled });
}

function detail(error: ServiceError, type: string): Buffer | undefined {
  const [trailer] = (error.metadata ?? new Metadata()).get('grpc-status-details-bin');
  if (!Buffer.isBuffer(trailer)) return undefined;
  return richStatus.deserialize(trailer).details.find((each) => each.type_url.endsWith(`/${type}`))?.value;
}
