/** A session: one recurrence whose state the server keeps. */
import type { CallOptions, Connection } from './connection.js';
import { SessionGone } from './errors.js';
import type { Model } from './generated/statecell/v1/Model.js';
import type { Session as WireSession } from './generated/statecell/v1/Session.js';
import type { Tensor as WireTensor } from './generated/statecell/v1/Tensor.js';
import { Layout, type Named, specOf, type Tensors } from './layout.js';
import { Progress } from './progress.js';
import type { Route } from './retry.js';
import { Snapshot } from './snapshot.js';
import { StepStream } from './step_stream.js';
import { pack, type Tensor, unpack, type Values } from './tensor.js';

/** Time steps that run sends in one message at most: the server keeps the last reply of each session. */
const MESSAGE_STEPS = 256;
const CLOSE_MS = 5000;

/**
 * One recurrence whose (h, c) the server keeps between calls.
 *
 *     const session = await client.session('charlm');
 *     for (const token of tokens) logits = await session.step(token);
 *     await session.close();
 *
 * A session takes one step at a time (StepInFlight): await it. A call that the server refuses leaves the state as it was. Steps
 * carry step_index, so what the client sends again after a lost reply is applied once.
 */
export class Session {
  readonly #connection: Connection;
  readonly #route: Route;
  readonly #layout: Layout;
  readonly #progress: Progress;
  /** Issued by the server; whoever knows it can step the session. */
  readonly id: string;
  /** Rows that advance together. */
  readonly batch: number;
  /** Whether the session outlives its server. */
  readonly durable: boolean;

  /** @internal `client.session(…)` makes them. */
  constructor(
    connection: Connection,
    route: Route,
    /** The model, in the version that the session started with. */
    readonly model: Model,
    session: Pick<WireSession, 'sessionId' | 'batch' | 'stepIndex' | 'durable'>,
  ) {
    this.#connection = connection;
    this.#route = route;
    this.#layout = new Layout(specOf(model), session.batch);
    this.#progress = new Progress(session.stepIndex);
    this.id = session.sessionId;
    this.batch = session.batch;
    this.durable = session.durable;
  }

  /** Time steps consumed so far. */
  get stepIndex(): number {
    return this.#progress.stepIndex;
  }

  /**
   * One time step: `y = await session.step(x)`.
   *
   * x are the numbers of one time step, [batch, input_size] in row-major order; for a model of ids one a row. y is [batch,
   * hidden_size], without batch where the session has one row. A model with several inputs or outputs takes and gives them by
   * name.
   *
   * Throws ShapeMismatch, DtypeMismatch, EmptyTensor, NonFiniteInput, InputRefused, InvalidRequest (the input), SessionGone
   * (the session), StepUnsettled, StepInFlight (the step before), QueueFull, ServerUnreachable, DeadlineExceeded (after all
   * repetitions).
   */
  step(x: Values): Promise<Tensor>;
  step(inputs: Named): Promise<Tensors>;
  async step(inputs: Values | Named): Promise<Tensor | Tensors> {
    const outputs = await this.#advance(this.#layout.step(inputs));
    return this.#layout.give(inputs, this.#layout.answer(outputs));
  }

  /**
   * Any number of time steps: `ys = await session.run(xs)`.
   *
   * xs and ys have the model's own layout, [seq_len, batch, input_size] or [batch, seq_len, input_size]. The answer is bit for
   * bit that of stepping, and much faster. Long sequences are sent in messages of up to 256 steps; where one of them fails for
   * good, the session stands behind the one before, and stepIndex tells where. Errors as of step.
   */
  run(xs: Values): Promise<Tensor>;
  run(inputs: Named): Promise<Tensors>;
  async run(inputs: Values | Named): Promise<Tensor | Tensors> {
    const outputs: Tensors[] = [];
    for (const piece of this.#layout.cut(this.#layout.run(inputs), MESSAGE_STEPS)) outputs.push(await this.#advance(piece));
    return this.#layout.give(inputs, this.#layout.join(outputs));
  }

  /**
   * An answer for each of the inputs, over one call: `for await (const y of session.stream(ticks))`.
   *
   * Each item is what step takes, and is pulled when the answer before it has been taken: it may depend on that answer. A
   * stream that breaks is reopened and goes on. Errors as of step.
   */
  stream(inputs: Iterable<Values> | AsyncIterable<Values>): AsyncGenerator<Tensor, void>;
  stream(inputs: Iterable<Named> | AsyncIterable<Named>): AsyncGenerator<Tensors, void>;
  async *stream(inputs: Iterable<Values | Named> | AsyncIterable<Values | Named>): AsyncGenerator<Tensor | Tensors, void> {
    const stream = new StepStream(this.#connection, this.#route, this.id);
    try {
      for await (const item of inputs) {
        const outputs = await this.#advance(this.#layout.step(item), stream);
        yield this.#layout.give(item, this.#layout.answer(outputs));
      }
    } finally {
      stream.close();
    }
  }

  /**
   * The states by the names of the state inputs, in the spec's order: `const { h_0, c_0 } = await session.state()`.
   *
   * Asks the server, and so learns where the session stands after a step whose outcome was not known.
   */
  async state(): Promise<Tensors> {
    return (await this.snapshot()).states;
  }

  /** The whole state, to go on from later or elsewhere: `client.session('charlm', { snapshot })`. */
  async snapshot(): Promise<Snapshot> {
    const { snapshot } = await this.#connection.call('GetState', { sessionId: this.id }, this.#options());
    if (!snapshot) throw new TypeError('GetState gave no snapshot');
    this.#progress.standsAt(snapshot.stepIndex);
    return new Snapshot(snapshot);
  }

  /** New sessions that go on from this one's state as it is now: `const [twin] = await session.fork()`. */
  async fork(count = 1): Promise<Session[]> {
    const { sessions } = await this.#connection.call('ForkSession', { sessionId: this.id, count }, this.#options());
    const route = (durable: boolean) => this.#route.ofSession(durable);
    return sessions.map((fork) => new Session(this.#connection, route(fork.durable), this.model, fork));
  }

  /** Back to the model's initial state and step_index 0. */
  async reset(): Promise<void> {
    await this.#connection.call('ResetSession', { sessionId: this.id }, this.#options());
    this.#progress.standsAt(0);
  }

  /** Deletes the session; one that is gone already is fine. */
  async close(): Promise<void> {
    try {
      await this.#connection.call('DeleteSession', { sessionId: this.id }, { ...this.#options(), timeoutMs: CLOSE_MS });
    } catch (error) {
      if (!(error instanceof SessionGone)) throw error;
    }
  }

  /** `await using session = await client.session('charlm')` closes it at the end of the block. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #options(): CallOptions & { route: Route } {
    return { route: this.#route, sessionId: this.id };
  }

  async #advance(tensors: Tensors, stream?: StepStream): Promise<Tensors> {
    const inputs: WireTensor[] = Object.entries(tensors).map(([name, tensor]) => pack(name, tensor));
    const { outputs } = await this.#progress.advance(inputs, () =>
      stream
        ? stream.step(inputs, this.stepIndex)
        : this.#connection.call('Step', { sessionId: this.id, inputs, stepIndex: this.stepIndex }, this.#options()),
    );
    return Object.fromEntries(outputs.map((output) => [output.name, unpack(output)]));
  }
}
