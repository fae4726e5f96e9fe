/** When a call is sent again, where to, and after how long. */
import { status } from '@grpc/grpc-js';
import { DeadlineExceeded, ServerUnreachable, type StatecellError } from './errors.js';

/**
 * Calls that may pass when repeated are, until `timeoutMs` after they were first sent.
 *
 * Every step carries its step_index, so a repeated one is applied once. The pause before a repetition doubles from
 * `firstPauseMs` to `longestPauseMs`, or is what the server asks for; a random part keeps many clients from coming back at
 * once. A connection that gives no sign of life for `silenceMs` while a call waits for it counts as broken.
 */
export interface Retry {
  readonly timeoutMs: number;
  readonly firstPauseMs: number;
  readonly longestPauseMs: number;
  readonly silenceMs: number;
}

const DEFAULTS: Retry = { timeoutMs: 60_000, firstPauseMs: 20, longestPauseMs: 1000, silenceMs: 15_000 };

export function retryOf(given: Partial<Retry>): Retry {
  const retry = { ...DEFAULTS, ...given };
  if (!(retry.timeoutMs > 0 && retry.silenceMs > 0 && 0 < retry.firstPauseMs && retry.firstPauseMs <= retry.longestPauseMs)) {
    const expected = 'expected timeoutMs > 0, silenceMs > 0 and 0 < firstPauseMs <= longestPauseMs';
    throw new RangeError(`retry is ${JSON.stringify(retry)}, ${expected}`);
  }
  return retry;
}

/** Which of the addresses serves a call. A session in one server's memory is only there; a durable one moves. */
export class Route {
  constructor(
    readonly addresses: readonly string[],
    public index: number,
    readonly moves: (error: StatecellError) => boolean = () => true,
  ) {}

  get address(): string {
    return this.addresses[this.index] as string;
  }

  next(): void {
    this.index = (this.index + 1) % this.addresses.length;
  }

  /** The route of a session that is here. */
  ofSession(durable: boolean): Route {
    return new Route(this.addresses, this.index, (error) => durable && error.code === status.UNAVAILABLE);
  }
}

/** One call's attempts: `failed` decides what comes after each. */
export class Attempts {
  readonly #until: number;
  #failures = 0;
  #settled = true;
  #last: StatecellError | undefined;

  constructor(
    readonly route: Route,
    readonly retry: Retry,
    /** Whether any of the addresses ever answered: what never did is a wrong address, and is not waited for. */
    readonly reached: boolean,
    timeoutMs = retry.timeoutMs,
  ) {
    this.#until = Date.now() + timeoutMs;
  }

  /** When the attempts are over, in milliseconds since the epoch. */
  get deadline(): number {
    return this.#until;
  }

  /** Milliseconds to wait before the next attempt, at `route.address`; throws the error where there is to be none. */
  failed(error: StatecellError): number {
    this.#settled = error.settled = this.#settled && error.settled;
    if (this.#last && error instanceof DeadlineExceeded) {
      this.#last.settled = false;
      throw this.#last; // the time ran out in the middle of an attempt: what it went on is said
    }
    if (!error.mayPass) throw error;
    this.#last = error;
    this.#failures++;
    const { addresses, address } = this.route;
    const everywhere = this.#failures >= addresses.length;
    if (!this.reached && error instanceof ServerUnreachable && everywhere) throw error;
    if (this.route.moves(error)) this.route.next();
    const moved = this.route.address !== address;
    const pause = moved && !everywhere ? 0 : this.#pause(error);
    if (Date.now() + pause >= this.#until) throw error;
    return pause;
  }

  #pause(error: StatecellError): number {
    const { firstPauseMs, longestPauseMs } = this.retry;
    const pause = Math.min(firstPauseMs * 2 ** Math.min(this.#failures - 1, 30), longestPauseMs);
    return Math.max(pause * (0.5 + Math.random() / 2), error.retryMs ?? 0);
  }
}
