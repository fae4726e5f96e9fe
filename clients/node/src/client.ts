/** The client of a statecell server. */
import { Connection } from './connection.js';
import { InvalidRequest, ModelNotFound, SessionGone } from './errors.js';
import type { Model } from './generated/statecell/v1/Model.js';
import type { ModelSpec } from './generated/statecell/v1/ModelSpec.js';
import type { Session as SessionInfo } from './generated/statecell/v1/Session.js';
import { conform, type Named, specOf, type Tensors } from './layout.js';
import { type Retry, retryOf } from './retry.js';
import { Session } from './session.js';
import type { Snapshot } from './snapshot.js';
import { pack, unpack } from './tensor.js';

export type { Model, ModelSpec, SessionInfo };

export interface SessionOptions {
  /** Empty: the newest. */
  version?: string;
  /** Rows that advance together; 1 unless given. */
  batch?: number;
  /** The initial state by name, `{ h_0, c_0 }`; without it the model's own. */
  state?: Named;
  /** Instead of a state: what `session.snapshot()` gave, which also says how many rows. */
  snapshot?: Snapshot;
  /** Outlives its server, where the server has a store. */
  durable?: boolean;
}

/**
 * Calls a statecell server, or several replicas that share a store.
 *
 *     const client = new Client('localhost:50051');
 *     const session = await client.session('charlm');
 *     const logits = await session.step(65);
 *
 * `addresses`: "host:port", or several of them. Nothing is connected before the first call. A call that meets a server which is
 * down or busy is repeated as `retry` says, a step with the same step_index, so that it is applied once; where no address ever
 * answered, ServerUnreachable comes at once.
 */
export class Client {
  readonly #connection: Connection;
  readonly #models = new Map<string, Model>();

  constructor(addresses: string | readonly string[], options: { retry?: Partial<Retry> } = {}) {
    this.#connection = new Connection(addresses, retryOf(options.retry ?? {}));
  }

  /** What the server has, every version. */
  async models(): Promise<Model[]> {
    return (await this.#connection.call('ListModels', {})).models;
  }

  /** One model, its newest version unless another is named. Throws ModelNotFound. */
  async model(name: string, version = ''): Promise<Model> {
    const { model } = await this.#connection.call('GetModel', { name, version });
    if (!model) throw new TypeError('GetModel gave no model');
    return model;
  }

  /** The server's sessions, all or those of one model. */
  async sessions(model = ''): Promise<SessionInfo[]> {
    const found: SessionInfo[] = [];
    for (let pageToken = ''; ; ) {
      const reply = await this.#connection.call('ListSessions', { model, pageToken });
      found.push(...reply.sessions);
      pageToken = reply.nextPageToken;
      if (!pageToken) return found;
    }
  }

  /**
   * One stateless call: `const { y } = await client.infer('lstm', { x, h_0, c_0 })`.
   *
   * Takes the model's inputs by name, in its own layout, of any seq_len and batch, and all of its initial states or none. Flat
   * numbers do where one size is to be found out; otherwise give a Tensor. Gives outputs and final states by name.
   */
  async infer(name: string, inputs: Named, version = ''): Promise<Tensors> {
    const model = await this.model(name, version);
    const { inputs: expected } = specOf(model);
    const states = statesOf(model);
    const specs = states.some((state) => state.name in inputs) ? [...expected, ...states] : expected;
    const tensors = Object.entries(conform(specs, inputs, {})).map(([name, tensor]) => pack(name, tensor));
    const { outputs } = await this.#connection.call('Infer', { model: name, version: model.version, inputs: tensors });
    return Object.fromEntries(outputs.map((output) => [output.name, unpack(output)]));
  }

  /**
   * A new session of `batch` rows, from the model's initial state, a `state` or a `snapshot`.
   *
   * Throws ModelNotFound, NotStreamable, SnapshotMismatch, StateBudgetExceeded, ShapeMismatch, DtypeMismatch.
   */
  async session(name: string, options: SessionOptions = {}): Promise<Session> {
    const { version = '', batch = 1, state, snapshot, durable = false } = options;
    if (state && snapshot) throw new InvalidRequest('a session starts from a state or from a snapshot, not from both');
    const given = state ? conform(statesOf(await this.#known(name, version)), state, { batch }) : {};
    const initialState = Object.entries(given).map(([name, tensor]) => pack(name, tensor));
    const route = this.#connection.nextRoute();
    const { session } = await this.#connection.call(
      'CreateSession',
      { model: name, version, batch: snapshot?.batch ?? batch, initialState, snapshot: snapshot?.message ?? null, durable },
      { route },
    );
    if (!session) throw new TypeError('CreateSession gave no session');
    const model = await this.#known(name, session.version);
    return new Session(this.#connection, route.ofSession(session.durable), model, session);
  }

  /**
   * A session that is there already, of this client or of another: `const session = await client.attach(id)`.
   *
   * With several addresses, a `durable` one may be answered by any of them. Throws SessionGone, ModelNotFound.
   */
  async attach(sessionId: string, { durable = false } = {}): Promise<Session> {
    const { route, snapshot } = await this.#find(sessionId);
    const { models } = await this.#connection.call('ListModels', {}, { route });
    const model = models.findLast(({ name, digest }) => name === snapshot.model && digest === snapshot.digest);
    if (!model) throw new ModelNotFound(`session ${sessionId} is of a '${snapshot.model}' that the server does not list any more`);
    const { batch, stepIndex } = snapshot;
    return new Session(this.#connection, route.ofSession(durable), model, { sessionId, batch, stepIndex, durable });
  }

  /** Closes the connections. Sessions that were not closed stay with the server until they expire. */
  close(): void {
    this.#connection.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** The model as it was last seen; its spec says how inputs are laid out. */
  async #known(name: string, version: string): Promise<Model> {
    const key = `${name}/${version}`;
    const model = this.#models.get(key) ?? (await this.model(name, version));
    if (version) this.#models.set(key, model);
    return model;
  }

  async #find(sessionId: string) {
    let gone: unknown;
    for (const route of this.#connection.routes()) {
      try {
        const { snapshot } = await this.#connection.call('GetState', { sessionId }, { route, sessionId });
        if (snapshot) return { route, snapshot };
      } catch (error) {
        if (!(error instanceof SessionGone)) throw error;
        gone = error;
      }
    }
    throw gone;
  }
}

const statesOf = (model: Model) => specOf(model).states.map(({ input, dtype, shape }) => ({ name: input, dtype, shape }));
