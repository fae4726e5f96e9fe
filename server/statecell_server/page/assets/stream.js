// What the page asks the server for. Sessions are named in bodies, never in paths.

const TOKEN = "statecell token";

// Kept by the browser for this tab alone, and sent with every request from then on.
export function use(token) { sessionStorage.setItem(TOKEN, token); }

function headers() {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function refused(answer) {
  if (answer.status === 401) document.dispatchEvent(new Event("locked"));
  let said;
  try { said = (await answer.json()).error; } catch { said = answer.statusText; }
  return new Error(said || `the server answered ${answer.status}`);
}

export async function ask(path, query = {}) {
  const answer = await fetch(`page/${path}?${new URLSearchParams(query)}`, { headers: headers() });
  if (!answer.ok) throw await refused(answer);
  return answer.json();
}

// Calls take(kind, content) for each event; returns when there are no more. Throws what went wrong.
export async function follow(path, body, signal, take) {
  const answer = await fetch(`page/${path}`, { method: "POST", body: JSON.stringify(body), headers: headers(), signal, cache: "no-store" });
  if (!answer.ok) throw await refused(answer);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const text of events) {
      const lines = Object.fromEntries(text.split("\n").map((line) => [line.split(": ", 1)[0], line.slice(line.indexOf(": ") + 2)]));
      if (lines.event) take(lines.event, JSON.parse(lines.data));
    }
  }
}

