// Reads and writes topics for klatch's tests, by another client of Kafka than klatch's.
//
//   node oracle.mjs ADDRESSES COMMAND [ARGUMENTS]
//
//   create TOPIC PARTITIONS [NAME=VALUE ...]   with these properties
//   partitions TOPIC TOTAL                     adds partitions
//   delete TOPIC
//   delete-records TOPIC PARTITION:OFFSET ...  those before the offset; -1: all
//   ends TOPIC                                 a line per partition: first offset, and the one after the last
//   leaders TOPIC                              a line per partition: the node that leads it, and those that have all of it
//   allow TOPIC USER OPERATION ...             lets a user do this with it, as in READ
//   allow-group GROUP USER                     lets a user be a member of a group
//   forbid TOPIC USER                          takes all of that back
//   stable TOPIC                               a line per partition: up to where no transaction is open
//   dump TOPIC                                 a line per record, by partition and offset
//   follow TOPIC                               the same as it comes, without an end
//   produce TOPIC [gzip]                       records from stdin, a line each, sent at once; a line per record: where it is
//   write TOPIC                                lines "key TAB value" from stdin, each sent as it comes
//   transaction TOPIC commit|abort|leave       the same as produce, in a transaction that ends so, or is left open
//
// All lines are JSON. A record is {partition, offset, timestamp, key, headers: [[name, value], ...], value}; a key or value is null,
// a string, or {"base64": "..."} where its bytes are no UTF-8. To produce, all of it but the value may be left out.
import { createInterface } from "node:readline";
import kafkajs from "kafkajs";

const { AclOperationTypes, AclPermissionTypes, AclResourceTypes, CompressionTypes, Kafka, Partitioners, ResourcePatternTypes, logLevel } =
  kafkajs;
const READ_UNCOMMITTED = 0;
const [addresses, command, topic, ...args] = process.argv.slice(2);

const kafka = new Kafka({
  clientId: "oracle",
  brokers: addresses.split(","),
  retry: { initialRetryTime: 50, maxRetryTime: 500, retries: 60 },
  logLevel: logLevel.ERROR,
  logCreator: () => (entry) => process.stderr.write(`${entry.namespace}: ${entry.log.message} ${entry.log.error ?? ""}\n`),
});

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
function text(bytes) {
  if (bytes === null || bytes === undefined) return null;
  try {
    return utf8.decode(bytes);
  } catch {
    return { base64: bytes.toString("base64") };
  }
}
const bytes = (given) =>
  given === null || given === undefined ? null : Buffer.from(given.base64 ?? given, given.base64 === undefined ? "utf8" : "base64");

const print = (value) => process.stdout.write(JSON.stringify(value) + "\n");
// What kafkajs has as the end is where the first open transaction begins.
const numbers = (ends) =>
  ends.map((e) => ({ partition: e.partition, low: Number(e.low), stable: Number(e.high) })).sort((a, b) => a.partition - b.partition);

function line(partition, { offset, timestamp, key, headers, value }) {
  const pairs = Object.entries(headers ?? {}).flatMap(([name, values]) => [values].flat().map((v) => [name, text(v)]));
  return { partition, offset: Number(offset), timestamp: Number(timestamp), key: text(key), headers: pairs, value: text(value) };
}

async function admin(work) {
  const admin = kafka.admin();
  await admin.connect();
  try {
    return await work(admin);
  } finally {
    await admin.disconnect();
  }
}

// Leaders move, and nodes go and come: who only reads tries again a little later.
async function later(error) {
  if (!error.retriable && error.name !== "KafkaJSConnectionError") throw error;
  await new Promise((done) => setTimeout(done, 50));
}

