/** Calls over one or several addresses. */
import { setTimeout as pause } from 'node:timers/promises';
import { type ClientDuplexStream, Metadata, type requestCallback } from '@grpc/grpc-js';
import type { MethodDefinition } from '@grpc/proto-loader';
import { Endpoint } from './endpoint.js';
import { fromServiceError, ServerUnreachable, StatecellError } from './errors.js';
import type { InferenceServiceDefinition } from './generated/statecell/v1/InferenceService.js';
import type { StreamStepsRequestInput } from './generated/statecell/v1/StreamStepsRequest.js';
import type { StreamStepsResponse } from './generated/statecell/v1/StreamStepsResponse.js';
import { Attempts, type Retry, Route } from './retry.js';
import { service } from './wire.js';

type Rpcs = InferenceServiceDefinition;
type Unary = Exclude<keyof Rpcs, 'StreamSteps'>;
type Request<R extends Unary> = Parameters<Rpcs[R]['requestSerialize']>[0];
type Response<R extends Unary> = ReturnType<Rpcs[R]['responseDeserialize']>;
export type Duplex = ClientDuplexStream<StreamStepsRequestInput, StreamStepsResponse>;

export interface CallOptions {
  route?: Route;
  sessionId?: string;
  timeoutMs?: number;
}

export class Connection {
  readonly #route: Route;
  readonly #retry: Retry;
  readonly #endpoints = new Map<string, Endpoint>();
  #reached = false;

  constructor(addresses: string | readonly string[], retry: Retry) {
    const several = typeof addresses === 'string' ? [addresses] : [...addresses];
    if (several.length === 0 || several.includes('')) {
      throw new RangeError(`addresses are ${JSON.stringify(several)}, expected one or more such as 'localhost:50051'`);
    }
    this.#route = new Route(several, Math.floor(Math.random() * several.length)); // so that many clients spread
    this.#retry = retry;
  }

  /** Where to create the next session: the addresses take turns. */
  nextRoute(): Route {
    this.#route.next();
    return new Route(this.#route.addresses, this.#route.index);
  }

  /** To each of the addresses. */
  routes(): Route[] {
    return this.#route.addresses.map(() => this.nextRoute());
  }

  /** The reply, after as many attempts as it takes. Throws StatecellError. */
  async call<R extends Unary>(rpc: R, request: Request<R>, options: CallOptions = {}): Promise<Response<R>> {
    const { route = this.#route, sessionId, timeoutMs } = options;
    return this.repeat(route, (deadline) => this.#once(route.address, rpc, request, deadline, sessionId), timeoutMs);
  }

  /** What `attempt` gives, as often as it takes. */
  async repeat<T>(route: Route, attempt: (deadline: number) => Promise<T>, timeoutMs?: number): Promise<T> {
    const attempts = new Attempts(route, this.#retry, this.#reached, timeoutMs);
    for (;;) {
      try {
        const result = await attempt(attempts.deadline);
        this.#reached = true;
        return result;
      } catch (error) {
        if (!(error instanceof StatecellError)) throw error;
        this.#reached ||= !(error instanceof ServerUnreachable);
        await pause(attempts.failed(error));
      }
    }
  }

  async openStream(address: string, sessionId: string): Promise<Duplex> {
    const { path, requestSerialize, responseDeserialize } = service.StreamSteps;
    const client = await this.#endpoint(address).connected();
    return client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize, headers(sessionId));
  }

  close(): void {
    for (const endpoint of this.#endpoints.values()) endpoint.close();
  }

  #endpoint(address: string): Endpoint {
    const endpoint = this.#endpoints.get(address) ?? new Endpoint(address, this.#retry.silenceMs);
    this.#endpoints.set(address, endpoint);
    return endpoint;
  }

  async #once<R extends Unary>(address: string, rpc: R, request: Request<R>, deadline: number, id?: string): Promise<Response<R>> {
    const method = service[rpc] as unknown as MethodDefinition<Request<R>, Response<R>>;
    const { path, requestSerialize, responseDeserialize } = method;
    const client = await this.#endpoint(address).connected();
    return new Promise((resolve, reject) => {
      const answer: requestCallback<Response<R>> = (error, reply) =>
        error ? reject(fromServiceError(error, address)) : resolve(reply as Response<R>);
      client.makeUnaryRequest(path, requestSerialize, responseDeserialize, request, headers(id), { deadline }, answer);
    });
  }
}

/** Balancers may keep a session on its replica by this header; that is faster, not needed. */
function headers(sessionId?: string): Metadata {
  const metadata = new Metadata();
  if (sessionId) metadata.set('x-session-id', sessionId);
  return metadata;
}
