// The part of the HTTP API that the rig's clients use, before a peer's own client library:
//   POST /v1/jobs, /v1/jobs/batch · GET /v1/jobs/{key} · POST /v1/queues/{name}/pause, /resume · GET /readiness
// A submission is answered with 201 only after the peer has said that it is stored, and with 503 when the peer has
// thrown: its outcome is then unknown, and the rig repeats it with the same key.

import http from 'node:http';

/**
 * Serves on loopback. `peer`: `submit(jobs)` resolves when all are stored, `state(key)` is a word or `undefined`, and
 * `pause(queue, paused)` where the peer can.
 */
export function serve(port, peer) {
  const server = http.createServer((request, response) => {
    handle(peer, request).then(
      ([status, body]) => answer(response, status, body),
      (error) => {
        console.error(`${request.method} ${request.url}: ${error.stack}`);
        answer(response, 503, { code: 'peer', detail: String(error.message) });
      },
    );
  });
  server.listen(port, '127.0.0.1');
}

function answer(response, status, body) {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
}

async function handle(peer, request) {
  const path = request.url.split('/').slice(1);
  const [what, name, verb] = path[0] === 'v1' ? path.slice(1) : path;
  if (request.method === 'GET' && what === 'readiness') {
    return [200, {}];
  }
  if (request.method === 'GET' && what === 'jobs') {
    const state = await peer.state(name);
    return state === undefined ? [404, { code: 'not_found' }] : [200, { id: name, state }];
  }
  const body = await read(request);
  if (request.method === 'POST' && what === 'jobs' && name === 'batch') {
    const jobs = body.jobs.map((job) => taken(job, job.tags[0]));
    await peer.submit(jobs);
    return [200, { results: jobs.map((job) => ({ id: job.key, state: 'ready' })) }];
  }
  if (request.method === 'POST' && what === 'jobs') {
    const job = taken(body, request.headers['idempotency-key']);
    await peer.submit([job]);
    return [201, { id: job.key, state: 'ready' }];
  }
  if (request.method === 'POST' && what === 'queues' && peer.pause) {
    await peer.pause(name, verb === 'pause');
    return [200, { applied: true }];
  }
  return [404, { code: 'not_found' }];
}

/** What the drivers take of a submission; times in ms. */
function taken(body, key) {
  const { kind, queue, payload, delay, retry } = body;
  return { key, kind, queue, payload, delay: parseInt(delay ?? '0', 10), retry: parseInt(retry.initial, 10) };
}

async function read(request) {
  const parts = [];
  for await (const part of request) {
    parts.push(part);
  }
  return parts.length === 0 ? {} : JSON.parse(Buffer.concat(parts).toString());
}
