/** One address: its channel, and whether anybody is there. */
import { type ChannelOptions, Client, connectivityState, credentials, status } from '@grpc/grpc-js';
import { ServerUnreachable } from './errors.js';

function channelOptions(silenceMs: number): ChannelOptions {
  return {
    'grpc.max_receive_message_length': -1,
    'grpc.max_send_message_length': -1,
    'grpc.keepalive_time_ms': Math.floor((silenceMs * 2) / 3),
    'grpc.keepalive_timeout_ms': Math.floor(silenceMs / 3),
    // A server that comes back is found within a second, not within gRPC's two minutes.
    'grpc.initial_reconnect_backoff_ms': 50,
    'grpc.max_reconnect_backoff_ms': 1000,
    // Retries are this package's: gRPC's own would not move on to another address.
    'grpc.enable_retries': 0,
    // Clients of one process do not share a connection: servers balance connections.
    'grpc.use_local_subchannel_pool': 1,
  };
}

export class Endpoint {
  #client: Client;
  /** Since when a connection has been tried. */
  #since = Date.now();

  constructor(
    readonly address: string,
    readonly silenceMs: number,
  ) {
    this.#client = this.#open();
  }

  /**
   * A client that is connected, or that will say at once why it is not.
   *
   * grpc-js waits without end for a peer that takes a connection and then says nothing. Here that ends after `silenceMs` with
   * ServerUnreachable, and a new connection is tried the next time.
   */
  async connected(): Promise<Client> {
    for (;;) {
      const channel = this.#client.getChannel();
      const state = channel.getConnectivityState(true);
      if (state === connectivityState.READY || state === connectivityState.IDLE) this.#since = Date.now();
      if (state === connectivityState.READY) return this.#client;
      const until = this.#since + this.silenceMs;
      if (Date.now() < until) {
        if (state === connectivityState.TRANSIENT_FAILURE) return this.#client;
        await new Promise((resolve) => channel.watchConnectivityState(state, until, resolve));
        continue;
      }
      this.close();
      this.#client = this.#open();
      this.#since = Date.now();
      if (state === connectivityState.CONNECTING) {
        const message = `nobody at ${this.address} has said a word in ${this.silenceMs} ms; see whether the server there is stuck`;
        throw new ServerUnreachable(message, { code: status.UNAVAILABLE });
      }
    }
  }

  close(): void {
    this.#client.close();
  }

  #open(): Client {
    return new Client(this.address, credentials.createInsecure(), channelOptions(this.silenceMs));
  }
}
