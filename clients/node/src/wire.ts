/** The .proto files of the package, loaded. */
import { fileURLToPath } from 'node:url';
import { loadSync, type MessageTypeDefinition } from '@grpc/proto-loader';
import type { ErrorInfo } from './generated/statecell/client/ErrorInfo.js';
import type { RetryInfo } from './generated/statecell/client/RetryInfo.js';
import type { RichStatus } from './generated/statecell/client/RichStatus.js';
import type { InferenceServiceDefinition } from './generated/statecell/v1/InferenceService.js';
import type { Snapshot, SnapshotInput } from './generated/statecell/v1/Snapshot.js';

const loaded = loadSync(['statecell/v1/inference.proto', 'statecell/client/rich_error.proto'], {
  longs: Number,
  enums: Number,
  defaults: true,
  includeDirs: [fileURLToPath(new URL('../protos', import.meta.url))],
});

const message = <I, O>(name: string) => loaded[name] as unknown as MessageTypeDefinition<I, O>;

/** The rpcs of statecell.v1.InferenceService: paths, serializers. */
export const service = loaded['statecell.v1.InferenceService'] as unknown as InferenceServiceDefinition;
export const snapshotType = message<SnapshotInput, Snapshot>('statecell.v1.Snapshot');
export const richStatus = message<never, RichStatus>('statecell.client.RichStatus');
export const errorInfo = message<never, ErrorInfo>('statecell.client.ErrorInfo');
export const retryInfo = message<never, RetryInfo>('statecell.client.RetryInfo');
