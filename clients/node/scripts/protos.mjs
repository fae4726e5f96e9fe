// Brings the .proto files into the package (protos/) and generates their TypeScript types (src/generated/).
import { execFileSync } from 'node:child_process';
import { cpSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const isProtoOrFolder = (path) => path.endsWith('.proto') || !path.split('/').pop().includes('.');

rmSync(`${root}/protos`, { recursive: true, force: true });
rmSync(`${root}/src/generated`, { recursive: true, force: true });
cpSync(`${root}/../../protos/statecell/v1`, `${root}/protos/statecell/v1`, { recursive: true, filter: isProtoOrFolder });
cpSync(`${root}/../protos/statecell/client`, `${root}/protos/statecell/client`, { recursive: true });
execFileSync(
  'proto-loader-gen-types',
  [
    ...['--longs=Number', '--enums=Number', '--defaults', '--grpcLib=@grpc/grpc-js'], // as src/wire.ts loads them
    ...['--inputTemplate=%sInput', '--outputTemplate=%s', '--targetFileExtension=.ts', '--importFileExtension=.js'],
    ...['--includeDirs=protos', '--outDir=src/generated'],
    ...['statecell/v1/inference.proto', 'statecell/client/rich_error.proto'],
  ],
  { cwd: root, stdio: ['ignore', 'ignore', 'inherit'] },
);
