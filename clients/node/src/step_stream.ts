/** One session's StreamSteps call: a message in flight at a time; a broken stream is reopened and the message sent again. */
import { status } from '@grpc/grpc-js';
import type { Connection, Duplex } from './connection.js';
import { fromServiceError, fromStepError, ServerUnreachable, type StatecellError } from './errors.js';
import type { StreamStepsRequestInput } from './generated/statecell/v1/StreamStepsRequest.js';
import type { StreamStepsResponse } from './generated/statecell/v1/StreamStepsResponse.js';
import type { Tensor as WireTensor } from './generated/statecell/v1/Tensor.js';
import type { Route } from './retry.js';

/**
 * Never two messages in flight: the server keeps the last reply of a session, so that one message can be repeated after a lost
 * reply and is still applied once.
 */
export class StepStream {
  #exchange: Exchange | undefined;
  #count = 0;

  constructor(
    readonly connection: Connection,
    readonly route: Route,
    readonly sessionId: string,
  ) {}

  /** The reply to one step, after as many attempts as it takes. Throws StatecellError. */
  async step(inputs: WireTensor[], stepIndex: number): Promise<{ outputs: WireTensor[]; stepIndex: number }> {
    const request = { id: ++this.#count, sessionIds: [this.sessionId], inputs, stepIndexes: [stepIndex] };
    const { outputs, stepIndexes } = await this.connection.repeat(this.route, () => this.#attempt(request));
    return { outputs, stepIndex: stepIndexes[0] as number };
  }

  close(): void {
    this.#exchange?.cancel();
    this.#exchange = undefined;
  }

  async #attempt(request: StreamStepsRequestInput): Promise<StreamStepsResponse> {
    const { address } = this.route;
    this.#exchange ??= new Exchange(await this.connection.openStream(address, this.sessionId), address);
    let reply: StreamStepsResponse;
    try {
      reply = await this.#exchange.send(request);
    } catch (error) {
      this.close();
      throw error;
    }
    const [failure] = reply.errors;
    if (failure === undefined) return reply;
    if (failure.code === status.UNAVAILABLE) this.close(); // perhaps another address will do
    throw fromStepError(failure);
  }
}

/** An open call: a request, its reply, the next request. */
class Exchange {
  #waiting: { resolve: (reply: StreamStepsResponse) => void; reject: (error: StatecellError) => void } | undefined;
  #failure: StatecellError | undefined;

  constructor(
    readonly duplex: Duplex,
    address: string,
  ) {
    duplex.on('data', (reply: StreamStepsResponse) => this.#waiting?.resolve(reply));
    duplex.on('error', (error) => this.#fail(fromServiceError(error as never, address)));
    duplex.on('end', () => this.#fail(new ServerUnreachable(`the server at ${address} has ended the stream`, ENDED)));
  }

  send(request: StreamStepsRequestInput): Promise<StreamStepsResponse> {
    return new Promise((resolve, reject) => {
      if (this.#failure) return reject(this.#failure);
      this.#waiting = { resolve, reject };
      this.duplex.write(request);
    });
  }

  cancel(): void {
    this.duplex.cancel();
  }

  #fail(error: StatecellError): void {
    this.#failure ??= error;
    this.#waiting?.reject(this.#failure);
  }
}

const ENDED = { code: status.UNAVAILABLE, settled: false };
