// Streams a sine through a session, step by step: node examples/stream.mjs localhost:50051 lstm
//
// The model takes 10 numbers a step, as the models of the tests do.
import { Client, StatecellError } from 'statecell-client';

const [address, model = 'lstm'] = process.argv.slice(2);
if (!address) {
  console.error('usage: node stream.mjs HOST:PORT [MODEL]');
  process.exit(2);
}

function* ticks() {
  for (let t = 0; t < 5; t++) yield new Float32Array(10).fill(Math.sin(0.1 * t));
}

const client = new Client(address);
try {
  const session = await client.session(model);
  for await (const y of session.stream(ticks())) {
    console.log(`step ${session.stepIndex}: y[0] = ${y.data[0].toFixed(6)}`);
  }
  const { h_0 } = await session.state();
  console.log(`h_0 has ${h_0.data.length} numbers`);
  await session.close();
} catch (error) {
  if (!(error instanceof StatecellError)) throw error;
  console.error(`${error.reason}: ${error.message}`);
  process.exitCode = 1;
} finally {
  client.close();
}
