// @clickhouse/client against the server in PODTAP_TEST_CLICKHOUSE_URL, in the database named by the first argument.
// PODTAP_TEST_CLIENTS is the folder that install.sh made.
import { createRequire } from 'node:module';
import { Readable } from 'node:stream';
import { isDeepStrictEqual } from 'node:util';

const { ClickHouseLogLevel, createClient } = createRequire(process.env.PODTAP_TEST_CLIENTS + '/node/package.json')('@clickhouse/client');
const url = process.env.PODTAP_TEST_CLICKHOUSE_URL;
const database = process.argv[2];

function same(what, got, expected) {
  if (!isDeepStrictEqual(got, expected)) {
    console.error(`${what}: got ${JSON.stringify(got)}, expected ${JSON.stringify(expected)}`);
    process.exit(1);
  }
  console.log(`ok ${what}`);
}

async function fails(what, words, action) {
  let error;
  try {
    await action();
  } catch (caught) {
    error = caught;
  }
  const text = error ? `${error.code} ${error.type} ${error.message}` : 'no error';
  same(`${what} (${error ? 'an error' : 'none'})`, [Boolean(error), words.every((word) => text.includes(word)) || text], [true, true]);
}

// The errors below are meant; only what fails a check is printed.
const log = { level: ClickHouseLogLevel.OFF };
const admin = createClient({ url, log });
await admin.command({ query: `CREATE DATABASE ${database}` });
const client = createClient({ url, log, database });
const json = async (query, more = {}) => (await client.query({ query, format: 'JSONEachRow', ...more })).json();

same('ping', (await client.ping()).success, true);
await client.command({ query: 'CREATE TABLE t (id UInt32, name String) ENGINE = MergeTree ORDER BY id' });
await client.insert({ table: 't', values: [{ id: 1, name: "a'\\\n\t;" }], format: 'JSONEachRow' });
await client.insert({ table: 't', values: [[2, 'b']], format: 'JSONCompactEachRow' });
await client.insert({ table: 't', values: Readable.from(['3,"c;"\n4,', 'd\n'], { objectMode: false }), format: 'CSV' });
same('inserts in three formats', await json('SELECT * FROM t ORDER BY id'), [
  { id: 1, name: "a'\\\n\t;" }, { id: 2, name: 'b' }, { id: 3, name: 'c;' }, { id: 4, name: 'd' },
]);

for (const on of [false, true]) {
  const packed = createClient({ url, log, database, compression: { request: on, response: on } });
  await packed.command({ query: 'CREATE OR REPLACE TABLE many (n UInt32, s String) ENGINE = MergeTree ORDER BY n' });
  const values = Array.from({ length: 100_000 }, (_, n) => ({ n, s: `row ${n}` }));
  await packed.insert({ table: 'many', values, format: 'JSONEachRow' });
  const rows = await (await packed.query({ query: 'SELECT * FROM many ORDER BY n', format: 'JSONEachRow' })).json();
  same(`100000 rows there and back, compression ${on}`, [rows.length, rows[99_999]], [100_000, { n: 99_999, s: 'row 99999' }]);
  await packed.close();
}

same('parameters', await json('SELECT {n:UInt8} + 1 AS n, {s:String} AS s, {l:Array(String)} AS l', {
  query_params: { n: 41, s: "it's \\ \t ü", l: ["a'b", 'c'] },
}), [{ n: 42, s: "it's \\ \t ü", l: ["a'b", 'c'] }]);
same('settings of one query', await json("SELECT toUInt8(getSetting('max_threads')) AS n", { clickhouse_settings: { max_threads: 3 } }), [{ n: 3 }]);
const whole = await (await client.query({ query: 'SELECT number FROM numbers(3)', format: 'JSON' })).json();
same('a whole JSON document', [whole.rows, whole.data.length, whole.meta[0].name], [3, 3, 'number']);

await fails('unknown table', ['60', 'UNKNOWN_TABLE'], () => json('SELECT * FROM nowhere'));
await fails('unknown database', ['81', 'UNKNOWN_DATABASE'], () => createClient({ url, log, database: 'nowhere' }).command({ query: 'SELECT 1' }));
await fails('a row that does not parse', ['27'], () => client.insert({ table: 't', values: Readable.from(['x,y\n'], { objectMode: false }), format: 'CSV' }));
await fails('an error in the middle of a stream', ['395'], async () => {
  const result = await client.query({ query: "SELECT throwIf(number = 4000000), repeat('x', 20) FROM numbers(5000000)", format: 'JSONEachRow' });
  for await (const rows of result.stream()) rows.length;
});
same('the client works after it', await json('SELECT 1 AS one'), [{ one: 1 }]);

let ended = false;
const long = json('SELECT sleepEachRow(1) FROM numbers(3) SETTINGS max_block_size = 1').then(() => { ended = true; });
await new Promise((resolve) => setTimeout(resolve, 300));
const begun = performance.now();
await json('SELECT 1');
await client.insert({ table: 't', values: [{ id: 9, name: 'beside' }], format: 'JSONEachRow' });
same('a query and an insert beside a long query', [performance.now() - begun < 1000, ended], [true, false]);
await long;

let rows = 0;
const big = await client.query({ query: 'SELECT number, toString(number) AS s FROM numbers(1000000)', format: 'JSONCompactEachRow' });
for await (const chunk of big.stream()) rows += chunk.length;
same('a million rows', rows, 1_000_000);

// A client that goes away stops its query.
const gone = new AbortController();
const endless = client.query({ query: `SELECT count() FROM system.numbers /* ${database} endless */`, format: 'JSONEachRow', abort_signal: gone.signal });
setTimeout(() => gone.abort(), 300);
await endless.catch(() => {});
const running = `SELECT count() AS n FROM system.processes WHERE query LIKE '%${database} endless%' AND query NOT LIKE '%processes%'`;
let left = 1;
for (let attempt = 0; attempt < 100 && left > 0; attempt += 1) {
  left = Number((await json(running))[0].n);
  if (left > 0) await new Promise((resolve) => setTimeout(resolve, 100));
}
same('an aborted query ends', left, 0);
await admin.command({ query: `DROP DATABASE ${database}` });
await client.close();
await admin.close();