async function endsOf(topic) {
  for (;;) {
    try {
      const ends = await admin(async (admin) => numbers(await admin.fetchTopicOffsets(topic)));
      const from = new Map(ends.map((e) => [e.partition, e.stable]));
      const cluster = await clusterOf();
      for (const [nodeId, mine] of Object.entries(cluster.findLeaderForPartitions(topic, [...from.keys()]))) {
        const answer = await fetch(cluster, nodeId, mine, from, 0);
        for (const { partition, highWatermark } of answer.responses.flatMap((r) => r.partitions)) {
          ends.find((e) => e.partition === partition).high = Number(highWatermark);
        }
      }
      await cluster.disconnect();
      return ends;
    } catch (error) {
      await later(error);
    }
  }
}

// Reads partitions from these positions, which it moves on; calls `seen` with each record. kafkajs's consumer is not used: it reads as
// a member of a group, and a group takes long to form and says little about where it is.
async function read(positions, seen, enough) {
  let cluster;
  while (!enough()) {
    try {
      cluster ??= await clusterOf();
      const leaders = Object.entries(cluster.findLeaderForPartitions(topic, [...positions.keys()]));
      for (const answer of await Promise.all(leaders.map(([nodeId, mine]) => fetch(cluster, nodeId, mine, positions)))) {
        for (const { partition, messages } of answer.responses.flatMap((r) => r.partitions)) {
          for (const message of messages.filter((m) => Number(m.offset) >= positions.get(partition))) {
            positions.set(partition, Number(message.offset) + 1);
            // What a transaction leaves to mark its end is no record.
            if (!message.isControlRecord) seen(line(partition, message));
          }
        }
      }
    } catch (error) {
      await later(error);
      await cluster?.refreshMetadata().catch(() => {});
    }
  }
  await cluster?.disconnect();
}

async function clusterOf() {
  const createCluster = Object.getOwnPropertySymbols(kafka).find((s) => s.description === "private:Kafka:createCluster");
  const cluster = kafka[createCluster]({ allowAutoTopicCreation: false });
  await cluster.connect();
  await cluster.addTargetTopic(topic);
  return cluster;
}

async function fetch(cluster, nodeId, partitions, positions, maxWaitTime = 5000) {
  const broker = await cluster.findBroker({ nodeId });
  const from = (partition) => ({ partition, fetchOffset: positions.get(partition), maxBytes: 1 << 20 });
  const topics = [{ topic, partitions: partitions.map(from) }];
  return broker.fetch({ isolationLevel: READ_UNCOMMITTED, minBytes: 1, maxBytes: 16 << 20, maxWaitTime, topics });
}

// Up to where each partition reached when it began.
async function dump() {
  const ends = await endsOf(topic);
  const left = new Map(ends.filter((e) => e.high > e.low).map((e) => [e.partition, e.high]));
  const positions = new Map(ends.filter((e) => e.high > e.low).map((e) => [e.partition, e.low]));
  const records = [];
  const enough = () => {
    for (const [partition, high] of left) if (positions.get(partition) >= high) left.delete(partition);
    for (const partition of positions.keys()) if (!left.has(partition)) positions.delete(partition);
    return left.size === 0;
  };
  const keep = (record) => record.offset < left.get(record.partition) && records.push(record);
  await read(positions, keep, enough);
  records.sort((a, b) => a.partition - b.partition || a.offset - b.offset).forEach(print);
}

async function follow() {
  const ends = await endsOf(topic);
  print({ following: topic });
  await read(new Map(ends.map((e) => [e.partition, e.low])), print, () => false);
}

const producerOf = (options) =>
  kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner, allowAutoTopicCreation: false, ...options });

async function given() {
  const messages = [];
  for await (const line of createInterface({ input: process.stdin })) {
    const { partition, timestamp, key, value, headers = [] } = JSON.parse(line);
    const byName = {};
    for (const [name, value] of headers) (byName[name] ??= []).push(bytes(value));
    messages.push({ partition, timestamp: timestamp?.toString(), key: bytes(key), value: bytes(value), headers: byName });
  }
  return messages;
}

