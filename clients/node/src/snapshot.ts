/** A session's state between two steps, whole and portable. */
import { SnapshotMismatch } from './errors.js';
import type { Snapshot as WireSnapshot } from './generated/statecell/v1/Snapshot.js';
import type { Tensors } from './layout.js';
import { unpack } from './tensor.js';
import { snapshotType } from './wire.js';

/**
 * What `session.snapshot()` gives and `client.session(model, { snapshot })` takes, there or on another server.
 *
 * It is bound to the artifact that it was taken from, and checksummed: the server refuses a wrong one with SnapshotMismatch.
 */
export class Snapshot {
  constructor(readonly message: WireSnapshot) {}

  get model(): string {
    return this.message.model;
  }

  /** SHA-256 of the artifact that the state belongs to, in hex. */
  get digest(): string {
    return this.message.digest;
  }

  get batch(): number {
    return this.message.batch;
  }

  /** Time steps consumed so far. */
  get stepIndex(): number {
    return this.message.stepIndex;
  }

  /** The states by the names of the state inputs ("h_0", "c_0"), in the spec's order. */
  get states(): Tensors {
    return Object.fromEntries(this.message.states.map((state) => [state.name, unpack(state)]));
  }

  /** For a file or a database: the serialised statecell.v1.Snapshot, which every client reads. */
  toBytes(): Buffer {
    return snapshotType.serialize(this.message);
  }

  /** The reverse of toBytes. Throws SnapshotMismatch where `bytes` are no snapshot. */
  static fromBytes(bytes: Buffer): Snapshot {
    let message: WireSnapshot;
    try {
      message = snapshotType.deserialize(bytes);
    } catch (cause) {
      throw new SnapshotMismatch(`${bytes.length} bytes are not a snapshot: ${cause}`);
    }
    if (message.format !== 1 || !message.model) {
      throw new SnapshotMismatch(`a snapshot of format ${message.format} came, this release reads format 1`);
    }
    return new Snapshot(message);
  }
}
