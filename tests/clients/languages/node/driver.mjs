// Does what it is told on stdin through the Node client, and prints what came out (driver.py has the other end).
import { readFileSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { Client, Snapshot, StatecellError, Tensor } from '../../../../clients/node/dist/index.js';

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const sessions = new Map();
let client;

const numbers = (text) => (text ? text.split(',').map(Number) : []);
function value(text) {
  const [shape, flat] = text.includes(':') ? text.split(':') : [undefined, text];
  return shape === undefined ? numbers(flat) : new Tensor(new Float64Array(numbers(flat)), shape.split('x').filter(Boolean).map(Number));
}
function values(text) {
  if (!text.includes('=')) return value(text);
  return Object.fromEntries(text.split(';').map((item) => item.split('=')).map(([name, of]) => [name, value(of)]));
}
function show(answer) {
  const named = answer instanceof Tensor ? { '': answer } : answer;
  const one = ([name, { dtype, shape, data }]) =>
    `${name}:${dtype}:${shape.join('x')}:${Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('hex')}`;
  return Object.entries(named).map(one).join(';');
}
async function* inputs() {
  for (;;) {
    const { value: line, done } = await lines.next(); // no `for await`: its end would be that of stdin
    if (done || line === 'end') return;
    yield values(line);
  }
}

const commands = {
  connect(addresses, timeoutMs, silenceMs) {
    const retry = { timeoutMs: Number(timeoutMs), silenceMs: Number(silenceMs), firstPauseMs: 10, longestPauseMs: 50 };
    client = new Client(addresses.split(','), { retry });
  },
  async session(name, model, batch, durable, state) {
    const options = { batch: Number(batch), durable: durable === '1', ...(state && { state: values(state) }) };
    sessions.set(name, await client.session(model, options));
  },
  attach: async (name, id, durable) => void sessions.set(name, await client.attach(id, { durable: durable === '1' })),
  restore: async (name, model, file) =>
    void sessions.set(name, await client.session(model, { snapshot: Snapshot.fromBytes(readFileSync(file)) })),
  save: async (name, file) => writeFileSync(file, (await sessions.get(name).snapshot()).toBytes()),
  step: async (name, x) => show(await sessions.get(name).step(values(x))),
  run: async (name, xs) => show(await sessions.get(name).run(values(xs))),
  async stream(name) {
    console.log('ok');
    for await (const y of sessions.get(name).stream({ [Symbol.asyncIterator]: inputs })) console.log(`ok ${show(y)}`);
  },
  infer: async (model, x) => show(await client.infer(model, values(x))),
  state: async (name) => show(await sessions.get(name).state()),
  index: (name) => sessions.get(name).stepIndex,
  id: (name) => sessions.get(name).id,
  async fork(name, forks) {
    const names = forks.split(',');
    for (const [i, fork] of (await sessions.get(name).fork(names.length)).entries()) sessions.set(names[i], fork);
  },
  reset: async (name) => sessions.get(name).reset(),
  close: async (name) => sessions.get(name).close(),
  models: async () => (await client.models()).map(({ name }) => name).join(','),
  sessions: async (model) => (await client.sessions(model)).map(({ sessionId }) => sessionId).join(','),
};

for (let line = await lines.next(); !line.done; line = await lines.next()) {
  const [command, ...parts] = line.value.split(' ');
  try {
    console.log(`ok ${(await commands[command](...parts)) ?? ''}`);
  } catch (error) {
    if (!(error instanceof StatecellError)) throw error;
    console.log(`error ${error.name} ${error.reason} ${error.message.replaceAll('\n', ' ')}`);
  }
}
client.close();
