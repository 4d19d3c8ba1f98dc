// Freeze, renew, thaw, upload and exec with openapi-fetch and the types that openapi-typescript makes.
//
// walk.js URL TOKEN_FILE VM: ends with what it found out, as one line of JSON.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { argv } from "node:process";
import createClient from "openapi-fetch";
import type { components, paths } from "./gateway.js";

type Lease = components["schemas"]["Lease"];

const [url, tokenFile, id] = argv.slice(2) as [string, string, string];
const client = createClient<paths>({
  baseUrl: url,
  headers: { authorization: `Bearer ${readFileSync(tokenFile, "utf8").trim()}` },
});
const vm = { params: { path: { id } } };

/** The answer, or an end with the problem. */
function good<T>(result: { data?: T; error?: components["schemas"]["Problem"] }): T {
  if (result.data === undefined) assert.fail(JSON.stringify(result.error));
  return result.data;
}

const found = good(await client.GET("/vms/{id}", vm));
assert.equal(found.link.state, "ready" satisfies components["schemas"]["LinkState"]);

const body = { ttl_seconds: 30, label: "from TypeScript" };
const frozen = await client.POST("/vms/{id}/fsfreeze", { ...vm, body });
assert.equal(frozen.response.status, 201);
const lease = good(frozen) as Lease;
assert.equal(lease.state, "frozen");
assert.equal(lease.label, body.label);
const second = await client.POST("/vms/{id}/fsfreeze", { ...vm, body });
assert.equal(second.error?.code, "already_frozen");
const freeze = { params: { path: { lease: lease.id } } };
const renewed = good(await client.PATCH("/freezes/{lease}", { ...freeze, body: { ttl_seconds: 600 } }));
assert.ok(Date.parse(renewed.expires_at!) > Date.parse(lease.expires_at!));
const thawed = good(await client.DELETE("/freezes/{lease}", freeze));
assert.equal(thawed.state, "thawed");
assert.ok(thawed.verdict === "held" || thawed.verdict === "counts_agree", `${thawed.verdict}`);

const content = Uint8Array.from({ length: 256_000 }, (_, at) => at % 251);
const path = "/tmp/from typescript.bin";
const file = { params: { path: { id }, query: { path } } };
const put = await client.PUT("/vms/{id}/files/content", {
  ...file,
  body: "", // The type of a body of bytes is a string; what is sent is made here:
  bodySerializer: () => content,
  headers: { "content-type": "application/octet-stream" },
});
const upload = good(put);
assert.ok("size" in upload && upload.size === content.length);
const got = good(await client.GET("/vms/{id}/files/content", { ...file, parseAs: "arrayBuffer" }));
assert.deepEqual(new Uint8Array(got), content);

const ran = good(
  await client.POST("/vms/{id}/processes", {
    params: { path: { id }, query: { wait: 30 } },
    body: { argv: ["/bin/sh", "-c", "wc -c; exit 3"], stdin: "abc" },
  }),
);
assert.equal(ran.state, "exited");
assert.equal(ran.exit_code, 3);
assert.equal(ran.stdout?.text?.trim(), "3");
const nobody = await client.GET("/vms/{id}", { params: { path: { id: "nobody" } } });
assert.equal(nobody.error?.code, "vm_not_found");

console.log(JSON.stringify({ filesystems: lease.filesystems, verdict: thawed.verdict, file: path }));