async function produce() {
  const messages = await given();
  const producer = producerOf({});
  await producer.connect();
  // Each is a batch of its own, so that it can be said where each is.
  for (const message of messages) {
    const compression = args[0] === "gzip" ? CompressionTypes.GZIP : CompressionTypes.None;
    const [at] = await producer.send({ topic, messages: [message], acks: -1, compression });
    print({ partition: at.partition, offset: Number(at.baseOffset) });
  }
  await producer.disconnect();
}

async function write() {
  // New partitions are noticed soon.
  const producer = producerOf({ metadataMaxAge: 200 });
  await producer.connect();
  for await (const line of createInterface({ input: process.stdin })) {
    const [key, value] = line.split("\t");
    await producer.send({ topic, messages: [{ key, value }], acks: -1 });
  }
  await producer.disconnect();
}

async function transaction() {
  const messages = await given();
  const producer = producerOf({ transactionalId: `oracle-${process.pid}`, maxInFlightRequests: 1, idempotent: true });
  await producer.connect();
  const open = await producer.transaction();
  for (const message of messages) {
    const [at] = await open.send({ topic, messages: [message], acks: -1 });
    print({ partition: at.partition, offset: Number(at.baseOffset) });
  }
  // Whoever ends without a word leaves it to the cluster's patience.
  if (args[0] === "leave") process.exit(0);
  await (args[0] === "commit" ? open.commit() : open.abort());
  await producer.disconnect();
}

async function leaders() {
  const { topics } = await admin((a) => a.fetchTopicMetadata({ topics: [topic] }));
  topics[0].partitions
    .sort((a, b) => a.partitionId - b.partitionId)
    .forEach((p) => print({ partition: p.partitionId, leader: p.leader, in_sync: p.isr }));
}

const properties = (pairs) =>
  pairs.map((pair) => ({ name: pair.slice(0, pair.indexOf("=")), value: pair.slice(pair.indexOf("=") + 1) }));

// What a user may do with the topic.
const rule = (user, operation, resourceType = AclResourceTypes.TOPIC) => ({
  resourceType,
  resourceName: topic,
  resourcePatternType: ResourcePatternTypes.LITERAL,
  principal: `User:${user}`,
  host: "*",
  operation,
  permissionType: AclPermissionTypes.ALLOW,
});

const commands = {
  allow: () => {
    const [user, ...operations] = args;
    return admin((a) => a.createAcls({ acl: operations.map((operation) => rule(user, AclOperationTypes[operation])) }));
  },
  "allow-group": () => admin((a) => a.createAcls({ acl: [rule(args[0], AclOperationTypes.READ, AclResourceTypes.GROUP)] })),
  forbid: () => admin((a) => a.deleteAcls({ filters: [rule(args[0], AclOperationTypes.ANY)] })),
  create: () => {
    const [numPartitions, ...pairs] = args;
    const configEntries = properties(pairs);
    return admin((a) => a.createTopics({ waitForLeaders: true, topics: [{ topic, numPartitions: Number(numPartitions), configEntries }] }));
  },
  partitions: () => admin((a) => a.createPartitions({ topicPartitions: [{ topic, count: Number(args[0]) }] })),
  delete: () => admin((a) => a.deleteTopics({ topics: [topic] })),
  "delete-records": () => {
    const partitions = args.map((a) => a.split(":")).map(([partition, offset]) => ({ partition: Number(partition), offset }));
    return admin(async (a) => {
      // kafkajs looks for the leaders in what it has not asked for.
      await a.fetchTopicOffsets(topic);
      await a.deleteTopicRecords({ topic, partitions });
    });
  },
  ends: async () => (await endsOf(topic)).forEach(print),
  leaders,
  stable: async () => (await endsOf(topic)).forEach((e) => print({ partition: e.partition, offset: e.stable })),
  dump,
  follow,
  produce,
  write,
  transaction,
};

// A cluster that does not answer is no reason to wait for ever.
if (command !== "follow" && command !== "write") {
  setTimeout(() => {
    process.stderr.write("no end of it after two minutes\n");
    process.exit(1);
  }, 120_000).unref();
}
if (!commands[command]) throw new Error(`there is no command ${command}`);
await commands[command]();
