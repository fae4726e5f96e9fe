/** How far a session is, and whether that is known: what makes a repeated step count once. */
import { isDeepStrictEqual } from 'node:util';
import { status } from '@grpc/grpc-js';
import { StatecellError, StepInFlight, StepUnsettled } from './errors.js';
import type { Tensor as WireTensor } from './generated/statecell/v1/Tensor.js';

const code = status.FAILED_PRECONDITION;

/**
 * The step_index that the next step carries.
 *
 * While the outcome of a step is unknown, only the very same step may be sent: with that step_index the server would answer
 * another input with the stored reply of the first.
 */
export class Progress {
  #inFlight = false;
  #unsettled: readonly WireTensor[] | undefined;

  constructor(public stepIndex: number) {}

  /** Carries one step out. Throws StepInFlight, StepUnsettled, and what `send` throws. */
  async advance<T extends { stepIndex: number }>(inputs: readonly WireTensor[], send: () => Promise<T>): Promise<T> {
    this.#checkIdle();
    if (this.#unsettled && !isDeepStrictEqual(this.#unsettled, inputs)) {
      const advice = 'repeat it with the same input, or read session.state() and go on from there';
      throw new StepUnsettled(`whether the step at step_index ${this.stepIndex} was applied is not known: ${advice}`, { code });
    }
    this.#inFlight = true;
    this.#unsettled = inputs;
    try {
      const reply = await send();
      this.#unsettled = undefined;
      this.stepIndex = reply.stepIndex;
      return reply;
    } catch (error) {
      if (error instanceof StatecellError && error.settled) this.#unsettled = undefined;
      throw error;
    } finally {
      this.#inFlight = false;
    }
  }

  /** The server said where the session stands while no step was in flight. */
  standsAt(stepIndex: number): void {
    this.#checkIdle();
    this.#unsettled = undefined;
    this.stepIndex = stepIndex;
  }

  #checkIdle(): void {
    if (this.#inFlight) {
      throw new StepInFlight(`the step at step_index ${this.stepIndex} is still in flight; await it first`, { code });
    }
  }
}
